"""A real program on a real (pseudo) terminal: type into it, read what a person would see."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

PATIENCE_S = 60
"""Longest wait for a text, seconds; reached only when it never comes."""


@dataclass
class Terminal:
    """What runs, and everything it has shown so far."""

    process: subprocess.Popen[bytes]
    master: int
    seen: str = ""

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def read_until(self, text: str) -> str:
        """Return what is shown from now on, up to ``text`` or the end of the program."""
        start, deadline = len(self.seen), time.monotonic() + PATIENCE_S
        while text not in self.seen[start:] and time.monotonic() < deadline:
            if not self._read(0.05) and self.process.poll() is not None:
                break
        return self.seen[start:]

    def wait(self) -> int:
        """Read to the end and return the exit status."""
        while self._read(0.05) or self.process.poll() is None:
            pass
        return self.process.wait()

    def _read(self, patience: float) -> bool:
        if not select.select([self.master], [], [], patience)[0]:
            return False
        try:
            data = os.read(self.master, 65536)
        except OSError:  # how Linux says that nobody has the other end any more
            return False
        self.seen += data.decode(errors="replace")
        return bool(data)


@contextmanager
def on_terminal(
    command: Sequence[object],
    *,
    cwd: Path,
    env: Mapping[str, str],
    stdin: bool = False,
    stdout: Path | None = None,
) -> Iterator[Terminal]:
    """Run ``command`` with stderr, and stdout unless it goes to a file, on a terminal.

    Args:
        command: Program and arguments.
        cwd: Where.
        env: Changes to the environment.
        stdin: Whether what is typed reaches it.
        stdout: File for its results.
    """
    master, slave = pty.openpty()
    output = slave if stdout is None else os.open(stdout, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    process = subprocess.Popen(
        [str(word) for word in command], cwd=cwd, env={**os.environ, **env},
        stdin=slave if stdin else subprocess.DEVNULL, stdout=output, stderr=slave,
        start_new_session=True,
    )  # fmt: skip
    for descriptor in {slave, output}:
        os.close(descriptor)
    try:
        yield Terminal(process, master)
    finally:
        process.kill()
        process.wait()
        os.close(master)
