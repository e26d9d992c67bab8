"""Pickles that others published, read as plain data without running anything of them.

``_pickle_child`` does the reading, alone in a process: 256 MiB of memory, 10 s of computing, no
file to write, no other process, an empty environment. What it answers is not trusted either: it is
read as strict JSON of a known size, and whoever asked checks every value again. Lists of indices,
which are hundreds of megabytes, pass such a process in pieces: ``index_pickles``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from registry.artifact._torch_zip import pickle_in
from registry.artifact.foreign_file import GET_AGAIN
from registry.digest import parse_json
from registry.errors import HostError, UnsafeFormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

ANSWER_LIMIT = 64 << 20
"""Most bytes of an answer: arrays are in hex, twice their size."""
WALL_S = 30.0
"""Longest that an answer is waited for, seconds."""

Layout = Literal["safelock"]
_CHILD = Path(__file__).with_name("_pickle_child.py")
_NOWHERE = Path(Path(__file__).anchor)


def unpickle_zip(data: bytes, layout: Layout, *, what: str) -> Any:
    """Return what the pickle in a torch.save zip says; see ``unpickle``."""
    return unpickle(pickle_in(data, what=what, hint=GET_AGAIN), layout, what=what)


def unpickle(data: bytes, layout: Layout, *, what: str) -> Any:
    """Return what the pickle ``data`` says, as JSON values; an array as ``dtype, shape, hex``.

    Args:
        data: The pickle.
        layout: What it must hold; see the functions of ``_pickle_child``.
        what: How to call it in an error.

    Raises:
        UnsafeFormatError: it is anything but plain data of this layout; nothing of it was run.
        HostError: no process with limits can be had here.
    """
    status, answer = _ask(data, layout, what)
    if answer:
        document = parse_json(
            answer, what=f"the answer about {what}", limit=ANSWER_LIMIT, hint=GET_AGAIN
        )
        members = document if isinstance(document, dict) else {}
        if set(members) == {"value"} and status == 0:
            return members["value"]
        if "unlimited" in members:
            raise no_limits(str(members["unlimited"])[:200])
        fact = str(members.get("refused", "expected an answer about it, got another"))[:500]
    elif status is None:
        fact = f"expected to be done in {WALL_S:g} s, got no answer"
    else:
        fact = f"expected an answer about it, its reader ended with status {status}"
    raise UnsafeFormatError(f"{what}: {fact}; nothing of it was executed.", hint=GET_AGAIN)


def _ask(data: bytes, layout: str, what: str) -> tuple[int | None, bytes]:
    """Return the exit status of the child (``None``: it was stopped) and what it printed."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        with reading(_CHILD, layout, stdin=file, wall_s=WALL_S, what=what) as (child, stopped):
            answer = child.stdout.read(ANSWER_LIMIT + 1) if child.stdout else b""
            status = None if len(answer) > ANSWER_LIMIT else child.wait()
    return None if stopped.is_set() else status, b"" if stopped.is_set() else answer


@contextmanager
def reading(
    script: Path, argument: str, *, stdin: IO[bytes] | int, wall_s: float, what: str
) -> Iterator[tuple[subprocess.Popen[bytes], threading.Event]]:
    """Run ``script`` alone, end it with all it started, and yield it and whether its time was up.

    Args:
        script: A reader, which sets limits for itself before it reads.
        argument: The one thing that it is told.
        stdin: What it reads, or ``subprocess.PIPE``.
        wall_s: Longest that it may run, seconds.
        what: How to call the file in an error.

    Raises:
        HostError: no process with limits can be had here.
    """
    if os.name != "posix" or not sys.executable:
        raise no_limits(f"{sys.platform} without them")
    command = [sys.executable, "-I", "-S", "-B", str(script), argument]
    try:
        with subprocess.Popen(
            command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={}, cwd=_NOWHERE, start_new_session=True,
        ) as child, _ended(child, wall_s) as stopped:  # fmt: skip
            yield child, stopped
    except OSError as error:
        raise HostError(
            f"{what}: expected a process to read it in, got: {error.strerror}.",
            hint="Make room for another process and a small temporary file, then run this again.",
        ) from error


@contextmanager
def _ended(child: subprocess.Popen[bytes], wall_s: float) -> Iterator[threading.Event]:
    """End ``child`` with all that it may have started, at the latest in ``wall_s`` seconds.

    Yields an event that is set when the time was up.
    """
    stopped = threading.Event()

    def end() -> None:
        if child.returncode is None:  # else its number may be somebody else's by now
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)

    def stop() -> None:
        stopped.set()
        end()

    timer = threading.Timer(wall_s, stop)
    timer.daemon = True
    timer.start()
    try:
        yield stopped
    finally:
        timer.cancel()
        end()


def no_limits(got: str) -> HostError:
    """Return the error about a system, or a process, that cannot be limited."""
    return HostError(
        f"expected a system that limits the memory of a process, got {got}.",
        hint="Import the file on Linux; what is made there can be used everywhere.",
    )
