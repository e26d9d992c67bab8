"""A disk of a few pages: a tmpfs in a namespace of this process, which nobody else sees."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

PAGE = 4096
_NEW_MOUNTS, _NEW_USER = 0x00020000, 0x10000000
_REMOUNT, _RECURSIVE, _PRIVATE = 0x20, 0x4000, 0x40000


class SmallDisk:
    """A tmpfs over a folder; it goes with the process.

    Raises:
        OSError: this process may not mount, not even as the root of a namespace of its own.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._libc = ctypes.CDLL(None, use_errno=True)
        user, group = os.geteuid(), os.getegid()
        if user == 0:
            self._call("unshare", _NEW_MOUNTS)
        else:
            self._call("unshare", _NEW_MOUNTS | _NEW_USER)
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {user} 1")
            Path("/proc/self/gid_map").write_text(f"0 {group} 1")
        self._call("mount", b"none", b"/", None, _RECURSIVE | _PRIVATE, None)
        self._mount(0, "size=64m,nr_inodes=10000")

    def leave(self, *, pages: int, names: int) -> None:
        """Make the disk so small that just this many pages and names are free."""
        found = os.statvfs(self._folder)
        used = (found.f_blocks - found.f_bfree, found.f_files - found.f_ffree)
        self._mount(_REMOUNT, f"size={(used[0] + pages) * PAGE},nr_inodes={used[1] + names}")

    def _mount(self, flags: int, options: str) -> None:
        self._call("mount", b"none", bytes(self._folder), b"tmpfs", flags, options.encode())

    def _call(self, name: str, *arguments: object) -> None:
        if getattr(self._libc, name)(*arguments):
            number = ctypes.get_errno()
            raise OSError(number, f"{name}: {os.strerror(number)}")
