"""Removing what crashed publishers left: files among the blobs that no row of the registry names.

- What a row names is never removed. Of the rest only what is older than the grace period is.
- A file is removed inside a writing transaction, in which it is asked for again whether a row names
  it. Whoever publishes puts a file back that has gone, in the writing transaction that names it
  (``BlobStore.keep``): of the two one comes first, and a version never loses a file.
- A folder in which several registries have files is left alone: the rows of one say nothing about
  the files of another. Where a registry's own note is missing, those of others may be too.
- Only names that a ``BlobStore`` gives are looked at; links are neither followed nor removed.
"""

from __future__ import annotations

import datetime as dt
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sqlalchemy import select

from registry.digest import Digest
from registry.errors import StoreError, UsageError
from registry.store import events, session
from registry.store.tables import blobs
from registry.wholefile import INCOMING
from registry.wording import listed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import Connection, Engine

    from registry.store.blobs import BlobStore

SHORTEST_FOR_TEMPORARY = dt.timedelta(hours=1)
"""Least age of a temporary file that is removed: a younger one may still be written to."""

_SHARD, _VALUE = re.compile(r"[0-9a-f]{2}"), re.compile(r"[0-9a-f]{64}")
_ALLOW = (
    "Allow it: these are the registry's own files, or name another folder: "
    "export SAFELATCH_BLOBS=/path"
)


@dataclass(frozen=True, slots=True)
class Leftover:
    """A file that no row names.

    Attributes:
        kind: ``temporary`` for one that was never written to its end.
        path: Where it is.
        digest: Digest of its bytes, if it is a blob.
        size: Its bytes.
        modified: When it was written, UTC.
    """

    kind: Literal["blob", "temporary"]
    path: Path
    digest: Digest | None
    size: int
    modified: dt.datetime


@dataclass(frozen=True, slots=True)
class Garbage:
    """What was removed, or would be.

    Attributes:
        removed: The files, in the order of their paths.
        young: How many more no row names that are still within the grace period.
    """

    removed: tuple[Leftover, ...]
    young: int

    @property
    def size(self) -> int:
        """Bytes of the removed files together."""
        return sum(file.size for file in self.removed)


def collect(
    engine: Engine, store: BlobStore, grace: dt.timedelta, *, dry_run: bool = False
) -> Garbage:
    """Remove the files that no row names and that are older than ``grace``; log it if there are.

    Args:
        engine: The registry whose files they are.
        store: Their folder.
        grace: Least age. Temporary files are left for an hour at least.
        dry_run: Only say what would be removed.

    Raises:
        UsageError: another registry has files in the folder, or may have, as this one's note is
            missing there; or ``grace`` is negative.
        StoreError: the registry is read-only, or a file cannot be removed.
    """
    if grace < dt.timedelta(0):
        raise UsageError(f"expected a grace period of 0 or more, got {grace}.")
    if not dry_run:
        session.require_writable(engine)
    _refuse_others(store)
    files = list(_files(store))
    with session.read(engine) as connection:
        old, young = _unnamed(connection, files, grace)
    if old:
        _require_note(store, len(old))
    if dry_run or not old:
        return Garbage(tuple(old), young)
    refusal: OSError | None = None
    with session.write(engine) as connection:
        removed = []
        for file in _unnamed(connection, old, grace)[0]:
            try:
                _remove(file.path)
            except FileNotFoundError:  # another process collects too
                continue
            except OSError as error:
                refusal = error
                break
            removed.append(file)
        done = Garbage(tuple(removed), young)
        if removed:
            detail = {
                "grace_s": grace.total_seconds(),
                "files": len(removed),
                "bytes": done.size,
            }
            events.log(connection, "garbage.remove", "blobs", detail)
    if refusal is not None:
        raise StoreError(
            f"expected to remove {refusal.filename}, got: {refusal.strerror} "
            f"({len(removed)} of {len(old)} files were removed).",
            hint=_ALLOW,
        ) from refusal
    return done


def _remove(path: Path) -> None:
    if os.name == "nt":
        path.chmod(0o600)  # a read-only file cannot be removed there
    path.unlink()


def _refuse_others(store: BlobStore) -> None:
    try:
        others = store.other_users()
    except OSError as error:
        raise _unreadable(error) from error
    if others:
        notes = [f"{user} (noted in {path})" for path, user in others.items()]
        raise UsageError(
            f"{store.folder}: expected the files of one registry, {store.user}, got those of "
            f"{len(others)} more, which this one's rows say nothing about:{listed(notes)}",
            hint="Give each a folder of its own: export SAFELATCH_BLOBS=/path. Remove a note whose "
            "registry is gone, and one without an id that this registry left before its upgrade.",
        )


def _require_note(store: BlobStore, count: int) -> None:
    try:
        is_there = store.has_note()
    except OSError as error:
        raise _unreadable(error) from error
    if not is_there:
        raise UsageError(
            f"{store.folder}: expected the note of this registry, {store.user}, beside {count} "
            "files that none of its rows names, found none: they may be of another registry.",
            hint="Let every registry that has files there leave its note, by publishing or adding "
            "a base again, then run this again. Or give each a folder of its own: "
            "export SAFELATCH_BLOBS=/path",
        )


def _files(store: BlobStore) -> Iterator[Leftover]:
    """Yield every file of ``store``, named by a row or not, in the order of their paths."""
    for shard in _entries(store.folder):
        if shard.is_dir(follow_symlinks=False) and _SHARD.fullmatch(shard.name):
            for entry in _entries(shard.path):
                file = _file(shard.name, entry)
                if file is not None:
                    yield file
        elif shard.name.startswith(INCOMING):
            file = _file("", shard)
            if file is not None:
                yield file


def _entries(folder: str | Path) -> Sequence[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except FileNotFoundError:
        return []  # nothing was ever stored here
    except OSError as error:
        raise _unreadable(error) from error


def _unreadable(error: OSError) -> StoreError:
    return StoreError(f"expected to read {error.filename}, got: {error.strerror}.", hint=_ALLOW)


def _file(shard: str, entry: os.DirEntry[str]) -> Leftover | None:
    is_temporary = entry.name.startswith(INCOMING)
    is_blob = _VALUE.fullmatch(entry.name) is not None and entry.name[:2] == shard
    try:
        if not (is_temporary or is_blob) or not entry.is_file(follow_symlinks=False):
            return None
        state = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None  # it has got its name, or another process collects
    return Leftover(
        kind="blob" if is_blob else "temporary",
        path=Path(entry.path),
        digest=Digest(f"blake3:{entry.name}") if is_blob else None,
        size=state.st_size,
        modified=dt.datetime.fromtimestamp(state.st_mtime, dt.timezone.utc),
    )


def _unnamed(
    connection: Connection, files: Sequence[Leftover], grace: dt.timedelta
) -> tuple[list[Leftover], int]:
    """Return those of ``files`` that no row names and that are old, and how many are not old."""
    named = set(connection.scalars(select(blobs.c.digest)))
    now = dt.datetime.now(dt.timezone.utc)
    loose = [file for file in files if file.digest not in named]
    old = [file for file in loose if now - file.modified >= _least_age(file, grace)]
    return old, len(loose) - len(old)


def _least_age(file: Leftover, grace: dt.timedelta) -> dt.timedelta:
    return max(grace, SHORTEST_FOR_TEMPORARY) if file.kind == "temporary" else grace
