"""From a remote's name to the bundle it has: read, bounded and digest-checked, stored nowhere.

- The newest line document is always asked for, also where an older commit is named: that a version
  was revoked since is what a pin must not hide.
- So is the signature of the version: a key that came later counts for a pinned commit too.
- Which version is wanted is looked up in a line that nobody has verified yet. Whoever uses the
  bundle has it vouched for, with that very line; who can, before its large files are read.
- Sizes are bounded before a byte is read, by the listing and then by the manifest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from registry.artifact import line as line_document
from registry.artifact.bundle import (
    BASE,
    FILE_LIMIT,
    MANIFEST,
    SIGNATURE,
    TENSORS,
    Bundle,
    check_files,
    envelopes,
)
from registry.artifact.envelope import read_envelope
from registry.artifact.line import FETCH, LINE_LIMIT, Line
from registry.artifact.manifest import MANIFEST_LIMIT, Manifest
from registry.digest import require_digest
from registry.errors import (
    ArtifactNotFoundError,
    RemoteError,
    UnsignedError,
    VersionConflictError,
    VersionNotFoundError,
)
from registry.remote.contract import LINE, version_path
from registry.workflows.remotes import open_remote

if TYPE_CHECKING:
    from collections.abc import Callable

    from registry.artifact.envelope import Envelope
    from registry.reference import Reference
    from registry.remote.contract import Remote, Snapshot

ENVELOPE_LIMIT = 3 * LINE_LIMIT
"""Most bytes of a signed line: base64 takes a third more."""
SIGNATURE_LIMIT = 3 * MANIFEST_LIMIT
"""Most bytes of a signed manifest."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A bundle out of a remote.

    Attributes:
        bundle: Checked against its digests; nobody vouched for it yet.
        url: The remote.
        commit: Where its files were read, 40 hex digits.
    """

    bundle: Bundle
    url: str
    commit: str


def fetch_bundle(
    reference: Reference, *, approve: Callable[[Bundle], object] | None = None
) -> Fetched:
    """Return the bundle that ``reference`` names in a remote, with the newest line there.

    Without a version it is the newest active one of the line, as of the named revision.

    Args:
        reference: A remote, and which version in it.
        approve: Is given the manifest with its envelopes before any other file is asked for, as a
            bundle of that file alone; raises if nobody vouches for it. Strangers could have
            gigabytes read otherwise.

    Raises:
        ArtifactNotFoundError, VersionNotFoundError: the remote is empty, or has no such version.
        VersionConflictError: it holds another line than the one named.
        UnsignedError: it has no line.
        RemoteError: it cannot be reached, refuses, or states nonsense.
        EvidenceError: what it holds is malformed, or not what its line says.
    """
    remote = open_remote(reference)
    newest = remote.snapshot()
    if newest is None:
        raise ArtifactNotFoundError(
            f"expected a line of artifacts at {remote.url}, found nothing.",
            hint=f"Put one there: safelatch push NAME {remote.url}",
        )
    envelope = _envelope(remote, newest)
    line = of_revision = line_in(envelope)
    there = newest
    if reference.revision is not None:
        pinned = remote.snapshot(reference.revision)
        if pinned is None:
            raise ArtifactNotFoundError(
                f"expected the revision {reference.revision} of {remote.url}, found none.",
                hint=f"Name one that is there, or none: {remote.url}",
            )
        there = pinned
        of_revision = line_in(_envelope(remote, there))
    if reference.name is not None and reference.name != line.name:
        raise VersionConflictError(
            f"{remote.url}: expected the line {reference.name}, it holds {line.name}.",
            hint=f"Name it as what it is: {remote.url}#{line.name}",
        )
    version = _version(of_revision, reference.version, remote.url)
    head = _head(remote, there, of_revision, version)
    path = version_path(version, SIGNATURE)
    signed = newest if path in newest.files else there
    if path in signed.files:
        head = replace(head, signature=remote.read(signed, path, limit=SIGNATURE_LIMIT))
    head = replace(head, line=envelope)
    if approve is not None:
        approve(head)
    label = f"{line.name}@{version}"
    return Fetched(_whole(remote, there, label, head), remote.url, there.commit)


def line_in(envelope: bytes) -> Line:
    """Return the line document in a signed envelope, its form checked, its signatures not."""
    return Line.from_bytes(_opened(envelope).payload)


def keys_named_in(envelope: bytes) -> tuple[str, ...]:
    """Return the keys that a signed line names; whether they signed it is not said."""
    return _opened(envelope).key_ids


def _opened(envelope: bytes) -> Envelope:
    kind, what = line_document.PAYLOAD_TYPE, "line.json"
    return read_envelope(envelope, payload_type=kind, what=what, limit=LINE_LIMIT, hint=FETCH)


def _envelope(remote: Remote, snapshot: Snapshot) -> bytes:
    if LINE not in snapshot.files:
        raise UnsignedError(
            f"{remote.url}: expected {LINE} at commit {snapshot.commit}, found none.", hint=FETCH
        )
    return remote.read(snapshot, LINE, limit=ENVELOPE_LIMIT)


def _version(line: Line, wanted: str | None, url: str) -> str:
    """Return the version of ``line`` that is wanted, in its one spelling."""
    from packaging.version import InvalidVersion, Version

    ordered = sorted(line.versions, key=Version, reverse=True)
    if wanted is None:
        if line.newest_active is not None:
            return line.newest_active
        states = ", ".join(f"{one} {line.versions[one].state}" for one in ordered[:8])
        raise VersionNotFoundError(
            f"{url}: expected an active version of {line.name}, got {states}.",
            hint=f"A yanked one must be named: {url}#{line.name}@{ordered[0]}",
        )
    try:
        number = Version(wanted)
    except InvalidVersion:
        number = None
    for one in ordered:
        if Version(one) == number:
            return one
    raise VersionNotFoundError(
        f"{url}: expected a version of {line.name} ({', '.join(ordered[:8])}), got {wanted!r}.",
        hint=f"Name one that is there: {url}#{line.name}@{ordered[0]}",
    )


def _head(remote: Remote, snapshot: Snapshot, line: Line, version: str) -> Bundle:
    """Return the manifest of ``version`` as a bundle of that file alone."""
    data = _read(remote, snapshot, f"{line.name}@{version}", MANIFEST, MANIFEST_LIMIT)
    what, expected = f"{remote.url} {line.name}@{version} {MANIFEST}", line.versions[version].digest
    require_digest(data, expected, what=what, hint=FETCH)
    return Bundle(Manifest.from_bytes(data), {MANIFEST: data})


def _whole(remote: Remote, snapshot: Snapshot, label: str, head: Bundle) -> Bundle:
    """Return ``head`` with its other files, each read once and no longer than was said."""
    files = {**head.files, **envelopes(head)}
    entries = head.manifest.files
    for name in (TENSORS, BASE):
        if name in entries:
            limit = min(entries[name].size, FILE_LIMIT)
            files[name] = _read(remote, snapshot, label, name, limit)
    return check_files(files, expected=head.manifest.digest)


def _read(remote: Remote, snapshot: Snapshot, label: str, name: str, limit: int) -> bytes:
    path = version_path(label.rpartition("@")[2], name)
    if path not in snapshot.files:
        raise RemoteError(
            f"{remote.url}: expected {path} at commit {snapshot.commit}, found none.",
            hint=f"Ask its publisher to push it: safelatch push {label} {remote.url}",
        )
    return remote.read(snapshot, path, limit=limit)
