"""Artifact lines and their versions: publishing, yanking, revoking (reading is ``versions``).

Every function takes a connection in the writing transaction of ``catalog.Registry``.

- A line has one name, one kind and one base. Its versions increase (PEP 440) and never change.
- The same version with the same digest again is no error and no change.
- A state may go back and forth between active and yanked; revoked is final.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select, update

from registry.digest import Digest, require_digest
from registry.errors import (
    DigestMismatchError,
    SchemaViolationError,
    UnsafeFormatError,
    UsageError,
    VersionConflictError,
)
from registry.reference import require_name
from registry.store._order import order_key
from registry.store.blobs import remember
from registry.store.columns import inserted_id, plain
from registry.store.tables import artifacts, version_files, versions
from registry.store.versions import FILE_NAME, MANIFEST, by_digest, select_lines
from registry.wording import REMAKE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy import Connection, Row

    from registry.artifact.manifest import Manifest
    from registry.store.values import Base, State, Version


EVENTS = {
    "active": "version.restore",
    "yanked": "version.yank",
    "revoked": "version.revoke",
}
"""The event of each state that a version is given."""


def entries(manifest: Manifest, files: Mapping[str, bytes]) -> list[tuple[str, Digest, int]]:
    """Return name, digest and size of each file; refuse files that are not the manifest's.

    Raises:
        UsageError: the manifest is a draft, or has no name that a line can have.
        UnsafeFormatError: a file is missing, is not covered, or has the name of a path.
        DigestMismatchError: a file has other bytes than the manifest says.
    """
    name, version = _label(manifest)
    label = f"{require_name(name)}@{version}"
    expected = {MANIFEST, *manifest.files}
    if set(files) != expected or not all(map(FILE_NAME.fullmatch, expected)):
        raise UnsafeFormatError(
            f"{label}: expected the files {sorted(expected)}, got {sorted(files)}.", hint=REMAKE
        )
    digests = {MANIFEST: manifest.digest}
    digests.update({path: entry.digest for path, entry in manifest.files.items()})
    for path, data in files.items():
        require_digest(data, digests[path], what=f"{label} {path}", hint=REMAKE)
    return [(path, digests[path], len(data)) for path, data in sorted(files.items())]


def conflicts(
    connection: Connection, manifest: Manifest, base: Base, *, in_order: bool = True
) -> Version | None:
    """Return the version if this very artifact is published; refuse what contradicts it.

    Raises:
        DigestMismatchError: the artifact was made from other weights than the base's.
        VersionConflictError: the line is of another kind or base, the version exists with other
            content, or it is not newer than the newest published one.
    """
    name, version = _label(manifest)
    if manifest.base_weights != base.weights:
        raise DigestMismatchError(
            f"{name}@{version}: expected a base with weights {manifest.base_weights}, "
            f"got {base.name} with {base.weights}.",
            hint="Register the base it was made from: safelatch base add MODEL",
        )
    line = connection.execute(select_lines().where(artifacts.c.name == name)).one_or_none()
    if line is not None:
        _require_line(line, manifest, base)
    key = order_key(version)
    mine = select(versions).join(artifacts, artifacts.c.id == versions.c.artifact_id)
    mine = mine.where(artifacts.c.name == name).order_by(versions.c.version_order.desc()).limit(1)
    same = connection.execute(mine.where(versions.c.version_order == key)).one_or_none()
    if same is not None and same.manifest_digest == manifest.digest:
        return by_digest(connection, manifest.digest)
    if same is not None:
        one = f" ({same.version} and {version} are one version under PEP 440)"
        raise VersionConflictError(
            f"{name}@{same.version}: expected {same.manifest_digest}, as it is published, "
            f"got {manifest.digest}{one if same.version != version else ''}.",
            hint="A published version never changes. Publish a newer one: "
            f"safelatch publish DIR --name {name} --version VERSION",
        )
    newest = connection.execute(mine).one_or_none() if in_order else None
    if newest is not None and newest.version_order > key:
        raise VersionConflictError(
            f"expected a version newer than {name}@{newest.version}, got {version}"
            f"{_not_a_decimal(newest.version, version)}.",
            hint="Versions of a line increase: "
            f"safelatch publish DIR --name {name} --version VERSION",
        )
    return None


def add(
    connection: Connection,
    manifest: Manifest,
    base_id: int,
    files: Iterable[tuple[str, Digest, int]],
) -> Version:
    """Insert the version and, for a first one, its line; ``conflicts`` has answered ``None``.

    Args:
        connection: The writing transaction in which ``conflicts`` was asked.
        manifest: The parsed manifest.
        base_id: Row of the base.
        files: Name, digest and size of every file of the bundle, all stored.
    """
    name, version = _label(manifest)
    now = dt.datetime.now(dt.timezone.utc)
    line_id = connection.scalar(select(artifacts.c.id).where(artifacts.c.name == name))
    if line_id is None:
        line = insert(artifacts).values(
            name=name, kind=manifest.kind, base_id=base_id, created_at=now
        )
        line_id = inserted_id(connection.execute(line))
    row = insert(versions).values(
        artifact_id=line_id,
        version=version,
        version_order=order_key(version),
        manifest_digest=manifest.digest,
        not_before=_moment("not_before", manifest.not_before),
        expires_at=_moment("expires", manifest.expires),
        published_at=now,
    )
    version_id = inserted_id(connection.execute(row))
    for path, digest, size in files:
        remember(connection, digest, size)
        connection.execute(
            insert(version_files).values(version_id=version_id, path=path, blob=digest)
        )
    return by_digest(connection, manifest.digest)


def set_state(connection: Connection, version: Version, state: State, reason: str | None) -> bool:
    """Give the version a state; return whether that changed anything.

    Raises:
        VersionConflictError: it is revoked, which is final.
    """
    present = by_digest(connection, version.digest)
    if present.state == "revoked" and state != "revoked":
        raise VersionConflictError(
            f"{present.label}: expected it to stay revoked ({present.state_reason}), got {state}.",
            hint="Publish a newer version.",
        )
    text = None if reason is None else plain(reason)
    if (present.state, present.state_reason) == (state, text) or present.state == "revoked":
        return False
    row = versions.c.manifest_digest == version.digest
    connection.execute(update(versions).where(row).values(state=state, state_reason=text))
    return True


def sign(connection: Connection, version: Version, signature: Digest, key_id: str) -> bool:
    """Let a version have this signature, whose blob has a row; return whether it had not."""
    row = versions.c.manifest_digest == version.digest
    new = {"signature_blob": signature, "key_id": key_id}
    same = [versions.c[name] == value for name, value in new.items()]
    if connection.scalar(select(versions.c.id).where(row, *same)) is not None:
        return False
    connection.execute(update(versions).where(row).values(new))
    return True


def _not_a_decimal(newest: str, version: str) -> str:
    """Return how 0.65 is newer than 0.7, for those who read both as decimals; else nothing."""
    try:
        if float(version) <= float(newest):
            return ""
    except ValueError:
        return ""
    pairs = zip(newest.split("."), version.split("."), strict=False)
    higher, lower = next((pair for pair in pairs if pair[0] != pair[1]), ("", ""))
    return f" (versions compare part by part: {higher} is more than {lower})"


def _label(manifest: Manifest) -> tuple[str, str]:
    if manifest.name is None or manifest.version is None:
        raise UsageError(
            "expected an artifact with a name and a version, got a draft.",
            hint="Give it both: safelatch publish DIR --name NAME --version V",
        )
    return manifest.name, manifest.version


def _require_line(line: Row[Any], manifest: Manifest, base: Base) -> None:
    for what, expected, got in (
        ("kind", line.kind, manifest.kind),
        ("base", line.weights, base.weights),
    ):
        if expected != got:
            raise VersionConflictError(
                f"line {line.name!r}: expected {what} {expected}, got {got}.",
                hint="A line has one kind and one base. Publish under another name: --name NAME",
            )


def _moment(member: str, text: str | None) -> dt.datetime | None:
    if text is None:
        return None
    try:
        moment = dt.datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        moment = None
    if moment is None or moment.utcoffset() is None:
        finding = f"$.validity.{member}: expected a time such as 2030-01-31T00:00:00Z, got {text!r}"
        raise SchemaViolationError("manifest.json:", [finding], hint=REMAKE)
    return moment
