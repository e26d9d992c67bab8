"""Files and folders that we write, which appear whole or not at all and survive a power cut.

- Beside its place, under a hidden name, everything is written and synced; a rename shows it, and
  then the folder that holds the name is synced.
- Whatever ends the writing early takes the hidden name away, but for a kill. What a killed process
  left is taken away by the next that writes beside it, a day later: no writing lasts that long.
- Errors of the system leave as they are: the caller knows what the place is for.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    Piece = bytes | memoryview

INCOMING = ".incoming-"
"""How names begin that are still being written to."""

_OURS = re.compile(re.escape(INCOMING) + "[0-9a-f]{16}")
_LONGEST_WRITING_S = 24 * 3600
_CANNOT_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOTSUP)


def write_file(path: Path, data: bytes | Iterable[Piece], *, mode: int | None = None) -> None:
    """Write ``data`` to ``path``, in place of what is there; its folder is made if need be.

    Args:
        path: Where.
        data: All of it, or pieces of it one after the other, so that it need not be in memory.
        mode: Permissions; what the process gives new files by default.

    Raises:
        OSError: the system refuses; what was at ``path`` is there still, or ``data`` is.
    """
    make_folder(path.parent)
    staged = _incoming(path.parent)
    try:
        _write_synced(staged, data, mode)
        staged.replace(path)
    finally:
        with suppress(OSError):
            staged.unlink()
    sync_folder(path.parent)


def write_folder(folder: Path, files: Mapping[str, bytes | Iterable[Piece]]) -> None:
    """Write a new folder of ``files``, by name; an empty one may be there.

    Args:
        folder: Where.
        files: All bytes of each, or pieces of them one after the other, so that no file need be
            in memory; a name may be one in a folder below.

    Raises:
        OSError: the system refuses, or ``folder`` is there and not empty.
    """
    folder = folder.absolute()
    make_folder(folder.parent)
    staged = _incoming(folder.parent)
    try:
        staged.mkdir()
        for name, data in files.items():
            make_folder((staged / name).parent)
            _write_synced(staged / name, data)
        for below in sorted({(staged / name).parent for name in files} | {staged}):
            sync_folder(below)
        if os.name == "nt" and folder.exists():  # elsewhere a rename takes its place
            folder.rmdir()
        staged.rename(folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    sync_folder(folder.parent)


def make_folder(folder: Path) -> None:
    """Make ``folder`` and those above it, as far as they are not there, and sync their names."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the names in ``folder`` are on the disk, where a folder can be synced."""
    if os.name == "nt":  # a folder cannot be opened there; renames are journaled
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)


def _incoming(folder: Path) -> Path:
    """Return a new hidden name in ``folder``, where nothing old of a killed process is left."""
    oldest = time.time() - _LONGEST_WRITING_S
    with suppress(OSError):  # it does not disturb, and may be somebody else's
        for path in folder.glob(f"{INCOMING}*"):
            if _OURS.fullmatch(path.name) and path.lstat().st_mtime < oldest:
                _remove(path)
    return folder / f"{INCOMING}{secrets.token_hex(8)}"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _write_synced(path: Path, data: bytes | Iterable[Piece], mode: int | None = None) -> None:
    with path.open("xb") as file:  # never through a link that somebody put there
        if mode is not None:  # before there is anything in it to read
            path.chmod(mode)
        for piece in (data,) if isinstance(data, bytes) else data:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
