"""Content-addressed files: the bytes of bundles and base records, outside the database.

- A file is named by its BLAKE3 digest alone, ``ab/<64 hex>``; no name from a manifest or a row
  ever becomes a path.
- Writing: a temporary file in the same folder, fsync, mode 0444, rename, fsync of the folder. A
  reader sees the whole file or none.
- Reading: read once, hash, compare, hand out the bytes that were hashed.
- The database knows each blob's size; the bytes are put first, the row after them.
- Putting what is there already repairs a damaged copy and is otherwise free of effect.
"""

from __future__ import annotations

import datetime as dt
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import insert, select

from registry.digest import Digest, digest_bytes, parse_digest, require_digest
from registry.errors import REMAKE, CorruptStoreError, DigestMismatchError, StoreError
from registry.store.tables import blobs

if TYPE_CHECKING:
    from sqlalchemy import Connection

_REPAIR = (
    "Publish the same bundle again, which puts the file back: safelatch publish DIR --name NAME "
    f"--version VERSION. {REMAKE}"
)


class BlobStore:
    """The files below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, digest: str) -> Path:
        """Return where the bytes with this digest are, or would be.

        Raises:
            DigestMismatchError: the text is not a digest.
        """
        value = parse_digest(digest).removeprefix("blake3:")
        return self.folder / value[:2] / value

    def put(self, data: bytes) -> Digest:
        """Store ``data`` durably and return its digest.

        Raises:
            StoreError: the folder cannot be written.
        """
        digest = digest_bytes(data)
        path = self.path(digest)
        if not _holds(path, digest):
            try:
                _write(path, data)
            except OSError as error:
                if not _holds(path, digest):  # another process may have put the same bytes
                    raise StoreError(
                        f"expected to write {path}, got: {error.strerror}.",
                        hint="Name a folder that can be written: export SAFELATCH_BLOBS=/path",
                    ) from error
        return digest

    def get(self, digest: str, *, size: int, what: str) -> bytes:
        """Return the bytes that have this digest.

        Args:
            digest: Digest of the bytes.
            size: Their number, as it was stored; not one byte more is read than shows a change.
            what: How to call them in an error.

        Raises:
            CorruptStoreError: the file is not there.
            DigestMismatchError: the file holds other bytes.
            StoreError: the file cannot be read.
        """
        path = self.path(digest)
        try:
            with path.open("rb") as stream:
                data = stream.read(size + 1)
        except FileNotFoundError:
            raise CorruptStoreError(
                f"{what}: expected a file at {path}, found none.", hint=_REPAIR
            ) from None
        except OSError as error:
            raise StoreError(
                f"expected to read {path}, got: {error.strerror}.",
                hint="Allow reading there, or name another folder: export SAFELATCH_BLOBS=/path",
            ) from error
        require_digest(data, digest, what=f"{what} ({path})", hint=_REPAIR)
        return data


def remember(connection: Connection, digest: Digest, size: int) -> None:
    """Add the row of a stored blob unless it is there; the caller has put the bytes."""
    if connection.scalar(select(blobs.c.digest).where(blobs.c.digest == digest)) is None:
        now = dt.datetime.now(dt.timezone.utc)
        connection.execute(insert(blobs).values(digest=digest, size=size, created_at=now))


def stored_size(connection: Connection, digest: Digest) -> int:
    """Return the size that was stored with ``digest``.

    Raises:
        CorruptStoreError: no row knows it.
    """
    size = connection.scalar(select(blobs.c.size).where(blobs.c.digest == digest))
    if size is None:
        raise CorruptStoreError(f"expected a record of blob {digest}, found none.", hint=_REPAIR)
    return int(size)


def _holds(path: Path, digest: Digest) -> bool:
    try:
        require_digest(path.read_bytes(), digest, what=str(path), hint=_REPAIR)
    except (OSError, DigestMismatchError):
        return False
    return True


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=".incoming-", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o444)
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # a folder cannot be opened there; the rename is journaled
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
