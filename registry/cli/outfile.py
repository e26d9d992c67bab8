"""The file of ``--out``: whether it can be written, and written whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from registry.errors import HostError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def require_place(path: Path | None) -> None:
    """Check, before long work, that a result can be written to ``path``.

    Raises:
        HostError: its folder is not there or cannot be written.
    """
    if path is None:
        return
    places = [path] if path.exists() else []
    if not _is_device(path):
        places.append(path.resolve().parent)
    if not all(os.access(place, os.W_OK) for place in places):
        raise _unwritable(path, "no such folder, or no right to write there")


def write_out(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, whole or not at all; a link stays, and so do its file's rights.

    Raises:
        HostError: the system refuses; what was there is there still.
    """
    from registry.wholefile import write_file

    try:
        if _is_device(path):
            path.write_bytes(data)
        else:
            mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else None
            write_file(path.resolve(), data, mode=mode)
    except OSError as error:
        is_full = error.errno in _NO_ROOM
        raise _unwritable(path, error.strerror, is_full=is_full) from error


def _is_device(path: Path) -> bool:
    """Return whether ``path`` is there and is a pipe, a terminal or the like: never replaced."""
    return path.exists() and not path.is_file()


def _unwritable(path: Path, reason: str | None, *, is_full: bool = False) -> HostError:
    from registry.errors import HostError

    hint = "Name a file in a folder that exists and can be written: --out FILE"
    if is_full:
        hint = "Make room there, or name a file on another disk: --out FILE"
    return HostError(f"expected to write {path}, got: {reason}.", hint=hint)
