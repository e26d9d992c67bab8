"""Keep what an artifact protects while a model is trained, and prove afterwards that it was kept.

::

    g = registry.guard(model, artifact)       # before the optimizer is built
    optimizer = AdamW(p for p in model.parameters() if p.requires_grad)
    g.attach(optimizer)
    ...                                       # train
    g.verify()                                # raises unless it is bit for bit what it was
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from registry.errors import GuardError
from registry.kinds import kind_of, parse_body
from registry.live.attach import owners
from registry.live.wrapped import look_under
from registry.moment import stamp
from registry.workflows.check_live import require_compatible
from registry.workflows.trust import vouched_bundle

if TYPE_CHECKING:
    import os

    from registry.artifact.bundle import Bundle
    from registry.kinds.contract import GuardReport, ModelGuard
    from registry.reference import Reference
    from registry.store.catalog import Registry
    from registry.workflows.trust import TrustArgument


@dataclass(slots=True)
class Guard:
    """An artifact that is kept while a model is trained.

    Attributes:
        label: ``name@version`` of the artifact.
        digest: Its identity.
        kind: Its kind.
        body: Its checked body.
        signed_by: Trusted keys that signed it; none where nobody was asked.
        verified_at: When the model was last read back and found unchanged; ``None`` if never.
        evidence: What that reading found.
    """

    label: str
    digest: str
    kind: str
    body: Any = field(repr=False)
    signed_by: tuple[str, ...]
    _kept: ModelGuard = field(repr=False)
    verified_at: str | None = None
    evidence: dict[str, Any] | None = None

    def attach(self, optimizer: Any) -> None:
        """Watch ``optimizer``, which was built after the guard.

        Raises:
            GuardError: it could change what is protected.
            RuntimeError: the guard was released.
        """
        self._kept.attach(optimizer)

    def verify(self) -> dict[str, Any]:
        """Read the model back and return the evidence that nothing protected has changed.

        Raises:
            VerificationError: with every protected parameter that is not bit for bit what it was;
                from then on ``verified_at`` is ``None``.
            GuardError: something else acts where the artifact protects.
        """
        self.verified_at = self.evidence = None
        self.evidence = self._kept.verify().to_dict()
        self.verified_at = stamp()
        return dict(self.evidence)

    def is_on(self, model: Any) -> bool:
        """Return whether this guard is on ``model``, or on what it wraps."""
        return self._kept.is_on(model)

    @property
    def is_shared(self) -> bool:
        """Whether the model was guarded again meanwhile: then it is released for all who ask."""
        return self._kept.is_shared

    def report(self) -> GuardReport:
        """Return what is kept, the share that is trained, and the memory that is not needed.

        Its ``str`` is for people, its ``to_dict`` for programs.
        """
        return self._kept.report()

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form of the report, of which artifact, and of the last evidence."""
        return {
            "artifact": self.label,
            "digest": self.digest,
            "kind": self.kind,
            "signed_by": list(self.signed_by),
            "verified_at": self.verified_at,
            "evidence": self.evidence,
            "report": self.report().to_dict(),
        }

    def release(self) -> None:
        """Give the model back as it was found: what could be trained before can be trained."""
        self._kept.release()


def guard(
    model: Any,
    artifact: Bundle | Reference | str | os.PathLike[str],
    *,
    registry: Registry | str | None = None,
    trust: TrustArgument = None,
) -> Guard:
    """Freeze what ``artifact`` protects in ``model`` and return the guard.

    A model has one guard. For a further training, or in a cell that is run again, the weights are
    read back and that same guard is returned: it proves what was kept since it began, counts the
    steps since then, and ``release`` gives the model back for all who asked.

    Call it before the optimizer is built, on the model with its adapters, and ``attach`` the
    optimizer.

    Args:
        model: A transformers model of the artifact's base; it may be wrapped by PEFT, by
            ``torch.compile``, by data parallelism or FSDP2.
        artifact: A bundle, its folder, or a reference.
        registry: Where references are looked up; the default registry, if there is one.
        trust: Public keys of which one must have signed it; by default those that the registry
            trusts. A bundle in memory is asked for a signature only where keys are given.

    Raises:
        UsageError: artifacts of this kind keep nothing while training.
        BaseModelMismatchError, GeometryError: the model is not of the artifact's base.
        VerificationError: what would be kept has drifted from the base already, or changed since
            the model was first guarded.
        EvidenceError: nobody who is trusted signed it, or it is revoked (``workflows.trust``).
        GuardError: the model cannot be guarded like this, or is guarded for other weights.
    """
    bundle, said = vouched_bundle(artifact, trust, registry)
    body = parse_body(bundle)
    wrapped = look_under(model)
    _require_comparable(wrapped.model)
    require_compatible(wrapped, bundle)
    manifest = bundle.manifest
    return Guard(
        label=manifest.label,
        digest=manifest.digest,
        kind=manifest.kind,
        body=body,
        signed_by=() if said is None else said.signers,
        _kept=kind_of(manifest.kind).verb("guard").guard(model, body),
    )


def _require_comparable(model: Any) -> None:
    """Refuse what cannot be compared with a base: packed weights, and shifts of ours on them."""
    if getattr(model, "is_quantized", False) or getattr(model, "hf_quantizer", None) is not None:
        raise GuardError(
            "expected plain weights, got a quantised model: its packed weights cannot be compared "
            "with the base's.",
            hint="Keep the adapter out of the range (safelatch show NAME@V --as peft), train, and "
            "look at the result: safelatch inspect ADAPTER NAME@V",
        )
    on_it = owners(model)
    if on_it:
        raise GuardError(
            f"expected a model without artifacts on it, got {', '.join(on_it)}.",
            hint="Take them off, train, and apply them to the result: registry.unprotect(model)",
        )
