"""What a remote is: a place of snapshots that others read, and that is changed whole or not at all.

A remote holds one line of artifacts:

    README.md, plots/sweep.png       for people; never read by this package
    line.json                        the signed line document
    versions/1.0.0/manifest.json     and the other files of this version's bundle

- A snapshot is named by its commit and never changes: a revision is resolved to one once.
- A change names the commit that it was made from, and is refused when that is no longer the newest.
- Nothing that comes from a remote is believed here: sizes are bounded before a byte is read, what
  the bytes are is for the signed documents to say.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

LINE, CARD = "line.json", "README.md"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]{0,127}")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """What a remote states about one file.

    Attributes:
        size: In bytes.
        sha256: 64 lower-case hex digits; ``None`` where it does not say.
    """

    size: int
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All files of a remote at one commit, of which none was read.

    Attributes:
        commit: 40 hex digits.
        files: Every file by its path.
    """

    commit: str
    files: Mapping[str, RemoteFile]


class Remote(Protocol):
    """A place where one line of artifacts is shared."""

    @property
    def url(self) -> str:
        """The reference that names it, without a version."""

    def snapshot(self, revision: str | None = None) -> Snapshot | None:
        """Return the files at a revision, the newest by default; ``None`` while there is nothing.

        Raises:
            RemoteError: it cannot be reached, refuses, has no such revision, or states nonsense.
        """

    def read(self, snapshot: Snapshot, path: str, *, limit: int) -> bytes:
        """Return the bytes of a file; they are kept nowhere.

        Raises:
            KeyError: there is no such file in ``snapshot``.
            UnsafeFormatError: it is longer than ``limit``.
            RemoteError: see ``snapshot``; or it is not what was stated.
        """

    def commit(self, files: Mapping[str, bytes], *, parent: str | None, message: str) -> str:
        """Add or replace ``files`` in one step and return the new commit.

        Args:
            files: Path to bytes; other files stay.
            parent: The commit this was made from; ``None`` where there was nothing.
            message: What was done, one line.

        Raises:
            RemoteMovedError: ``parent`` is no longer the newest commit; nothing was changed.
            RemoteError: see ``snapshot``.
        """

    def tag(self, name: str, commit: str) -> None:
        """Let ``name`` be a revision for ``commit``; one that is there already stays.

        Raises:
            RemoteError: see ``snapshot``.
        """


def version_path(version: str, name: str) -> str:
    """Return where a remote keeps a file of a version.

    Raises:
        ValueError: one of them cannot be part of a path.
    """
    for part in (version, name):
        if not _NAME.fullmatch(part) or ".." in part:
            raise ValueError(f"{part!r} cannot be part of a path")
    return f"versions/{version}/{name}"


def plot_path(name: str) -> str:
    """Return where a remote keeps an image of its card."""
    return f"plots/{name}.png"
