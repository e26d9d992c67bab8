"""Put an artifact onto a model that is in memory, read it back, take it off again.

- The base is checked on the live weights themselves (``check_live``): a model too far from the
  artifact's base is refused with the measured distance.
- Applying and reading back are one step: what cannot be verified is taken off and raised.
- ``model.safelatch`` says what is on the model, in the four words: applied, and verified with the
  time of the reading. It is a convenience; the truth is what ``verify()`` reads from the model.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from registry.artifact.bundle import TENSORS, Bundle
from registry.errors import AlreadyAppliedError, RegistryMissingError
from registry.kinds import kind_of, parse_body
from registry.moment import stamp
from registry.workflows.check_live import require_compatible
from registry.workflows.find import find_bundle, open_registry
from registry.workflows.trust import require_vouched

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from registry.reference import Reference
    from registry.store.catalog import Registry
    from registry.workflows.trust import TrustArgument, Vouched


@dataclass(slots=True)
class Applied:
    """An artifact that is on a live model.

    Attributes:
        label: ``name@version`` of the artifact.
        digest: Its identity.
        content: Digest of its tensors: the same under every name and version.
        kind: Its kind.
        alpha: Strength that was applied; ``None`` where the kind has none.
        applied_at: When, UTC.
        verified_at: When the model was last read back and found to carry it; ``None`` if never.
        evidence: What that reading found.
        body: The artifact's checked body.
        precondition: What the kind found on the model before applying; ``None`` if not asked.
        signed_by: Trusted keys that signed it; none where nobody was asked.
        recorded: Whether the registry's event log has this application.
    """

    label: str
    digest: str
    content: str
    kind: str
    alpha: float | None
    applied_at: str
    verified_at: str | None
    evidence: dict[str, Any]
    precondition: dict[str, Any] | None
    signed_by: tuple[str, ...]
    recorded: bool
    body: Any
    _model: Any
    _application: Any

    def verify(self) -> dict[str, Any]:
        """Read the model back and return the evidence.

        Raises:
            VerificationError: the artifact is not on the model as it prescribes; from then on
                ``verified_at`` is ``None``.
        """
        self.verified_at = None
        found = kind_of(self.kind).verb("verify").verify(self._model, self.body, self._application)
        self.evidence = found.to_dict()
        self.verified_at = stamp()
        return self.evidence

    def undo(self) -> None:
        """Take the artifact off; every tensor is again what it was, bit for bit."""
        kind_of(self.kind).verb("apply").undo(self._model, self._application)
        remaining = [entry for entry in applied_to(self._model) if entry is not self]
        _remember(self._model, tuple(remaining))

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "artifact": self.label,
            "digest": self.digest,
            "kind": self.kind,
            "alpha": self.alpha,
            "applied_at": self.applied_at,
            "verified_at": self.verified_at,
            "evidence": self.evidence,
            "precondition": self.precondition,
            "signed_by": list(self.signed_by),
            "recorded": self.recorded,
        }


@dataclass(frozen=True, slots=True)
class Protection:
    """What ``model.safelatch`` says.

    Attributes:
        applied: The artifacts on the model, in order.
        checkpoint: Weights digest of the checkpoint, when it was loaded from files.
        base: Name of its base.
        lineage: Measured lineage, as a document.
        policy: Policy of the load; ``None`` for ``protect``.
        noted: Whether the load itself is in a registry's event log.
        receipt: File that says what is on the model, where no registry could write it down.
    """

    applied: tuple[Applied, ...]
    checkpoint: str | None = None
    base: str | None = None
    lineage: dict[str, Any] | None = None
    policy: str | None = None
    noted: bool = False
    receipt: str | None = None

    @property
    def recorded(self) -> bool:
        """Whether the event log knows of the load and of everything that is on the model."""
        return self.noted and all(entry.recorded for entry in self.applied)

    @property
    def verified(self) -> bool:
        """Whether every artifact was read back, and there is at least one."""
        return bool(self.applied) and all(entry.verified_at for entry in self.applied)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "applied": [entry.to_dict() for entry in self.applied],
            "verified": self.verified,
            "checkpoint": self.checkpoint,
            "base": self.base,
            "lineage": self.lineage,
            "policy": self.policy,
            "recorded": self.recorded,
            "receipt": self.receipt,
        }


def protect(
    model: Any,
    artifact: Bundle | Reference | str | os.PathLike[str],
    *,
    alpha: float | None = None,
    allow_unsafe: bool = False,
    tokenizer: Any = None,
    registry: Registry | str | None = None,
    trust: TrustArgument = None,
) -> Applied:
    """Apply ``artifact`` to a live model, read it back, and return the handle.

    Args:
        model: A transformers model with plain weights, a fine-tune of the artifact's base.
        artifact: A bundle, its folder, or a reference.
        alpha: Strength; the calibrated one by default.
        allow_unsafe: Accept a strength outside the measured range.
        tokenizer: The model's tokenizer; with it the kind's precondition is checked on the model
            first, as ``load_protected`` always does (for a lock: that it points to refusal).
            Without it ``handle.precondition`` is ``None``: not checked.
        registry: Where references are looked up, and an unsafe strength is written down; the
            default registry, if there is one.
        trust: Public keys of which one must have signed it; by default those that the registry
            trusts. A bundle in memory is asked for a signature only where keys are given.

    Raises:
        BaseModelMismatchError, GeometryError: the model is too far from the artifact's base, or
            computes with another config.
        EvidenceError: nobody who is trusted signed it, or it is revoked (``workflows.trust``).
        SafelatchError: see the kind's ``apply`` and ``verify``; the model is as it was.
    """

    def approve(head: Bundle) -> None:
        require_vouched(head, trust, registry)

    bundle = artifact
    if not isinstance(bundle, Bundle):
        bundle = find_bundle(bundle, registry, approve=approve)
    said = None
    if bundle is not artifact or trust is not None:
        said = require_vouched(bundle, trust, registry)
    require_compatible(model, bundle)
    found = None
    if tokenizer is not None:
        verb = kind_of(bundle.manifest.kind).verb("verify")
        found = verb.precondition(model, lambda: tokenizer, parse_body(bundle))
    handle = apply_verified(
        model, bundle, alpha=alpha, allow_unsafe=allow_unsafe, precondition=found, said=said
    )
    if allow_unsafe:
        try:
            _record_unsafe(handle, registry)
        except BaseException:  # an unmeasured strength that leaves no event does not stay
            handle.undo()
            raise
    return handle


def apply_verified(
    model: Any,
    bundle: Bundle,
    *,
    alpha: float | None = None,
    allow_unsafe: bool = False,
    precondition: dict[str, Any] | None = None,
    said: Vouched | None = None,
) -> Applied:
    """Apply a bundle that was checked against this model; raise, with it off, if unverified."""
    manifest = bundle.manifest
    kind, body = kind_of(manifest.kind), parse_body(bundle)
    content = manifest.files[TENSORS].digest
    for entry in applied_to(model):
        if entry.content == content:
            raise AlreadyAppliedError(
                f"{manifest.label}: expected an artifact that is not on this model, its tensors "
                f"are on it already as {entry.label}.",
                hint="Take it off first: registry.unprotect(model)",
            )
    application = kind.verb("apply").apply(
        model,
        body,
        owner=f"{manifest.label} ({manifest.digest})",
        alpha=alpha,
        allow_unsafe=allow_unsafe,
    )
    handle = Applied(
        label=manifest.label,
        digest=manifest.digest,
        content=content,
        kind=manifest.kind,
        alpha=application.alpha,
        applied_at=stamp(),
        verified_at=None,
        evidence={},
        precondition=precondition,
        signed_by=() if said is None else said.signers,
        recorded=False,
        body=body,
        _model=model,
        _application=application,
    )
    _remember(model, (*applied_to(model), handle))
    try:
        handle.verify()
    except BaseException:  # also out of memory and Ctrl-C: what was not verified does not stay
        handle.undo()
        raise
    return handle


@contextmanager
def protected(
    model: Any, artifact: Bundle | Reference | str | os.PathLike[str], **options: Any
) -> Iterator[Applied]:
    """Apply ``artifact`` inside the block and take it off after it; options as ``protect``."""
    handle = protect(model, artifact, **options)
    try:
        yield handle
    finally:
        handle.undo()


def unprotect(model: Any) -> int:
    """Take every artifact off ``model`` and return how many there were."""
    handles = applied_to(model)
    for handle in reversed(handles):
        handle.undo()
    return len(handles)


def _record_unsafe(handle: Applied, registry: Registry | str | None) -> None:
    """Leave an event about a strength that was not measured, where there is a registry."""
    try:
        with open_registry(registry) as opened:
            if not opened.is_read_only:
                detail = {"kind": handle.kind, "alpha": handle.alpha, "digest": handle.digest}
                opened.append_event("protect.unsafe", handle.label, detail)
    except RegistryMissingError:
        return


def _remember(model: Any, handles: tuple[Applied, ...]) -> None:
    """Write ``handles`` on the model, beside what is known about where it came from."""
    known = getattr(model, "safelatch", None)
    known = known if isinstance(known, Protection) else Protection(())
    model.safelatch = replace(known, applied=handles)


def applied_to(model: Any) -> tuple[Applied, ...]:
    """Return the handles of the artifacts on ``model``."""
    protection = getattr(model, "safelatch", None)
    return protection.applied if isinstance(protection, Protection) else ()
