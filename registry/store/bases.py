"""Base models in the catalog: registering, finding by name, digest, prefix or alias.

Every function takes a connection in a transaction; ``catalog.Registry`` owns the transactions.

- The weights digest is the identity; a name is unique; an alias is a locator.
- A ``path`` or ``hub`` alias that now leads to other weights moves to them: places change. A
  ``name`` or ``sha256-set`` alias never moves: that would be a base taking another's identity.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import func, insert, or_, select, update

from registry.checkpoint.probe import distances, probe
from registry.digest import Digest, parse_digest
from registry.errors import BaseNotFoundError, UsageError, VersionConflictError
from registry.store._nearest import did_you_mean
from registry.store.columns import plain
from registry.store.tables import ALIAS_LIMIT, ALIAS_SCHEMES, BASE_NAME_LIMIT, aliases, bases
from registry.store.values import Alias, Base

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy import ColumnElement, Connection, Row

    from registry.checkpoint.geometry import Geometry
    from registry.checkpoint.record import BaseRecord
    from registry.store.values import AliasScheme

_LIST = "List the base models: safelatch base list"
_PREFIX = re.compile(r"(?:blake3:)?([0-9a-f]{8,64})")
_MOVING = ("path", "hub")
_MOST_NEAREST = 64  # ties included: more probes alike were made to be
_PART = 1000  # rows named in one query: SQLite takes 32,766 parameters
_SHOWN = [column for column in bases.c if column.name != "probe"]


def require_base_name(name: str) -> str:
    """Return ``name`` if it can name a base model.

    Raises:
        UsageError: it is empty, too long, looks like a digest, or holds what cannot be printed.
    """
    printable = name.isprintable() and name == name.strip() and plain(name) == name
    if not 0 < len(name) <= BASE_NAME_LIMIT or not printable or name.startswith("blake3:"):
        raise UsageError(
            f"expected a name of 1 to {BASE_NAME_LIMIT} printable characters that is no digest, "
            f"got {name[:120]!r}.",
            hint="Name it: safelatch base add MODEL --name NAME",
        )
    return name


def require_aliases(pairs: Iterable[tuple[str, str]]) -> list[Alias]:
    """Return the (scheme, value) pairs as the aliases they are stored as.

    Raises:
        UsageError: a scheme is unknown, or a value is empty or too long.
    """
    found = []
    for scheme, text in pairs:
        value = plain(text)
        if scheme not in ALIAS_SCHEMES or not 0 < len(value.encode()) <= ALIAS_LIMIT:
            raise UsageError(
                f"expected an alias ({', '.join(ALIAS_SCHEMES)}) of 1 to {ALIAS_LIMIT} bytes, "
                f"got {scheme!r}: {value[:80]!r}."
            )
        found.append(Alias(cast("AliasScheme", scheme), value))
    return found


def by_weights(connection: Connection, weights: str) -> Base | None:
    """Return the base with these weights, or ``None``."""
    found = _select(connection, bases.c.weights == weights)
    return found[0] if found else None


def everything(connection: Connection) -> list[Base]:
    """Return all bases, by name."""
    return _select(connection)


def like(connection: Connection, geometry: Geometry) -> list[Base]:
    """Return the bases of exactly this geometry, by name: candidates, not evidence."""
    return _select(connection, *_of_geometry(geometry))


def near(connection: Connection, record: BaseRecord, limit: int) -> list[Base]:
    """Return the bases of this geometry that may be nearest: see ``Registry.bases_near``."""
    wanted = probe(record)
    if wanted is None:
        return like(connection, record.geometry)
    found: list[int] = []
    probes: dict[int, bytes] = {}
    known = select(bases.c.id, bases.c.weights, bases.c.probe)
    for row, weights, taken in connection.execute(known.where(*_of_geometry(record.geometry))):
        if taken is None or weights == record.weights:
            found.append(row)
        else:
            probes[row] = taken
    found += _nearest(wanted, probes, limit)
    parts = [found[start : start + _PART] for start in range(0, len(found), _PART)]
    rows = {base.name: base for part in parts for base in _select(connection, bases.c.id.in_(part))}
    return [rows[name] for name in sorted(rows)]


def of_repository(connection: Connection, repo_id: str) -> list[Base]:
    """Return the bases that were registered from a commit of a Hub repository, by name."""
    value = aliases.c.value.startswith(f"{plain(repo_id)}@", autoescape=True)
    here = select(aliases.c.base_id).where(aliases.c.scheme == "hub", value)
    return _select(connection, bases.c.id.in_(here))


def count(connection: Connection) -> int:
    """Return how many bases there are."""
    return connection.scalar(select(func.count()).select_from(bases)) or 0


def find(connection: Connection, text: str) -> Base:
    """Return the base that ``text`` names: a name, a digest, an alias, or a digest prefix.

    Raises:
        BaseNotFoundError: none, or more than one.
    """
    wanted = plain(text)
    for condition in _ways(wanted):
        found = _select(connection, condition)
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(f"{base.name} ({base.weights})" for base in found)
            raise BaseNotFoundError(
                f"{text!r} names {len(found)} base models: {names}.", hint=_LIST
            )
    known = connection.scalars(select(bases.c.name)).all()
    raise BaseNotFoundError(
        f"expected a registered base model, got {text[:160]!r}.{did_you_mean(wanted, known)}",
        hint=f"{_LIST}, or register it: safelatch base add MODEL",
    )


def refuse_taken_name(connection: Connection, name: str, weights: str) -> None:
    """Raise ``VersionConflictError`` if a base with other weights has the name."""
    holder = select(aliases.c.base_id).where(aliases.c.scheme == "name", aliases.c.value == name)
    for other in _select(connection, or_(bases.c.name == name, bases.c.id.in_(holder))):
        if other.weights != weights:
            raise _conflict(f"base name {name!r}", other, weights)


def add(connection: Connection, name: str, record: BaseRecord, record_blob: Digest) -> Base:
    """Insert the base; the caller has stored the blob and knows the weights are new.

    Raises:
        VersionConflictError: another base has the name.
    """
    refuse_taken_name(connection, name, record.weights)
    geometry = record.geometry
    connection.execute(
        insert(bases).values(
            weights=parse_digest(record.weights),
            name=name,
            family=geometry.family,
            layers=geometry.layers,
            heads=geometry.heads,
            kv_heads=geometry.kv_heads,
            head_dim=geometry.head_dim,
            hidden_size=geometry.hidden_size,
            config_digest=record.config_digest,
            tokenizer=record.tokenizer,
            chat_template=record.chat_template,
            record_blob=record_blob,
            probe=probe(record),
            created_at=dt.datetime.now(dt.timezone.utc),
        )
    )
    return _select(connection, bases.c.weights == record.weights)[0]


def point(connection: Connection, base: Base, wanted: Iterable[Alias]) -> list[Alias]:
    """Let each alias name ``base``; return those that did not before.

    Raises:
        VersionConflictError: a ``name`` or ``sha256-set`` alias names another base.
    """
    base_id = row_id(connection, base)
    changed = []
    for alias in wanted:
        same = (aliases.c.scheme == alias.scheme, aliases.c.value == alias.value)
        owner = connection.scalar(select(aliases.c.base_id).where(*same))
        if owner == base_id:
            continue
        if alias.scheme == "name":
            refuse_taken_name(connection, alias.value, base.weights)
        if owner is None:
            now = dt.datetime.now(dt.timezone.utc)
            connection.execute(
                insert(aliases).values(
                    base_id=base_id, scheme=alias.scheme, value=alias.value, created_at=now
                )
            )
        elif alias.scheme in _MOVING:
            connection.execute(update(aliases).where(*same).values(base_id=base_id))
        else:
            other = _select(connection, bases.c.id == owner)[0]
            raise _conflict(f"alias {alias.scheme}:{alias.value}", other, base.weights)
        changed.append(alias)
    return changed


def row_id(connection: Connection, base: Base) -> int:
    """Return the row of ``base``.

    Raises:
        BaseNotFoundError: it comes from another registry.
    """
    found = connection.scalar(select(bases.c.id).where(bases.c.weights == base.weights))
    if found is None:
        raise BaseNotFoundError(
            f"expected a registered base model, got {base.weights}.", hint=_LIST
        )
    return int(found)


def _of_geometry(geometry: Geometry) -> list[ColumnElement[bool]]:
    return [bases.c[name] == value for name, value in geometry.to_dict().items()]


def _nearest(wanted: bytes, probes: Mapping[int, bytes], limit: int) -> list[int]:
    """Return the ``limit`` rows nearest to ``wanted``, and others as near as the last, to 64."""
    import numpy as np

    if len(probes) <= limit:
        return list(probes)
    far = distances(wanted, list(probes.values()))
    order = np.argsort(far, kind="stable")
    last = far[order[limit - 1]]
    if np.isfinite(last):  # otherwise nothing is known of the order, and all would be as near
        limit = max(limit, min(int(np.count_nonzero(far <= last)), _MOST_NEAREST))
    rows = list(probes)
    return [rows[index] for index in order[:limit]]


def _ways(text: str) -> list[ColumnElement[bool]]:
    named = select(aliases.c.base_id).where(aliases.c.value == text)
    ways: list[ColumnElement[bool]] = [
        or_(bases.c.name == text, bases.c.weights == text),
        bases.c.id.in_(named),
    ]
    prefix = _PREFIX.fullmatch(text)
    if prefix:
        begins = bases.c.weights.startswith(f"blake3:{prefix[1]}", autoescape=True)
        ways.append(bases.c.id.in_(select(bases.c.id).where(begins)))  # reads an index, not rows
    return ways


def _conflict(what: str, holder: Base, weights: str) -> VersionConflictError:
    return VersionConflictError(
        f"{what}: expected {holder.weights}, which has it, got {weights}.",
        hint="Choose another name: safelatch base add MODEL --name NAME",
    )


def _select(connection: Connection, *conditions: ColumnElement[bool]) -> list[Base]:
    rows = connection.execute(select(*_SHOWN).where(*conditions).order_by(bases.c.name)).all()
    named: dict[int, list[Alias]] = {row.id: [] for row in rows}
    columns = (aliases.c.base_id, aliases.c.scheme, aliases.c.value)
    wanted = select(*columns).order_by(aliases.c.scheme, aliases.c.value)
    if conditions:
        wanted = wanted.where(aliases.c.base_id.in_(select(bases.c.id).where(*conditions)))
    for row in connection.execute(wanted):
        named[row.base_id].append(Alias(row.scheme, row.value))
    return [_value(row, named[row.id]) for row in rows]


def _value(row: Row[Any], named: Sequence[Alias]) -> Base:
    return Base(
        name=row.name,
        weights=Digest(row.weights),
        family=row.family,
        layers=row.layers,
        heads=row.heads,
        kv_heads=row.kv_heads,
        head_dim=row.head_dim,
        hidden_size=row.hidden_size,
        config_digest=Digest(row.config_digest),
        tokenizer=row.tokenizer,
        chat_template=row.chat_template,
        record=Digest(row.record_blob),
        aliases=tuple(named),
        created_at=row.created_at,
    )
