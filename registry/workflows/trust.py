"""Does anybody we trust say that this artifact is theirs, and that it may still be used?

- Whose word counts: the keys given with the call, or else those of the registry.
- What a key may speak for is told by names, and a name is tied to weights by whoever measured them:
  the repository the registry added the base from, or else its name there, or else, where the base
  was never measured here, what the publisher calls it.
- Where a key is trusted for a base, an artifact of it without a signature is refused: otherwise
  taking the signature away would be all an attacker has to do. So it is for a base that was never
  measured here, whose name would be the attacker's word, where any key is trusted. Elsewhere it is
  accepted, and nobody is named as its signer.
- A signed artifact without a trusted key is refused everywhere: that it is signed is no reason to
  believe it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry import moment
from registry.artifact.bundle import Bundle
from registry.artifact.signing import read_public_key, require_key_id
from registry.artifact.succession import require_usable
from registry.artifact.trust import TrustedKey, verify_line, verify_manifest
from registry.errors import BaseNotFoundError, UnsignedError, UsageError
from registry.plainfile import expanded
from registry.workflows.find import find_bundle, known_version, registry_if_any
from registry.workflows.line_memory import accept

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from registry.artifact.line import Line
    from registry.reference import Reference
    from registry.store.catalog import Registry
    from registry.store.values import Base

    TrustArgument = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None


@dataclass(frozen=True, slots=True)
class Trust:
    """The keys whose word counts in one call.

    Attributes:
        keys: Those that were decided about, revoked ones too.
        is_given: Whether they came with the call: then nothing unsigned is accepted.
    """

    keys: tuple[TrustedKey, ...] = ()
    is_given: bool = False

    def own(
        self,
        registry: Registry | None,
        signers: Sequence[str],
        names: Sequence[str],
        now: datetime,
    ) -> tuple[str, ...]:
        """Return those of ``signers`` that count in ``registry``, not in this call alone."""
        if not self.is_given or registry is None:
            return tuple(signers)
        there = counting(registry.trusted_keys(), names, now)
        return tuple(key for key in signers if key in there)

    def requires_signature(self, names: Sequence[str], *, is_measured: bool) -> bool:
        """Return whether an artifact of a base must be signed.

        Args:
            names: What the base is called.
            is_measured: Whether that was told by whoever measured it, and not by its publisher.
        """
        if self.is_given:
            return True
        return any(k.speaks_for(names) or (k.namespaces and not is_measured) for k in self.keys)


def counting(keys: Sequence[TrustedKey], names: Sequence[str], now: datetime) -> list[str]:
    """Return the ids of the keys that count now for a base of these names."""
    return [key.key_id for key in keys if not key.refusal(now) and key.speaks_for(names)]


@dataclass(frozen=True, slots=True)
class Vouched:
    """What trusted keys said of a bundle.

    Attributes:
        signers: Keys that signed the manifest and count here.
        line: The line document that was verified and is remembered.
        line_signers: Keys that signed the line document and count here.
        is_yanked: Whether it withdraws this version from those who do not name it.
        reason: Why it does.
    """

    signers: tuple[str, ...]
    line: Line
    line_signers: tuple[str, ...]
    is_yanked: bool
    reason: str | None


def trust_of(given: TrustArgument, registry: Registry | None) -> Trust:
    """Return the keys that count: those given, or else the registry's.

    Args:
        given: Files of public keys, or key ids; one or several.
        registry: Where keys are kept.

    Raises:
        UsageError: an empty list, or something that is neither a file nor a key id.
        NotFoundError, UnsafeFormatError: a file is not there, or no public key.
    """
    if given is None:
        return Trust(() if registry is None else tuple(registry.trusted_keys()))
    named = [given] if isinstance(given, str | os.PathLike) else list(given)
    if not named:
        raise UsageError(
            "expected at least one public key in trust, got none.",
            hint="Name one: load_protected(..., trust='publisher.pub')",
        )
    ids = dict.fromkeys(key_id_of(one) for one in named)
    known = [] if registry is None else registry.trusted_keys()
    revoked = {key.key_id: key for key in known if key.revoked_at is not None}
    return Trust(tuple(revoked.get(one) or TrustedKey(one, ("*",)) for one in ids), is_given=True)


def vouch(
    bundle: Bundle, trust: Trust, registry: Registry | None, *, now: datetime | None = None
) -> Vouched | None:
    """Return what trusted keys say of ``bundle``; ``None`` where nobody is asked and nobody signed.

    Args:
        bundle: A checked bundle.
        trust: The keys that count.
        registry: Where bases have names and seen lines are remembered.
        now: The time; the clock's by default.

    Raises:
        UnsignedError, SignatureError, UntrustedKeyError, KeyScopeError: nobody trusted signed it.
        RollbackError, LineForkError, LineExpiredError: its line is not the newest that was seen.
        RevokedError: its version is revoked.
        VersionConflictError: the line is of another artifact.
    """
    names, time = names_of(bundle, registry), now or moment.now()
    manifest = bundle.manifest
    if bundle.signature is None and bundle.line is None:
        is_measured = _known_base(bundle, registry) is not None
        if trust.requires_signature(names, is_measured=is_measured):
            why = f"as keys are trusted for {' or '.join(names)}"
            if not trust.is_given and not any(key.speaks_for(names) for key in trust.keys):
                why = f"as keys are trusted here and the base {names[0]} was never added"
            raise UnsignedError(
                f"{manifest.label}: expected a signature by a trusted key, {why}, got none.",
                hint="Sign it: safelatch sign NAME --key KEY; or get the signed bundle from its "
                "publisher.",
            )
        return None
    line = verify_line(bundle.line, trust.keys, names, label=manifest.label, now=time)
    entry = line.line.entry_of(manifest)  # first: its keys were asked about the manifest's base
    own = trust.own(registry, line.signers, names, time)
    accept(
        line,
        registry if own else None,
        own=own,
        trusted=counting(trust.keys, names, time),
    )
    signers = verify_manifest(bundle, trust.keys, names, now=time)
    require_usable(manifest.label, entry)
    return Vouched(signers, line.line, line.signers, entry.state == "yanked", entry.reason)


def require_vouched(
    bundle: Bundle, given: TrustArgument, registry: Registry | str | None
) -> Vouched | None:
    """Return what ``vouch`` does, with the keys given or those of the registry, if there is one.

    Raises:
        RevokedError: the registry has revoked this bundle, wherever it came from.
        EvidenceError: see ``vouch``.
    """
    with registry_if_any(registry) as opened:
        if opened is not None:
            known_version(opened, bundle)
        return vouch(bundle, trust_of(given, opened), opened)


def vouched_bundle(
    artifact: Bundle | Reference | str | os.PathLike[str],
    given: TrustArgument,
    registry: Registry | str | None,
) -> tuple[Bundle, Vouched | None]:
    """Return the bundle that ``artifact`` is or names, and what trusted keys say of it.

    A bundle in memory is asked for a signature only where keys are given. Of one in a remote, the
    keys are asked before its large files are read, and again when they are there.

    Raises:
        ArtifactNotFoundError, VersionNotFoundError, RemoteError: see ``find_bundle``.
        RevokedError, EvidenceError: see ``require_vouched``.
    """
    if isinstance(artifact, Bundle):
        return artifact, None if given is None else require_vouched(artifact, given, registry)

    def approve(head: Bundle) -> None:
        require_vouched(head, given, registry)

    bundle = find_bundle(artifact, registry, approve=approve)
    return bundle, require_vouched(bundle, given, registry)


def names_of(bundle: Bundle, registry: Registry | None) -> tuple[str, ...]:
    """Return what the base of ``bundle`` is called here, and its weights digest."""
    declared, known = bundle.manifest.base, _known_base(bundle, registry)
    names = (declared.name,) if known is None else base_names(known)
    return (*names, str(declared.weights))


def _known_base(bundle: Bundle, registry: Registry | None) -> Base | None:
    if registry is None:
        return None
    try:
        base = registry.base(bundle.manifest.base_weights)
    except BaseNotFoundError:
        return None
    return base if base.is_measured else None


def base_names(base: Base) -> tuple[str, ...]:
    """Return the repositories a base was added from, or else its name in the registry.

    The name under which it came in a bundle is its publisher's: one that it was given when it was
    measured takes its place.
    """
    hub = sorted({a.value.partition("@")[0] for a in base.aliases if a.scheme == "hub"})
    given = sorted(alias.value for alias in base.aliases if alias.scheme == "name")
    return tuple(hub) or tuple(given) or (base.name,)


def key_id_of(named: str | os.PathLike[str]) -> str:
    """Return the id of a public key that is named by its file or by that very id.

    Raises:
        NotFoundError, UnsafeFormatError, UsageError: the file is not there, or no public key.
    """
    if isinstance(named, str) and named.startswith("ed25519:"):
        return require_key_id(named)
    return read_public_key(expanded(named))
