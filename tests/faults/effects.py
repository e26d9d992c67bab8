"""Every effect of an operation on one folder, counted, and a fault at any one of them.

An effect is a call that changes what another process can see (a file made, written, synced,
renamed, removed; a statement or a commit in a database), or that reads it. The calls of ``os``,
``io`` and ``sqlite3`` are wrapped; Python's own audit events show whether one was forgotten
(``Effects.missed``). SQLite's system calls are the business of ``test_faults_syscalls``.
"""

# pathlib makes the calls that are counted here
# ruff: noqa: PTH100, PTH101, PTH108, PTH109, PTH113, PTH115, PTH118, PTH202

from __future__ import annotations

import builtins
import errno
import io
import os
import re
import signal
import sqlite3
import sys
import threading
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from registry.digest import digest_bytes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Act = Callable[[], Any]

ERRORS = {
    "enospc": (errno.ENOSPC, "database or disk is full"),
    "eio": (errno.EIO, "disk I/O error"),
}
"""Faults that a disk reports: to a program, and in SQLite's words."""
_CHANGING = (
    "chmod", "link", "mkdir", "remove", "rename", "replace", "rmdir", "symlink", "truncate",
    "unlink", "utime",
)  # fmt: skip
LOOKING = ("listdir", "lstat", "scandir", "stat")
_CLOSE = "sql close"  # has no errors of its own
_RANDOM = re.compile(r"(?<=\.incoming-)[0-9a-f]+|(?<=\.receipt-)\w+|[0-9a-f]{60,}")


@dataclass(frozen=True)
class Fault:
    """What happens at which step; steps count from 1, step 0 never comes.

    Attributes:
        how: ``kill``, ``interrupt``, ``memory``, a key of ``ERRORS``; or what somebody else does to
            the file just before it is opened or read: ``vanish``, or ``cut`` to half its size.
        when: ``before`` the effect, ``after`` it, or ``torn``: half of the bytes are written.
    """

    step: int = 0
    how: str = "kill"
    when: str = "before"

    def strike(self, step: Step) -> None:
        """Let it happen at ``step``."""
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "interrupt":
            raise KeyboardInterrupt
        if self.how == "memory":
            raise MemoryError
        if self.how in {"vanish", "cut"}:
            disturb_file(step.path, self.how)
            return
        number, words = ERRORS[self.how]
        if step.name.startswith("sql "):
            raise sqlite3.OperationalError(words)
        raise OSError(number, os.strerror(number))


@dataclass(frozen=True)
class Step:
    """One effect.

    Attributes:
        name: What is done to what.
        changes: Whether another process may see something else after it.
        is_write: Whether it can be done by half.
        path: The file, where one is read.
        state: Digest of what a kill before it leaves on the disk; only where that is asked for.
    """

    name: str
    changes: bool
    is_write: bool = False
    path: str = ""
    state: str = ""


class Effects:
    """Counts the effects on ``root`` from ``install`` on, and lets the fault strike once.

    Args:
        root: The folder.
        fault: What happens when.
        watched: Part of it whose state is noted at every step that changes something.
    """

    def __init__(self, root: Path, fault: Fault, *, watched: Path | None = None) -> None:
        self._root = os.path.realpath(root)
        self._fault = fault
        self._watched = watched
        self._counting = threading.Lock()
        self._thread = threading.local()
        self.steps: list[Step] = []
        self.missed: list[str] = []

    def install(self) -> None:
        """Wrap the calls of this process, for good."""
        # What Python 3.10's pathlib calls, it has taken out of ``os`` when it was imported.
        accessor = getattr(sys.modules["pathlib"], "_NormalAccessor", None)
        for name in (*_CHANGING, *LOOKING):
            wrapped = self._on_path(name, getattr(os, name), changes=name in _CHANGING)
            setattr(os, name, wrapped)
            if hasattr(accessor, name):
                setattr(accessor, name, staticmethod(wrapped))
        os.open = self._os_open(os.open)
        os.fsync = self._on_descriptor("fsync", os.fsync, changes=True)
        os.preadv = self._on_descriptor("read", os.preadv, changes=False)
        io.FileIO = self._file_io(io.FileIO)
        io.open = builtins.open = self._io_open(io.open)
        if accessor is not None:
            accessor.open = staticmethod(io.open)
        sqlite3.connect = self._connect(sqlite3.connect)
        sys.addaudithook(self._audit)

    def document(self) -> dict[str, Any]:
        """Return what was seen, as JSON."""
        return {"steps": [asdict(step) for step in self.steps], "missed": self.missed}

    def _do(self, step: Step, act: Act, *, tear: Act | None = None) -> Any:
        """Count ``step`` and do it, unless the fault has it otherwise."""
        with self._counting:
            if self._watched is not None and step.changes:
                step = replace(step, state=self._quietly(lambda: state_of(self._watched)))
            self.steps.append(step)
            strikes = len(self.steps) == self._fault.step
        strikes = strikes and not (step.name == _CLOSE and self._fault.how in ERRORS)
        if strikes and self._fault.when != "after":
            if self._fault.when == "torn" and tear is not None:
                tear()
            self._quietly(lambda: self._fault.strike(step))
        try:
            return self._quietly(act)
        finally:
            if strikes and self._fault.when == "after":
                self._fault.strike(step)

    def _quietly(self, act: Act) -> Any:
        """Return what ``act`` returns; what it consists of is not counted."""
        self._thread.is_inside = True
        try:
            return act()
        finally:
            self._thread.is_inside = False

    def _place(self, path: Any, dir_fd: int | None = None) -> str | None:
        """Return ``path`` as it stands in the folder; ``None`` when it is not to be counted."""
        if getattr(self._thread, "is_inside", False):
            return None
        if isinstance(path, int):
            whole = os.readlink(f"/proc/self/fd/{path}")
        elif isinstance(path, str | bytes | os.PathLike):
            folder = os.getcwd() if dir_fd is None else os.readlink(f"/proc/self/fd/{dir_fd}")
            whole = os.path.normpath(os.path.join(folder, os.fsdecode(path)))
        else:
            return None
        if whole != self._root and not whole.startswith(self._root + os.sep):
            return None
        return _RANDOM.sub("*", whole.removeprefix(self._root))

    def _on_path(self, verb: str, real: Any, *, changes: bool) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            dir_fd = kwargs.get("dir_fd", kwargs.get("src_dir_fd"))
            paths = [arg for arg in args if isinstance(arg, str | bytes | os.PathLike)]
            places = [self._place(path, dir_fd) for path in paths]
            if not places or None in places:
                return real(*args, **kwargs)
            path = "" if changes else os.path.abspath(os.fsdecode(paths[0]))
            step = Step(f"{verb} {' '.join(map(str, places))}", changes, path=path)
            return self._do(step, lambda: real(*args, **kwargs))

        return call

    def _os_open(self, real: Any) -> Any:
        def call(path: Any, flags: int, *args: Any, **kwargs: Any) -> Any:
            place = self._place(path, kwargs.get("dir_fd"))
            if place is None:
                return real(path, flags, *args, **kwargs)
            changes = bool(flags & (os.O_CREAT | os.O_TRUNC))
            step = self._opening(path, place, changes=changes)
            return self._do(step, lambda: real(path, flags, *args, **kwargs))

        return call

    def _opening(self, path: Any, place: str, *, changes: bool) -> Step:
        if changes:
            return Step(f"create {place}", changes=True)
        return Step(f"open {place}", changes=False, path=os.path.abspath(os.fsdecode(path)))

    def _on_descriptor(self, verb: str, real: Any, *, changes: bool) -> Any:
        def call(descriptor: int, *args: Any) -> Any:
            place = self._place(descriptor)
            if place is None:
                return real(descriptor, *args)
            path = "" if changes else os.readlink(f"/proc/self/fd/{descriptor}")
            step = Step(f"{verb} {place}", changes, path=path)
            return self._do(step, lambda: real(descriptor, *args))

        return call

    def _file_io(self, real: Any) -> Any:
        effects = self

        class FileIO(real):
            def readinto(self, *args: Any) -> Any:
                return self._counted(super().readinto, args)

            def read(self, *args: Any) -> Any:
                return self._counted(super().read, args)

            def _counted(self, act: Any, args: Any) -> Any:
                place = effects._place(self.fileno())
                if place is None:
                    return act(*args)
                path = os.readlink(f"/proc/self/fd/{self.fileno()}")
                step = Step(f"read {place}", changes=False, path=path)
                return effects._do(step, lambda: act(*args))

        return FileIO

    def _io_open(self, real: Any) -> Any:
        def call(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            place = self._place(file)
            if place is None:
                return real(file, mode, *args, **kwargs)
            if isinstance(file, int):
                return _File(self, place, real(file, mode, *args, **kwargs))
            step = self._opening(file, place, changes=any(letter in mode for letter in "wax+"))
            return _File(self, place, self._do(step, lambda: real(file, mode, *args, **kwargs)))

        return call

    def _connect(self, real: Any) -> Any:
        effects = self

        class Cursor(sqlite3.Cursor):
            def execute(self, sql: str, *args: Any) -> Any:
                words = sql.split()[:3]
                changes = words[0] not in {"SELECT", "PRAGMA", "BEGIN"} or "journal_mode" in words
                self.connection.changes = changes or self.connection.changes
                step = Step(f"sql {' '.join(words)}", changes)
                return effects._do(step, lambda: super(Cursor, self).execute(sql, *args))

        class Connection(sqlite3.Connection):
            changes = False

            def cursor(self, *_: Any) -> Any:
                return super().cursor(Cursor)

            def execute(self, sql: str, *args: Any) -> Any:
                return self.cursor().execute(sql, *args)

            def commit(self) -> None:
                effects._do(
                    Step("sql COMMIT", self.changes and self.in_transaction), super().commit
                )
                self.changes = False

            def close(self) -> None:
                effects._do(Step(_CLOSE, changes=True), super().close)

        def call(*args: Any, **kwargs: Any) -> Any:
            step = Step("sql connect", changes=False)
            return effects._do(step, lambda: real(*args, factory=Connection, **kwargs))

        return call

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        """Note every change that Python reports and no wrapper is around."""
        if event == "open":
            is_change = bool((args[2] or 0) & (os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_RDWR))
        else:
            is_change = event.startswith("os.") and event.removeprefix("os.") in _CHANGING
        if is_change and not isinstance(args[0], int):
            place = self._place(args[0])
            if place is not None:
                self.missed.append(f"{event} {place}")


class _File:
    """An open file of the folder: every reading and writing is a step."""

    def __init__(self, effects: Effects, place: str, file: Any) -> None:
        self._effects, self._place, self._file = effects, place, file

    def write(self, data: Any) -> Any:
        def tear() -> None:
            self._file.write(data[: len(data) // 2])
            self._file.flush()

        step = Step(f"write {self._place}", changes=True, is_write=True)
        return self._effects._do(step, lambda: self._file.write(data), tear=tear)

    def read(self, *args: Any) -> Any:
        path = os.readlink(f"/proc/self/fd/{self._file.fileno()}")
        step = Step(f"read {self._place}", changes=False, path=path)
        return self._effects._do(step, lambda: self._file.read(*args))

    def __enter__(self) -> Any:
        self._file.__enter__()
        return self

    def __exit__(self, *details: object) -> Any:
        return self._file.__exit__(*details)

    def __iter__(self) -> Any:
        return iter(self._file)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def disturb_file(path: str, how: str) -> None:
    """Do to the file at ``path`` what another process might; a folder is left alone."""
    if os.path.isfile(path):
        if how == "vanish":
            os.unlink(path)
        else:
            os.chmod(path, 0o600)
            os.truncate(path, os.path.getsize(path) // 2)


def state_of(folder: Path) -> str:
    """Return a digest of every name and byte below ``folder``.

    SQLite's index file is left out: whoever opens the database after a crash makes it anew.
    """
    rows = []
    for path in sorted(folder.rglob("*")):
        if not path.name.endswith("-shm"):
            content = digest_bytes(path.read_bytes()) if path.is_file() else "folder"
            rows.append(f"{path} {content}")
    return digest_bytes("\n".join(rows).encode())
