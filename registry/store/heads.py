"""The newest signed document seen of each line: what a later one has to follow.

Every function takes a connection in a transaction; ``trust.TrustRecords`` owns the transactions.

- A head is changed by compare-and-swap: whoever decided that a document may follow another names
  that other one, and the head is still it, in the writing transaction.
- No document is parsed here. Which one may follow which is for ``artifact.line`` to say; that the
  sequence grows is asked for here once more.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, insert, select, update

from registry.digest import Digest, canonical_json
from registry.errors import VersionConflictError
from registry.store import events
from registry.store.tables import artifacts, bases, blobs, line_heads
from registry.store.values import LineHead

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection, Row

    from registry.store.values import SignedLine

_AGAIN = "Somebody else changed the line meanwhile: run the same again."


def everything(connection: Connection) -> list[LineHead]:
    """Return all heads, by name and base."""
    query = select(line_heads).order_by(line_heads.c.name, line_heads.c.base)
    return [_head(row) for row in connection.execute(query)]


def find(connection: Connection, name: str, base: str) -> LineHead | None:
    """Return the head of a line, if a signed document of it was seen."""
    row = connection.execute(select(line_heads).where(_is(name, base))).one_or_none()
    return None if row is None else _head(row)


def swap(connection: Connection, line: SignedLine, follows: str | None) -> bool:
    """Make ``line`` the head, and log it; return whether it was not that already.

    Where it was, the head gains those of its keys that are new, which is logged too.

    Raises:
        VersionConflictError: the head is neither ``follows`` nor ``line``, or its sequence is not
            lower.
    """
    head = find(connection, line.name, line.base)
    if head is not None and head.digest == line.digest:
        _gain(connection, line, head)
        return False
    if head is None and follows is not None:
        raise VersionConflictError(
            f"line {line.name!r}: expected the document {follows} before sequence {line.sequence}, "
            "found none.",
            hint=_AGAIN,
        )
    if head is not None and (head.digest != follows or head.sequence >= line.sequence):
        raise VersionConflictError(
            f"line {line.name!r}: expected a document that follows sequence {head.sequence} "
            f"({head.digest}), got sequence {line.sequence}, which follows {follows or 'none'}.",
            hint=_AGAIN,
        )
    new = {
        "sequence": line.sequence,
        "digest": line.digest,
        "key_ids": _text(line.key_ids),
        "document": line.document,
        "seen_at": dt.datetime.now(dt.timezone.utc),
    }
    if head is None:
        connection.execute(insert(line_heads).values(name=line.name, base=line.base, **new))
    else:
        connection.execute(update(line_heads).where(_is(line.name, line.base)).values(new))
    _log(connection, line, line.key_ids)
    return True


def forget(connection: Connection, key_id: str) -> tuple[list[LineHead], list[LineHead]]:
    """Take a key's word away; return the heads that are gone, and those that others vouch for.

    Whoever has a stolen key can sign the highest sequence there is, after which no true document
    would follow: where nobody else signed a head, the next document is a first one.
    """
    gone, kept = [], []
    for head in everything(connection):
        if key_id not in head.key_ids:
            continue
        row, others = _is(head.name, head.base), [key for key in head.key_ids if key != key_id]
        if others:
            connection.execute(update(line_heads).where(row).values(key_ids=_text(others)))
            kept.append(replace(head, key_ids=tuple(others)))
        else:
            connection.execute(delete(line_heads).where(row))
            gone.append(head)
    return gone, kept


def is_published(connection: Connection, line: SignedLine) -> bool:
    """Return whether versions of this line, made from this base, are published here."""
    return connection.scalar(_own(line)) is not None


def put_in_force(connection: Connection, line: SignedLine, envelope: Digest) -> None:
    """Let the envelope be the one of the line, if it is published here; its blob has a row."""
    own = artifacts.c.id == _own(line).scalar_subquery()
    new = {"sequence": line.sequence, "line_blob": envelope}
    connection.execute(update(artifacts).where(own).values(new))


def in_force(connection: Connection, name: str) -> tuple[Digest, int] | None:
    """Return digest and size of the envelope of a published line, if it has one."""
    query = (
        select(blobs.c.digest, blobs.c.size)
        .join(artifacts, artifacts.c.line_blob == blobs.c.digest)
        .where(artifacts.c.name == name)
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else (Digest(row.digest), row.size)


def _gain(connection: Connection, line: SignedLine, head: LineHead) -> None:
    keys = {*head.key_ids, *line.key_ids}
    if len(keys) > len(head.key_ids):
        row = _is(head.name, head.base)
        connection.execute(update(line_heads).where(row).values(key_ids=_text(keys)))
        _log(connection, line, keys)


def _log(connection: Connection, line: SignedLine, key_ids: Iterable[str]) -> None:
    detail = {
        "name": line.name,
        "base": line.base,
        "sequence": line.sequence,
        "digest": line.digest,
        "key_ids": sorted(set(key_ids)),
    }
    events.log(connection, "line.accept", line.name, detail)


def _text(key_ids: Iterable[str]) -> str:
    return canonical_json(sorted(set(key_ids))).decode()


def _own(line: SignedLine) -> Any:
    return (
        select(artifacts.c.id)
        .join(bases, bases.c.id == artifacts.c.base_id)
        .where(artifacts.c.name == line.name, bases.c.weights == line.base)
    )


def _is(name: str, base: str) -> Any:
    return (line_heads.c.name == name) & (line_heads.c.base == base)


def _head(row: Row[Any]) -> LineHead:
    return LineHead(
        name=row.name,
        base=Digest(row.base),
        sequence=row.sequence,
        digest=Digest(row.digest),
        key_ids=tuple(json.loads(row.key_ids)),
        document=bytes(row.document),
        seen_at=row.seen_at,
    )
