"""Give a bundle its line and version, and put it into the registry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.artifact.bundle import BASE, read_bundle
from registry.artifact.line import FETCH, Line
from registry.artifact.succession import require_usable
from registry.artifact.trust import VerifiedLine
from registry.checkpoint.record import BaseRecord
from registry.errors import UnsignedError, UsageError
from registry.kinds import parse_body
from registry.reference import skeleton
from registry.workflows.bases import require_same_record
from registry.workflows.check import require_own_base
from registry.workflows.fetch import line_in
from registry.workflows.line_memory import as_signed, states_of
from registry.workflows.sign import NOBODY, SignedVersion, Signer, sign_version
from registry.workflows.trust import trust_of, vouch

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from registry.artifact.bundle import Bundle
    from registry.store.catalog import Registry
    from registry.store.values import Base, Version


@dataclass(frozen=True, slots=True)
class Published:
    """A version in the registry, and whether this call put it there."""

    version: Version
    is_new: bool


def publish(
    registry: Registry,
    folder: Path,
    *,
    name: str,
    version: str,
    signer: Signer = NOBODY,
) -> Published:
    """Publish the bundle at ``folder`` as ``name@version``.

    The bundle is checked completely first: digests, schema, the kind's own rules, that it is ready
    to be applied, and that its base record is of the base it names. The same content again is no
    news; other content under a published version is refused. A bundle that its publisher signed
    must be vouched for by a key that is trusted here, and keeps its signatures. Signed anew, it is
    a version of this registry's line, unless the line that it came with revokes it.

    Args:
        registry: Where to.
        folder: A draft, or a bundle of this very name and version.
        name: Its line.
        version: PEP 440.
        signer: Who signs it; nobody by default.

    Raises:
        EvidenceError: the bundle is not what it says; see also ``workflows.trust.vouch``.
        VersionConflictError: the version exists with other content, or is not the newest.
        ConfirmationRequiredError: it is not ready to be applied (its strength is not measured), or
            its line is signed and no key is given.
        UsageError: the bundle carries another name or version already, or the name is a line's that
            only differs in its separators.
    """
    bundle = read_bundle(folder)
    manifest = bundle.manifest
    named = bundle.named(name, version)
    if manifest.name is not None and manifest.label != named.manifest.label:
        raise UsageError(
            f"expected a draft or a bundle of {named.manifest.label}, got {manifest.label}.",
            hint=f"Publish it as what it is: --name {manifest.name} --version {manifest.version}",
        )
    record = _require_publishable(registry, named)
    if signer.keys:
        _require_not_withdrawn(bundle)
    brought = None if signer.keys else _brought(registry, bundle)
    base = _add_base(registry, named, record)
    signed = brought or sign_version(registry, named, base, signer)
    given: dict[str, Any] = {} if signed is None else signed.members()
    stored, is_new = registry.add_version(named.manifest, named.files, base_name=base.name, **given)
    if brought is None:
        return Published(stored, is_new)
    return Published(_in_state(registry, stored, brought), is_new)


def receive(
    registry: Registry, bundle: Bundle, *, origin: Mapping[str, str] | None = None
) -> Published:
    """Put a bundle that somebody else published and signed into the registry, with its line.

    Its line says which versions there are: an older one may come after a newer one.

    Args:
        registry: Where to.
        bundle: Checked.
        origin: Where it came from, for the event log.

    Raises:
        EvidenceError: it is not what it says, or nobody who is trusted here vouches for it (see
            ``workflows.trust.vouch``).
        VersionConflictError: the version exists with other content.
        UsageError: its name only differs from a line's in its separators.
    """
    record = _require_publishable(registry, bundle)
    brought = _brought(registry, bundle)
    if brought is None:
        raise UnsignedError(
            f"{bundle.manifest.label}: expected a signed bundle, got one that nobody signed.",
            hint=FETCH,
        )
    base = _add_base(registry, bundle, record)
    stored, is_new = registry.add_version(
        bundle.manifest, bundle.files, base_name=base.name, in_order=False, origin=origin,
        **brought.members(),
    )  # fmt: skip
    return Published(_in_state(registry, stored, brought), is_new)


def _require_publishable(registry: Registry, bundle: Bundle) -> BaseRecord:
    """Check what does not depend on who signed, and return the record of the bundle's base."""
    _require_no_twin(registry, bundle.manifest.name or "")
    parse_body(bundle).require_ready()
    record = BaseRecord.from_tensors(bundle.base_tensors())
    require_own_base(bundle, record)
    return record


def _add_base(registry: Registry, bundle: Bundle, record: BaseRecord) -> Base:
    """Return the base of ``bundle`` in the registry, added if it was not there."""
    manifest = bundle.manifest
    name = _free_name(registry, manifest.base.name, record)
    base = registry.add_base(name, record, bundle.files[BASE])
    brought = manifest.files[BASE].digest
    require_same_record(base, brought, f"the one in {manifest.label}")
    return base


def _in_state(registry: Registry, stored: Version, brought: SignedVersion) -> Version:
    """Return ``stored`` in the state that the line it came with gives it."""
    line = Line.from_bytes(brought.line.document)
    changed = registry.apply_states(
        line.name, states_of(line, registry), line=brought.line, follows=brought.line.digest
    )
    return next((version for version in changed if version.digest == stored.digest), stored)


def _require_not_withdrawn(bundle: Bundle) -> None:
    """Raise ``RevokedError`` if the line that came with ``bundle`` revokes it, whoever signed it.

    A line that is signed anew says nothing of where the bundle comes from.
    """
    if bundle.line is not None:
        entry = line_in(bundle.line).versions.get(bundle.manifest.version or "")
        if entry is not None and entry.digest == bundle.manifest.digest:
            require_usable(bundle.manifest.label, entry)


def _brought(registry: Registry, bundle: Bundle) -> SignedVersion | None:
    """Return the signatures that ``bundle`` came with, verified, if it has any."""
    if bundle.signature is None and bundle.line is None:
        return None
    vouched = vouch(bundle, trust_of(None, registry), registry)
    if vouched is None or bundle.signature is None or bundle.line is None:
        return None
    head = registry.line_head(vouched.line.name, vouched.line.base)
    verified = VerifiedLine(vouched.line, bundle.line, vouched.line_signers)
    return SignedVersion(
        bundle.signature,
        vouched.signers[0],
        as_signed(verified),
        None if head is None else head.digest,
    )


def _require_no_twin(registry: Registry, name: str) -> None:
    """Raise if ``my_lock`` is new and there is a ``my-lock``: people take one for the other."""
    names = [line.name for line in registry.lines()]
    twins = [other for other in names if skeleton(other) == skeleton(name)]
    if twins and name not in names:
        raise UsageError(
            f"expected a name that is taken for no other line's, got {name} beside {twins[0]}.",
            hint=f"Publish it as a version of {twins[0]}, or choose another name: --name NAME",
        )


def _free_name(registry: Registry, declared: str, record: BaseRecord) -> str:
    """Return a name for the bundle's base: the declared one unless another base holds it."""
    taken = {base.name: base.weights for base in registry.bases()}
    if taken.get(declared, record.weights) == record.weights:
        return declared
    return f"{declared}-{record.weights.removeprefix('blake3:')[:8]}"
