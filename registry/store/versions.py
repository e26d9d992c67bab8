"""Artifact lines and their versions: listing and resolving (writing is ``publish``).

Every function takes a connection in a transaction; ``catalog.Registry`` owns the transactions.

- Without a version a line resolves to its newest active one, to a pre-release only when it has
  nothing else. A yanked version resolves by exact pin, a revoked one never again.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from registry.digest import Digest
from registry.errors import (
    ArtifactNotFoundError,
    CorruptStoreError,
    RevokedError,
    UsageError,
    VersionNotFoundError,
)
from registry.store._nearest import did_you_mean, nearest
from registry.store._order import order_key
from registry.store.tables import artifacts, bases, blobs, version_files, versions
from registry.store.values import Line, Version

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement, Connection

    from registry.reference import Reference

MANIFEST = "manifest.json"
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""What a bundle's file may be called: never a path."""

_LIST = "List what is there: safelatch list"


def lines(connection: Connection) -> list[Line]:
    """Return all lines, by name."""
    published: dict[str, list[Version]] = {}
    for version in _select(connection):
        published.setdefault(version.name, []).append(version)
    found = []
    for row in connection.execute(select_lines().order_by(artifacts.c.name)):
        own = published.get(row.name, [])
        newest = _newest_active(own)
        found.append(
            Line(
                name=row.name,
                kind=row.kind,
                base_name=row.base_name,
                base_weights=Digest(row.weights),
                sequence=row.sequence,
                newest=None if newest is None else newest.version,
                count=len(own),
                created_at=row.created_at,
            )
        )
    return found


def of_line(connection: Connection, name: str) -> list[Version]:
    """Return the versions of a line, newest first; empty when there is no such line."""
    return _select(connection, artifacts.c.name == name)


def require_line(connection: Connection, name: str) -> list[Version]:
    """Return the versions of a line, newest first.

    Raises:
        ArtifactNotFoundError: there is no such line.
    """
    found = of_line(connection, name)
    if found:
        return found
    known = connection.scalars(select(artifacts.c.name)).all()
    raise ArtifactNotFoundError(
        f"expected a registered artifact, got {name[:160]!r}.{did_you_mean(name, known)}",
        hint=_LIST,
    )


def for_base(connection: Connection, weights: str) -> list[Version]:
    """Return what each line made from these weights resolves to, by name."""
    by_line: dict[str, list[Version]] = {}
    for version in _select(connection, bases.c.weights == weights):
        by_line.setdefault(version.name, []).append(version)
    newest = (_newest_active(own) for _, own in sorted(by_line.items()))
    return [version for version in newest if version is not None]


def resolve(connection: Connection, reference: Reference) -> Version:
    """Return the version that ``reference`` names.

    Raises:
        ArtifactNotFoundError: no such line, or no artifact of this digest.
        VersionNotFoundError: the line has no such version, or none that is active.
        RevokedError: the version is revoked.
        UsageError: the reference names another place than the registry.
    """
    if reference.scheme == "digest":
        return _usable(by_digest(connection, reference.location))
    if reference.scheme != "registry" or reference.name is None:
        raise UsageError(
            f"expected NAME[@VERSION] or blake3:<64 hex> for the registry, got {reference}.",
            hint="Publish it here first: safelatch publish DIR --name NAME --version VERSION",
        )
    published = require_line(connection, reference.name)
    if reference.version is not None:
        return _usable(_pinned(published, reference.name, reference.version))
    newest = _newest_active(published)
    if newest is None:
        states = ", ".join(f"{version.version} {version.state}" for version in published[:8])
        raise VersionNotFoundError(
            f"expected an active version of {reference.name}, got {states}.",
            hint=f"A yanked one must be named: {published[0].label}",
        )
    return newest


def by_digest(connection: Connection, digest: str) -> Version:
    """Return the version with this manifest digest, whatever its state.

    Raises:
        ArtifactNotFoundError: there is none.
    """
    found = _select(connection, versions.c.manifest_digest == digest)
    if not found:
        raise ArtifactNotFoundError(f"expected a registered artifact, got {digest}.", hint=_LIST)
    return found[0]


def row_id(connection: Connection, digest: str | None) -> int | None:
    """Return the row of the version with this manifest digest, if it is registered."""
    if digest is None:
        return None
    found = connection.scalar(select(versions.c.id).where(versions.c.manifest_digest == digest))
    return None if found is None else int(found)


def files_of(connection: Connection, version: Version) -> list[tuple[str, Digest, int]]:
    """Return name, digest and size of each file of the bundle, by name.

    Raises:
        CorruptStoreError: the manifest is not among them, or a name could leave a folder.
    """
    rows = connection.execute(
        select(version_files.c.path, version_files.c.blob, blobs.c.size)
        .join(blobs, blobs.c.digest == version_files.c.blob)
        .join(versions, versions.c.id == version_files.c.version_id)
        .where(versions.c.manifest_digest == version.digest)
        .order_by(version_files.c.path)
    )
    files = [(row.path, Digest(row.blob), row.size) for row in rows]
    manifest = next((digest for path, digest, _ in files if path == MANIFEST), None)
    if manifest != version.digest or not all(FILE_NAME.fullmatch(path) for path, _, _ in files):
        raise CorruptStoreError(
            f"{version.label}: expected plain file names and {MANIFEST} {version.digest}, got "
            f"{', '.join(f'{path!r} {digest}' for path, digest, _ in files) or 'no file'}.",
            hint="See what was changed: safelatch log verify",
        )
    return files


def signature_of(connection: Connection, version: Version) -> tuple[Digest, int] | None:
    """Return digest and size of the version's signature, if it was signed."""
    query = (
        select(blobs.c.digest, blobs.c.size)
        .join(versions, versions.c.signature_blob == blobs.c.digest)
        .where(versions.c.manifest_digest == version.digest)
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else (Digest(row.digest), row.size)


def select_lines() -> Any:
    """Return the query of all lines, with the name and weights of their base."""
    columns = (artifacts, bases.c.name.label("base_name"), bases.c.weights)
    return select(*columns).join(bases, bases.c.id == artifacts.c.base_id)


def _pinned(published: Sequence[Version], name: str, version: str) -> Version:
    known = [other.version for other in published]
    try:
        key = order_key(version)
    except UsageError:
        key = ""
    for other in published:
        if order_key(other.version) == key:
            return other
    close = nearest(version, known) or known[:3]
    raise VersionNotFoundError(
        f"expected a version of {name} ({', '.join(close)}), got {version!r}.",
        hint=f"List them: safelatch show {name}",
    )


def _usable(version: Version) -> Version:
    if version.state == "revoked":
        raise RevokedError(
            f"expected a version that may be used, {version.label} ({version.digest}) is revoked: "
            f"{version.state_reason}.",
            hint=f"Use the newest active version: safelatch show {version.name}",
        )
    return version


def _newest_active(newest_first: Sequence[Version]) -> Version | None:
    active = [version for version in newest_first if version.state == "active"]
    final = [version for version in active if not version.is_prerelease]
    return next(iter(final or active), None)


def _select(connection: Connection, *conditions: ColumnElement[bool]) -> list[Version]:
    found = connection.execute(
        select(
            versions,
            artifacts.c.name,
            artifacts.c.kind,
            bases.c.name.label("base_name"),
            bases.c.weights,
        )
        .join(artifacts, artifacts.c.id == versions.c.artifact_id)
        .join(bases, bases.c.id == artifacts.c.base_id)
        .where(*conditions)
        .order_by(artifacts.c.name, versions.c.version_order.desc())
    )
    return [
        Version(
            name=row.name,
            version=row.version,
            kind=row.kind,
            base_name=row.base_name,
            base_weights=Digest(row.weights),
            digest=Digest(row.manifest_digest),
            state=row.state,
            state_reason=row.state_reason,
            key_id=row.key_id,
            not_before=row.not_before,
            expires_at=row.expires_at,
            published_at=row.published_at,
        )
        for row in found
    ]
