"""Files below one folder that others read and write too: a network drive, a stick.

- Of what others wrote only regular files of a bounded size are read, and no link is followed.
- What is written appears whole (``wholefile``): kept, under a name that its content decides, or
  claimed, where of several who want one name the first has it for good.
- A claim is a folder of one file, moved to its name: a system never moves a folder onto one that
  holds something, with or without hard links, and there is no moment at which the name is taken
  and its file is not there. Whoever is killed before that leaves nothing that others wait for.
- Whether a claim was won is seen by reading, not by what the system answered: the answer of a
  network drive gets lost, and its client asks again.
- The place is at fault, so every error is a ``RemoteError``.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from registry.errors import HostError, RemoteError, UnsafeFormatError
from registry.plainfile import read_plain
from registry.remote._commit import COPY_AGAIN
from registry.wholefile import sync_folder, write_file, write_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CLAIMED = "claim.json"
"""The one file of a claimed folder."""

_READ_ONLY = 0o444
_NO_ROOM = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG)
_MAY_NOT = (errno.EACCES, errno.EPERM, errno.EROFS)


class SharedFolder:
    """The files below one folder; places in it are given as parts of a path that were checked.

    Attributes:
        root: The folder; it need not be there.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def at(self, *parts: str) -> str:
        """Return the path of ``parts`` as it is shown."""
        return str(self.root.joinpath(*parts))

    def names(self, *parts: str) -> list[str]:
        """Return the sorted names in the folder at ``parts``; none when it is not there.

        Raises:
            RemoteError: it is no folder, is a link, or cannot be read.
        """
        with self._reaching(parts, "list"):
            try:
                return sorted(path.name for path in self._path(parts).iterdir())
            except FileNotFoundError:
                return []

    def read(self, *parts: str, limit: int) -> bytes | None:
        """Return the bytes of the file at ``parts``; ``None`` when there is nothing.

        Raises:
            RemoteError: it is larger than ``limit``, no regular file, a link, or cannot be read.
        """
        with self._reaching(parts, "read"):
            path = self._path(parts)
            try:
                return read_plain(path, limit=limit, hint=COPY_AGAIN, follow_links=False)
            except FileNotFoundError:
                return None
            except (UnsafeFormatError, HostError) as error:
                raise RemoteError(error.message, hint=error.hint) from error

    def keep(self, *parts: str, data: bytes) -> None:
        """Let the file at ``parts`` hold ``data``; what is there already is not written again.

        Other bytes are replaced: the name says which are right.

        Raises:
            RemoteError: it cannot be written, or what is there is a link or no file.
        """
        with self._reaching(parts, "write"):
            path = self._path(parts)
            if self._holds(path, data):
                sync_folder(path.parent)  # who wrote it may have been killed before that
                return
            try:
                write_file(path, data)
            except OSError:
                if not self._holds(path, data):  # nobody else wrote the same meanwhile
                    raise
            with suppress(OSError):  # against accidents; a stick has no owners to allow it
                path.chmod(_READ_ONLY)

    def claim(self, *parts: str, data: bytes) -> None:
        """Let the folder at ``parts`` hold ``data`` as its only file, unless it holds one.

        Which of them it holds is for the caller to read.

        Raises:
            RemoteError: it cannot be written, or what is there is a link or no folder.
        """
        with self._reaching(parts, "write"):
            path = self._path(parts)
            try:
                write_folder(path, {CLAIMED: data})
            except OSError:
                if not os.path.lexists(path / CLAIMED):
                    raise

    def _path(self, parts: tuple[str, ...]) -> Path:
        """Return the path of ``parts``, none of which is a link.

        Raises:
            OSError: the system does not let us see.
        """
        path = self.root
        for part in parts:
            path = path / part
            try:
                is_link = stat.S_ISLNK(path.lstat().st_mode)
            except FileNotFoundError:
                return self.root.joinpath(*parts)
            if is_link:
                raise RemoteError(
                    f"{path}: expected no link in a remote, got one.",
                    hint=f"Make a copy without links: cp -rL {self.root} DIR",
                )
        return path

    @staticmethod
    def _holds(path: Path, data: bytes) -> bool:
        try:
            return data == read_plain(path, limit=len(data), hint=COPY_AGAIN, follow_links=False)
        except (FileNotFoundError, UnsafeFormatError, HostError):
            return False

    @contextmanager
    def _reaching(self, parts: tuple[str, ...], verb: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            path = self.root.joinpath(*parts)
            if error.errno in _NO_ROOM:
                hint = "Make room there, then run the same again."
            elif error.errno in _MAY_NOT:
                hint = (
                    f"Allow {'writing' if verb == 'write' else 'reading'} there, or name "
                    "another folder."
                )
            elif error.errno == errno.ENOTDIR:
                hint = "Name a folder that is a remote, or a new one."
            else:
                hint = "See whether the drive is there and works, then run the same again."
            raise RemoteError(
                f"expected to {verb} {path}, got: {error.strerror or type(error).__name__}.",
                hint=hint,
            ) from error
