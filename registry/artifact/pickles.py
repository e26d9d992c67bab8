"""Pickles that others published, read as plain data without running anything of them.

``_pickle_child`` does the reading, alone in a process: 256 MiB of memory, 10 s of computing, no
file to write, no other process, an empty environment. What it answers is not trusted either: it is
read as strict JSON of a known size, and whoever asked checks every value again.
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
from typing import TYPE_CHECKING, Any, Literal

from registry.artifact._torch_zip import pickle_in
from registry.digest import parse_json
from registry.errors import ArtifactNotFoundError, HostError, UnsafeFormatError
from registry.plainfile import read_plain

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE_LIMIT = 16 << 20
"""Most bytes of a file: the largest official one has 28,340."""
ANSWER_LIMIT = 64 << 20
"""Most bytes of an answer: arrays are in hex, twice their size."""
WALL_S = 30.0
"""Longest that an answer is waited for, seconds."""
GET_AGAIN = "Get the file again from where it was published, and compare its SHA-256."
"""Hint of every error about such a file."""

Layout = Literal["safelock", "indices"]
_CHILD = Path(__file__).with_name("_pickle_child.py")
_NOWHERE = Path(Path(__file__).anchor)


def read_foreign(path: Path) -> bytes:
    """Return the bytes of the file at ``path``, at most 16 MiB.

    Raises:
        ArtifactNotFoundError: there is nothing.
        UnsafeFormatError: it is no regular file, or larger.
        HostError: it cannot be read.
    """
    try:
        return read_plain(path, limit=FILE_LIMIT, hint=GET_AGAIN)
    except FileNotFoundError:
        raise ArtifactNotFoundError(
            f"expected a file to import at {path}, found none.",
            hint="Name the file: safelatch import FILE --out DIR",
        ) from None


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
            raise _no_limits(str(members["unlimited"])[:200])
        fact = str(members.get("refused", "expected an answer about it, got another"))[:500]
    elif status is None:
        fact = f"expected to be done in {WALL_S:g} s, got no answer"
    else:
        fact = f"expected an answer about it, its reader ended with status {status}"
    raise UnsafeFormatError(f"{what}: {fact}; nothing of it was executed.", hint=GET_AGAIN)


def _ask(data: bytes, layout: str, what: str) -> tuple[int | None, bytes]:
    """Return the exit status of the child (``None``: it was stopped) and what it printed."""
    if os.name != "posix" or not sys.executable:
        raise _no_limits(f"{sys.platform} without them")
    command = [sys.executable, "-I", "-S", "-B", str(_CHILD), layout]
    try:
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.seek(0)
            with subprocess.Popen(
                command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                env={}, cwd=_NOWHERE, start_new_session=True,
            ) as child, _ended(child) as stopped:  # fmt: skip
                answer = child.stdout.read(ANSWER_LIMIT + 1) if child.stdout else b""
                status = None if len(answer) > ANSWER_LIMIT else child.wait()
    except OSError as error:
        raise HostError(
            f"{what}: expected a process to read it in, got: {error.strerror}.",
            hint="Make room for another process and a small temporary file, then run this again.",
        ) from error
    return None if stopped.is_set() else status, b"" if stopped.is_set() else answer


@contextmanager
def _ended(child: subprocess.Popen[bytes]) -> Iterator[threading.Event]:
    """End ``child`` with all that it may have started, at the latest in ``WALL_S`` seconds.

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

    timer = threading.Timer(WALL_S, stop)
    timer.daemon = True
    timer.start()
    try:
        yield stopped
    finally:
        timer.cancel()
        end()


def _no_limits(got: str) -> HostError:
    return HostError(
        f"expected a system that limits the memory of a process, got {got}.",
        hint="Import the file on Linux; what is made there can be used everywhere.",
    )
