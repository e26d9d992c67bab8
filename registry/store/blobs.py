"""Content-addressed files: the bytes of bundles and base records, outside the database.

- A file is named by its BLAKE3 digest alone, ``ab/<64 hex>``; no name from a manifest or a row
  ever becomes a path.
- A file appears whole (``wholefile``) and read-only. It and its name are on the disk before ``put``
  returns, whoever wrote it.
- Reading: read once, hash, compare, hand out the bytes that were hashed.
- The database knows each blob's size; the bytes are put first, the row after them.
- Putting what is there already repairs a damaged copy and is otherwise free of effect.
- Each registry that puts files into a folder leaves a note of itself there, so that ``garbage``
  does not take the files of one for leftovers of another.
"""

from __future__ import annotations

import datetime as dt
import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import insert, select

from registry.digest import Digest, digest_bytes, parse_digest, require_digest
from registry.errors import CorruptStoreError, DigestMismatchError, StoreError
from registry.store.tables import blobs
from registry.wholefile import sync_folder, write_file
from registry.wording import REMAKE

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Connection

_REPAIR = (
    "Publish the same bundle again, which puts the file back: safelatch publish DIR --name NAME "
    f"--version VERSION. If it is gone: {REMAKE[0].lower()}{REMAKE[1:]}"
)

NOTE = ".registry-"
"""How the names of notes begin; the id of the registry that left one follows."""
_READ_ONLY = 0o444
_MAY_NOT = (errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(frozen=True, slots=True)
class User:
    """A registry that has files in a folder.

    Attributes:
        id: Its own, see ``identity``: who it is.
        place: As ``session.name_beside`` calls it: where people find it.
    """

    id: str
    place: str

    def __str__(self) -> str:
        return f"{self.id} {self.place}"


class BlobStore:
    """The files below one folder.

    Attributes:
        folder: Where they are.
        user: The registry whose files they are; ``None`` leaves no note.
    """

    def __init__(self, folder: Path, user: User | None = None) -> None:
        self.folder = folder
        self.user = user

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
        try:
            self._leave_note()
            if _holds(path, digest):
                sync_folder(path.parent)  # who wrote it may have been killed before that
            else:
                write_file(path, data, mode=_READ_ONLY)
        except OSError as error:
            # What is there already needs no writing, where this process may not write.
            if error.errno not in _MAY_NOT or not _holds(path, digest):
                raise StoreError(
                    f"expected to write {path}, got: {error.strerror}.",
                    hint="Make room and allow writing there, or name another folder: "
                    "export SAFELATCH_BLOBS=/path",
                ) from error
        return digest

    def keep(self, digest: Digest, data: bytes) -> None:
        """Put ``data`` back if its file has gone; inside the writing transaction that names it.

        ``garbage`` removes files in a writing transaction of its own: what is there now stays.
        """
        if not self.path(digest).exists():
            self.put(data)

    def other_users(self) -> dict[Path, str]:
        """Return the notes of other registries that have files here, and what they say.

        A note without an id, as they were before registries had one, is another's: several may
        have been at the place it names.

        Raises:
            OSError: a note cannot be read.
        """
        notes = [path for path in sorted(self.folder.glob(f"{NOTE}*")) if path != self._note]
        return {path: path.read_text("utf-8", "backslashreplace") for path in notes}

    def has_note(self) -> bool:
        """Return whether this registry noted that it has files here.

        Raises:
            OSError: the folder cannot be entered.
        """
        return self._note is not None and self._note.exists()

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

    @property
    def _note(self) -> Path | None:
        return None if self.user is None else self.folder / f"{NOTE}{self.user.id}"

    def _leave_note(self) -> None:
        if self._note is not None and not self._note.exists():
            data = str(self.user).encode("utf-8", "backslashreplace")
            write_file(self._note, data, mode=_READ_ONLY)


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
