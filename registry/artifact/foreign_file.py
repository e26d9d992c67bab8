"""A file that somebody else made, read once: what is hashed is what is parsed."""

from __future__ import annotations

import hashlib
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from registry.artifact.unbound import Source
from registry.digest import digest_pieces
from registry.errors import ArtifactNotFoundError, UnsafeFormatError
from registry.plainfile import SETTLE, open_plain, unreadable
from registry.wording import printable

if TYPE_CHECKING:
    import io
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from registry.digest import Digest

FILE_LIMIT = 16 << 20
"""Most bytes of a file that is read whole: the largest official one has 28,340."""
GET_AGAIN = "Get the file again from where it was published, and compare its SHA-256."
"""Hint of every error about such a file."""
_PIECE = 1 << 20


class ForeignFile:
    """A file to import.

    Attributes:
        name: Its name, as text that can be printed.
        size: Bytes, when it was opened.
    """

    def __init__(self, path: Path, file: io.FileIO) -> None:
        self._path, self._file = path, file
        self.name, self.size = printable(path.name)[:200], os.fstat(file.fileno()).st_size
        self._told: tuple[str, Digest] | None = None

    def whole(self) -> bytes:
        """Return its bytes, at most 16 MiB; see ``pass_on``."""
        pieces: list[bytes] = []
        self.pass_on(pieces.append, limit=FILE_LIMIT)
        return b"".join(pieces)

    def pass_on(self, write: Callable[[bytes], object], *, limit: int) -> None:
        """Give all its bytes to ``write``, in pieces of at most 1 MiB; that can be done once.

        Raises:
            UnsafeFormatError: it has more than ``limit`` bytes, or its size changed meanwhile.
            HostError: it cannot be read.
        """
        self.require_at_most(limit)
        sha256 = hashlib.sha256()

        def pieces() -> Iterator[bytes]:
            left = self.size
            while piece := self._read(min(_PIECE, left + 1)):
                left -= len(piece)
                if left < 0:
                    raise self._changed("more")
                sha256.update(piece)
                write(piece)
                yield piece
            if left:
                raise self._changed(f"{self.size - left:,}")

        digest = digest_pieces(pieces())
        self._told = (sha256.hexdigest(), digest)

    def require_at_most(self, limit: int) -> None:
        """Raise ``UnsafeFormatError`` if it has more than ``limit`` bytes."""
        if self.size > limit:
            raise UnsafeFormatError(
                f"{self.name}: expected at most {limit:,} bytes, got {self.size:,}.", hint=GET_AGAIN
            )

    def source(self, form: str) -> Source:
        """Return what file it is, once it was read to its end.

        Args:
            form: What was read.
        """
        if self._told is None:
            raise RuntimeError(f"{self.name} was not read")
        sha256, digest = self._told
        return Source(self.name, sha256, digest, self.size, form)

    def _read(self, size: int) -> bytes:
        try:
            return self._file.read(size) or b""
        except OSError as error:
            raise unreadable(self._path, error, hint=GET_AGAIN) from error

    def _changed(self, got: str) -> UnsafeFormatError:
        return UnsafeFormatError(
            f"{self.name}: expected {self.size:,} bytes as when it was opened, got {got}.",
            hint=SETTLE,
        )


@contextmanager
def opened(path: Path) -> Iterator[ForeignFile]:
    """Open the file at ``path``.

    Raises:
        ArtifactNotFoundError: there is nothing.
        UnsafeFormatError: it is no regular file.
        HostError: it cannot be read.
    """
    try:
        file = open_plain(path, hint=GET_AGAIN)
    except FileNotFoundError:
        raise ArtifactNotFoundError(
            f"expected a file to import at {path}, found none.",
            hint="Name the file: safelatch import FILE --out DIR",
        ) from None
    with file:
        yield ForeignFile(path, file)
