"""A process that has done everything once and forks for each thing that is to be tried.

Spoken to in lines of JSON: ``{"call": name, "with": arguments, "strace": options or null}`` goes in,
``{"signal": number or null, "result": any}`` comes out. It has one thread, so that forking is safe.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
LIMIT_S = 60
"""Longest that one call may take; then it counts as hung and is ended by SIGALRM."""


class Server:
    """The server, from outside.

    Args:
        folder: The laboratory.
        runs_models: Whether it has run models, and made the laboratory: then every fork copies the
            tables of a large process. Otherwise it finds a laboratory, and is quick.
    """

    def __init__(self, folder: Path, *, runs_models: bool) -> None:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
        }
        name = "models" if runs_models else "files"
        self._log = folder / f"{name}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "faults.server", str(folder), name], stderr=log, text=True,
                env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
        self._reply()

    def call(
        self, name: str, *, strace: list[str] | None = None, **arguments: Any
    ) -> tuple[int | None, Any]:
        """Return the signal that ended the call, and its result."""
        request = {"call": name, "with": arguments, "strace": strace}
        print(json.dumps(request, default=str), file=self._process.stdin, flush=True)
        answer = self._reply()
        return answer["signal"], answer["result"]

    def close(self) -> None:
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(timeout=LIMIT_S)

    def _reply(self) -> Any:
        line = self._process.stdout.readline()
        if not line:
            self.close()
            raise RuntimeError(f"the server is gone:\n{self._log.read_text()}")
        return json.loads(line)


def serve(folder: Path, name: str) -> None:
    """Do operations of every kind once, then answer until told to end."""
    from faults import operations

    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    if name == "models":
        operations.build(folder / "seed")  # which extracts and calibrates
        operations.warm(folder / "seed", folder / "warm", "load")
    else:
        for operation, details in operations.OPERATIONS.items():
            if not details.runs_model:
                operations.warm(folder / "seed", folder / "warm", operation)
    gc.freeze()  # what is never collected is never copied into a child
    print("{}", file=replies, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        arguments = {
            key: Path(value) if key == "world" else value for key, value in request["with"].items()
        }
        with tempfile.NamedTemporaryFile() as answer:
            function, strace = getattr(operations, request["call"]), request["strace"]
            child = os.fork()
            if child == 0:
                _answer(function, arguments, answer.name, waits=strace is not None)
            status = os.waitpid(child, 0)[1] if strace is None else _traced(child, strace)
            text = Path(answer.name).read_text("utf-8")
        ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        reply = {"signal": ended, "result": json.loads(text or "null")}
        print(json.dumps(reply), file=replies, flush=True)


def _answer(function: Any, arguments: dict[str, Any], place: str, *, waits: bool) -> None:
    descriptor = os.open(place, os.O_WRONLY)
    if waits:
        os.kill(os.getpid(), signal.SIGSTOP)
    try:
        signal.alarm(LIMIT_S)
        text = json.dumps(function(**arguments))
    except BaseException as error:  # noqa: BLE001 -- told to who asked
        traceback.print_exc()
        text = json.dumps({"raised": repr(error)})
    os.write(descriptor, text.encode())
    os._exit(0)


def _traced(child: int, options: list[str]) -> int:
    """Let ``child``, which waits for it, go on under strace; return how it ended."""
    os.waitpid(child, os.WUNTRACED)
    with subprocess.Popen(["strace", "-q", "-p", str(child), *options]) as tracer:
        while "TracerPid:\t0\n" in Path(f"/proc/{child}/status").read_text("utf-8"):
            if tracer.poll() is not None:
                os.kill(child, signal.SIGKILL)
                break
            time.sleep(0.001)
        os.kill(child, signal.SIGCONT)
        return os.waitpid(child, 0)[1]


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2])
