"""Signing what this registry publishes: manifests, and the one line document of each line.

- A key signs only what it is trusted for here: what is signed here is loaded here.
- A line that was signed once stays signed: each change of it needs a key.
- The state in the database and in the signed line change in one transaction.
- A line lives as long as it is told to, or else as long as the one before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from registry import moment
from registry.artifact.envelope import Envelope
from registry.artifact.line import MOST_DOCUMENTS, Line, LineEntry, first_line
from registry.artifact.succession import require_follows
from registry.artifact.trust import VerifiedLine, require_signer, signed_line, signed_manifest
from registry.errors import ConfirmationRequiredError, VersionConflictError
from registry.workflows.fetch import keys_named_in, line_in
from registry.workflows.find import bundle_of, stored_bundle, version_named
from registry.workflows.line_memory import as_signed
from registry.workflows.reasons import require_sayable, sayable
from registry.workflows.trust import base_names, counting

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from registry.artifact.bundle import Bundle
    from registry.artifact.manifest import Manifest
    from registry.artifact.signing import PrivateKey
    from registry.digest import Digest
    from registry.reference import Reference
    from registry.store.catalog import Registry
    from registry.store.values import Base, SignedLine, State, Version


@dataclass(frozen=True, slots=True)
class Signer:
    """Keys that sign, and how long what they sign about a line counts.

    Attributes:
        keys: Private keys; each signs.
        lifetime: How long the line document is accepted; ``None``: as before, or for ever.
    """

    keys: Sequence[PrivateKey] = ()
    lifetime: timedelta | None = None


NOBODY = Signer()


@dataclass(frozen=True, slots=True)
class SignedVersion:
    """What the store needs to keep a signed version.

    Attributes:
        signature: Envelope over the manifest.
        key_id: The first key that signed.
        line: The line document in which the version is.
        follows: Digest of the newest document seen, which it continues.
    """

    signature: bytes
    key_id: str
    line: SignedLine
    follows: Digest | None

    def members(self) -> dict[str, Any]:
        """Return them as arguments of ``Registry.add_version``."""
        return {
            "signature": self.signature,
            "key_id": self.key_id,
            "line": self.line,
            "follows": self.follows,
        }


def line_in_force(registry: Registry, name: str) -> Line | None:
    """Return the signed line document of ``name`` in this registry, if its line is signed."""
    data = registry.line_bytes(name)
    return None if data is None else line_in(data)


def sign_version(
    registry: Registry, bundle: Bundle, base: Base, signer: Signer
) -> SignedVersion | None:
    """Return the signatures under which ``bundle`` is published; ``None`` where there is no news.

    Raises:
        ConfirmationRequiredError: no key is given, and the line is signed.
        VersionConflictError: the version is in the line, with other content.
        UntrustedKeyError, KeyScopeError: a key may not sign for this base here.
    """
    manifest = bundle.manifest
    before = line_in_force(registry, manifest.name or "")
    if not signer.keys:
        require_unsigned(before)
        return None
    _require_may_sign(signer.keys, registry, base)
    _require_own(registry, before, base)
    created = moment.stamp()
    expires = _expiry(before, signer)
    version = manifest.version or ""
    if before is None:
        line = _beside_unsigned(registry, first_line(manifest, created=created, expires=expires))
    elif version in before.versions:
        _require_same(before.versions[version], manifest)
        if any(one.version == version for one in registry.versions(before.name)):
            return None  # the same again is no news
        line = before.renewed(created=created, expires=expires)  # brought with another version
    else:
        line = before.with_version(version, manifest.digest, created=created, expires=expires)
    return SignedVersion(
        signed_manifest(bundle, signer.keys),
        signer.keys[0].key_id,
        _signed(line, signer.keys),
        _head(registry, line),
    )


def change_state(
    registry: Registry, version: Version, state: State, reason: str | None, signer: Signer | None
) -> Version:
    """Yank, restore or revoke a version, in its signed line too where it has one.

    Args:
        registry: Where it is.
        version: The version.
        state: What it becomes.
        reason: Why.
        signer: Who signs the line; ``None`` to decide for this registry alone.

    Raises:
        VersionConflictError: it is revoked, which is final; or the line moved meanwhile.
        ConfirmationRequiredError: the line is signed, and no key is given.
        UntrustedKeyError, KeyScopeError: a key may not sign for this base here.
        UsageError: the reason is blank, too long, or cannot be printed.
    """
    require_sayable(reason)
    before = None if signer is None else line_in_force(registry, version.name)
    if before is None or signer is None:
        return registry.set_state(version, state, reason)
    entry = before.versions.get(version.version)
    is_final = entry is not None and entry.state == state == "revoked"  # with its first reason
    if entry is not None and (is_final or (entry.state, entry.reason) == (state, reason)):
        return registry.set_state(version, state, reason)
    if not signer.keys:
        require_unsigned(before)
    base = registry.base(version.base_weights)
    _require_may_sign(signer.keys, registry, base)
    _require_own(registry, before, base)
    line = before.with_state(
        version.version, state, reason, created=moment.stamp(), expires=_expiry(before, signer)
    )
    signed = _signed(line, signer.keys)
    return registry.set_state(version, state, reason, line=signed, follows=_head(registry, line))


def sign_again(registry: Registry, name: str, signer: Signer) -> list[Version]:
    """Sign every version of ``name`` and a new line document; return the versions.

    This is how a line becomes signed, how it is renewed before it expires, and how it moves to a
    new key. What older keys signed stays beside it. Of a line that only keys signed which no longer
    count, it keeps what is published here: anything else may be a thief's.

    Raises:
        ArtifactNotFoundError: there is no such line.
        ConfirmationRequiredError: no key is given.
        UntrustedKeyError, KeyScopeError: a key may not sign for this base here.
    """
    versions = registry.versions(name)
    if not signer.keys:
        raise ConfirmationRequiredError(
            f"expected a key that signs for line {name!r}, got none.", hint="Name it: --key KEY"
        )
    base = registry.base(versions[0].base_weights)
    _require_may_sign(signer.keys, registry, base)
    before = line_in_force(registry, name)
    is_own = before is None or _is_own(registry, before, base)
    if before is not None and not is_own and before.sequence >= MOST_DOCUMENTS:
        before = None  # a thief's number leaves none after it: the line begins anew
    created, expires = moment.stamp(), _expiry(before, signer)
    bundles = {version: bundle_of(registry, version) for version in versions}
    if before is None:
        newest = bundles[versions[0]].manifest
        first = first_line(newest, created=created, expires=expires)
        line = _beside_unsigned(registry, first)
    else:
        published = {one.version: one.digest for one in versions}
        line = before.renewed(created=created, expires=expires, only=None if is_own else published)
    signed, follows = _signed(line, signer.keys), _head(registry, line)
    done: list[Version] = []
    for version, bundle in bundles.items():
        signature = signed_manifest(bundle, signer.keys)
        is_last = len(done) == len(bundles) - 1
        done.append(
            registry.sign_version(
                version,
                signature,
                signer.keys[0].key_id,
                signed if is_last else None,
                follows if is_last else None,
            )
        )
    return done


def bundle_to_save(registry: Registry, reference: Reference) -> tuple[Bundle, Version]:
    """Return what ``stored_bundle`` does, and also a revoked version whose signed line says so.

    Whoever gets that one learns of it from ``line.json``, and cannot load it.
    """
    if reference.scheme == "registry" and reference.version is not None:
        version = version_named(registry, reference)
        line = line_in_force(registry, version.name)
        if line and (entry := line.versions.get(version.version)) and entry.state == "revoked":
            return bundle_of(registry, version), version
    return stored_bundle(registry, reference)


def require_unsigned(line: Line | None) -> None:
    """Raise ``ConfirmationRequiredError`` if there is a signed line: changing it needs a key."""
    if line is not None:
        raise ConfirmationRequiredError(
            f"expected a key that signs for line {line.name!r}, which is signed (document "
            f"{line.sequence}), got none.",
            hint="Name it: --key KEY. Not your line? safelatch revoke NAME@V --here --reason WHY",
        )


def _is_own(registry: Registry, line: Line, base: Base) -> bool:
    """Return whether a key that counts now signed the line in force."""
    counts = counting(registry.trusted_keys(), (*base_names(base), str(base.weights)), moment.now())
    return not set(counts).isdisjoint(keys_named_in(registry.line_bytes(line.name) or b""))


def _require_own(registry: Registry, line: Line | None, base: Base) -> None:
    if line is not None and not _is_own(registry, line, base):
        raise ConfirmationRequiredError(
            f"expected line {line.name!r} signed by a key that counts now, document "
            f"{line.sequence} is signed by none.",
            hint=f"Sign what is published here anew: safelatch sign {line.name} --key KEY",
        )


def _require_same(entry: LineEntry, manifest: Manifest) -> None:
    if entry.digest != manifest.digest:
        raise VersionConflictError(
            f"{manifest.label}: expected {entry.digest}, as it is published, got "
            f"{manifest.digest}.",
            hint="A published version never changes. Publish a newer one: "
            f"safelatch publish DIR --name {manifest.name} --version VERSION",
        )


def _require_may_sign(keys: Sequence[PrivateKey], registry: Registry, base: Base) -> None:
    names = (*base_names(base), str(base.weights))
    trusted, now = registry.trusted_keys(), moment.now()
    for key in keys:  # each of them, not one out of all
        probe = key.sign(Envelope(b"", "application/vnd.safelatch.probe"))
        require_signer(probe, trusted, names, what=f"what {key.key_id} would sign", now=now)


def _head(registry: Registry, line: Line) -> Digest | None:
    """Return the newest document that was seen of this line, which ``line`` continues.

    Raises:
        RollbackError, LineForkError, VersionConflictError: it does not.
    """
    head = registry.line_head(line.name, line.base)
    if head is None:
        return None
    require_follows(line, Line.from_bytes(head.document))
    return head.digest


def _signed(line: Line, keys: Sequence[PrivateKey]) -> SignedLine:
    ids = tuple(key.key_id for key in keys)
    return as_signed(VerifiedLine(line, signed_line(line, keys), ids))


def _beside_unsigned(registry: Registry, line: Line) -> Line:
    """Return ``line`` with what was published before it was signed, each in its state."""
    names = {found.name for found in registry.lines()}
    earlier = registry.versions(line.name) if line.name in names else []
    entries = {
        one.version: LineEntry(one.digest, one.state, sayable(one.state_reason)) for one in earlier
    }
    return replace(line, versions=MappingProxyType({**line.versions, **entries}))


def _expiry(before: Line | None, signer: Signer) -> str | None:
    lifetime = signer.lifetime
    if lifetime is None and before is not None and before.expires is not None:
        lifetime = moment.parse_stamp(before.expires) - moment.parse_stamp(before.created)
    return None if lifetime is None else moment.stamp(moment.now() + lifetime)
