"""The event log: what happened in this registry, each link bound to the one before it.

- ``append`` runs in the transaction of what it reports: both happen, or neither.
- The database refuses to change or remove a link; who may change its tables can take that away.
- ``digest`` is the digest of the canonical JSON of all other fields; the first link's previous
  digest is 64 zeros.
- ``verify`` finds links that were edited, removed, reordered or inserted. A chain cannot show
  that its *end* was cut off or rewritten from some link on: keep its head elsewhere, signed, and
  give it back (``artifact.log_head``), or at least the digest of a late link, as ``anchor``.
"""

from __future__ import annotations

import datetime as dt
import getpass
import os
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select

from registry.digest import Digest, canonical_json, digest_json, parse_json
from registry.errors import CorruptStoreError, UnsafeFormatError
from registry.store.columns import plain, plain_json
from registry.store.identity import read_id
from registry.store.tables import events
from registry.store.values import Event

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection, Row

    from registry.artifact.log_head import LogHead

GENESIS = Digest("blake3:" + "0" * 64)
"""Previous digest of the first event."""

_DETAIL_LIMIT = 1 << 24
_SHOW = "See every break of the chain: safelatch log verify"


def append(
    connection: Connection, actor: str, action: str, subject: str, detail: Mapping[str, Any]
) -> Event:
    """Add an event at the end of the log, in the caller's writing transaction."""
    newest = select(events.c.sequence, events.c.digest).order_by(events.c.sequence.desc()).limit(1)
    row = connection.execute(newest).one_or_none()
    fields: dict[str, Any] = {
        "sequence": 1 if row is None else row.sequence + 1,
        "at": dt.datetime.now(dt.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "actor": plain(actor),
        "action": action,
        "subject": plain(subject),
        "detail": plain_json(dict(detail)),
        "previous": GENESIS if row is None else Digest(row.digest),
    }
    event = Event(**fields, digest=digest_json(fields))
    connection.execute(
        insert(events).values(
            sequence=event.sequence,
            at=event.at,
            actor=event.actor,
            action=event.action,
            subject=event.subject,
            detail=canonical_json(event.detail).decode(),
            previous_digest=event.previous,
            digest=event.digest,
        )
    )
    return event


def log(connection: Connection, action: str, subject: str, detail: Mapping[str, Any]) -> Event:
    """Append an event of the user this process runs as (declared, not proven)."""
    return append(connection, current_actor(), action, subject, detail)


def newest(connection: Connection, limit: int | None = None) -> list[Event]:
    """Return the last ``limit`` events (all by default), oldest first.

    Raises:
        CorruptStoreError: the detail of one is no longer JSON.
    """
    rows = connection.execute(select(events).order_by(events.c.sequence.desc()).limit(limit))
    found = [_event(row) for row in rows]
    return found[::-1]


def verify(
    connection: Connection, anchor: str | None = None, head: LogHead | None = None
) -> list[str]:
    """Return every break of the chain, oldest first; empty when it is whole.

    Args:
        connection: A connection in a transaction.
        anchor: Digest of a link seen before, kept elsewhere; its absence is a finding.
        head: A head seen before, kept elsewhere; so is the absence of that very link.
    """
    findings: list[str] = []
    expected_sequence, previous = 1, GENESIS
    anchored = anchor is None
    at_head: str | None = None
    for row in connection.execute(select(events).order_by(events.c.sequence)):
        name = f"event {row.sequence}"
        if row.sequence != expected_sequence:
            gone = f"{expected_sequence} to {row.sequence - 1}"
            findings.append(f"{name}: expected event {expected_sequence}; {gone} are missing")
        if row.previous_digest != previous:
            findings.append(f"{name}: expected previous {previous}, got {row.previous_digest}")
        findings.extend(f"{name}: {finding}" for finding in _content_findings(row))
        anchored = anchored or row.digest == anchor
        if head is not None and row.sequence == head.sequence:
            at_head = row.digest
        expected_sequence, previous = row.sequence + 1, Digest(row.digest)
    if not anchored:
        findings.append(f"expected an event with digest {anchor}, found none")
    if head is not None:
        findings += _head_findings(head, read_id(connection), at_head, expected_sequence - 1)
    return findings


def _head_findings(head: LogHead, registry: str, found: str | None, newest: int) -> list[str]:
    """Return what the log lacks that ``head`` says; the registry is told before its events."""
    seen = f"event {head.sequence} with digest {head.digest}"
    if head.registry != registry:
        return [f"head: expected one of registry {registry}, got that of {head.registry}"]
    if found == head.digest:
        return []
    if found is not None:
        return [f"head: expected {seen}, got {found}: rewritten from there or from before on"]
    if newest < head.sequence:
        return [f"head: expected {seen}, the log ends at event {newest}: its end was cut off"]
    return [f"head: expected {seen}, found none"]


def current_actor() -> str:
    """Return the name of the user this process runs as."""
    try:
        return getpass.getuser()
    except (KeyError, ImportError, OSError):  # no entry for this uid, as in many containers
        return f"uid:{os.getuid()}" if hasattr(os, "getuid") else "unknown"


def _event(row: Row[Any]) -> Event:
    try:
        detail = _parsed(row)
    except UnsafeFormatError as error:
        raise CorruptStoreError(error.message, hint=_SHOW) from error
    return Event(
        sequence=row.sequence,
        at=row.at,
        actor=row.actor,
        action=row.action,
        subject=row.subject,
        detail=detail,
        previous=Digest(row.previous_digest),
        digest=Digest(row.digest),
    )


def _content_findings(row: Row[Any]) -> list[str]:
    try:
        fields = {
            "sequence": row.sequence,
            "at": row.at,
            "actor": row.actor,
            "action": row.action,
            "subject": row.subject,
            "detail": _parsed(row),
            "previous": row.previous_digest,
        }
        recomputed = digest_json(fields)
    except (UnsafeFormatError, ValueError) as error:
        return [f"cannot be read: {error}"]
    if recomputed != row.digest:
        return [f"expected digest {recomputed}, got {row.digest}"]
    return []


def _parsed(row: Row[Any]) -> Any:
    data = str(row.detail).encode()
    detail = parse_json(data, what=f"detail of event {row.sequence}", limit=_DETAIL_LIMIT)
    if canonical_json(detail) != data:
        raise UnsafeFormatError(
            f"detail of event {row.sequence} is not in canonical form.",
            hint="Restore the database from a backup.",
        )
    return detail
