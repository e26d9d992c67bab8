"""The keys that are trusted here; what their trust means is for ``artifact.trust`` to say.

Every function takes a connection in a transaction; ``trust.TrustRecords`` owns the transactions.

- A key is trusted with facts: what it may speak for, and when. Other facts replace them.
- A revoked key stays revoked. A key can be revoked before anybody trusts it.
"""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING

from sqlalchemy import func, insert, select, update

from registry.artifact.envelope import is_key_id
from registry.artifact.scope import require_pattern
from registry.artifact.trust import TrustedKey
from registry.digest import canonical_json
from registry.errors import NotFoundError, UsageError, VersionConflictError
from registry.store._nearest import did_you_mean
from registry.store.columns import plain
from registry.store.tables import keys

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from sqlalchemy import Connection, Row

_LIST = "List those that are trusted: safelatch key list"


def facts(
    label: str | None,
    namespaces: Iterable[str],
    not_before: dt.datetime | None,
    not_after: dt.datetime | None,
) -> dict[str, Any]:
    """Return what a key is trusted with, as columns.

    Raises:
        UsageError: a namespace is none, or the validity ends before it begins.
    """
    if not_before is not None and not_after is not None and not_after <= not_before:
        raise UsageError(
            f"expected an end of validity after {not_before.isoformat()}, got "
            f"{not_after.isoformat()}.",
            hint="Name a later end.",
        )
    patterns = sorted({require_pattern(pattern) for pattern in namespaces})
    return {
        "label": None if label is None else plain(label),
        "namespaces": canonical_json(patterns).decode(),
        "not_before": not_before,
        "not_after": not_after,
    }


def everything(connection: Connection) -> list[TrustedKey]:
    """Return all keys, revoked ones too, in the order in which they were trusted (or revoked)."""
    since = func.coalesce(keys.c.trusted_at, keys.c.revoked_at)
    return [_key(row) for row in connection.execute(select(keys).order_by(since, keys.c.key_id))]


def find(connection: Connection, key_id: str) -> TrustedKey | None:
    """Return the key, trusted or revoked; ``None`` when nothing is known of it."""
    row = connection.execute(select(keys).where(keys.c.key_id == key_id)).one_or_none()
    return None if row is None else _key(row)


def require(connection: Connection, key_id: str) -> TrustedKey:
    """Return the key, trusted or revoked.

    Raises:
        NotFoundError: nothing is known of it.
    """
    key = find(connection, key_id)
    if key is None:
        raise _unknown(connection, key_id)
    return key


def trust(connection: Connection, key_id: str, wanted: dict[str, Any]) -> bool:
    """Trust a key with what ``facts`` returned; return whether that changed anything.

    Raises:
        VersionConflictError: it is revoked, which is final.
    """
    row = connection.execute(select(keys).where(keys.c.key_id == key_id)).one_or_none()
    if row is not None and row.revoked_at is not None:
        raise VersionConflictError(
            f"{key_id}: expected it to stay revoked ({row.revoked_reason}), got a request to trust "
            "it.",
            hint="Make a new key and trust that one: safelatch key generate --out NAME",
        )
    if row is not None and all(getattr(row, name) == value for name, value in wanted.items()):
        return False
    values = {**wanted, "trusted_at": dt.datetime.now(dt.timezone.utc)}
    if row is None:
        connection.execute(insert(keys).values(key_id=key_id, **values))
    else:
        connection.execute(update(keys).where(keys.c.key_id == key_id).values(values))
    return True


def revoke(connection: Connection, key_id: str, reason: str) -> bool:
    """Revoke a key, known or not; return whether that changed anything.

    Raises:
        NotFoundError: the text is no key, and none that is known.
    """
    known = find(connection, key_id)
    if known is not None and known.revoked_at is not None:
        return False
    gone = {"revoked_at": dt.datetime.now(dt.timezone.utc), "revoked_reason": reason}
    if known is not None:
        connection.execute(update(keys).where(keys.c.key_id == key_id).values(gone))
    elif is_key_id(key_id):
        connection.execute(insert(keys).values(key_id=key_id, namespaces="[]", **gone))
    else:
        raise _unknown(connection, key_id)
    return True


def _unknown(connection: Connection, text: str) -> NotFoundError:
    there = everything(connection)
    called = next((f" Did you mean {key.key_id}?" for key in there if key.label == text), "")
    close = called or did_you_mean(text, [key.key_id for key in there])
    return NotFoundError(
        f"expected a key as ed25519:<64 hex digits>, got {text[:120]!r}.{close}", hint=_LIST
    )


def _key(row: Row[Any]) -> TrustedKey:
    return TrustedKey(
        key_id=row.key_id,
        label=row.label,
        namespaces=tuple(json.loads(row.namespaces)),
        not_before=row.not_before,
        not_after=row.not_after,
        trusted_at=row.trusted_at,
        revoked_at=row.revoked_at,
        revoked_reason=row.revoked_reason,
    )
