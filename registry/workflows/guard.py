"""Keep what an artifact protects while a model is trained, and prove afterwards that it was kept.

::

    g = registry.guard(model, artifact)       # before the optimizer is built
    optimizer = AdamW(p for p in model.parameters() if p.requires_grad)
    g.attach(optimizer)
    ...                                       # train
    g.verify()                                # raises unless it is bit for bit what it was

A mask can also be trained alone, ``mode="enhance"``: build the optimizer from ``g.parameters()``,
and write what was trained with ``g.save_delta(DIR)``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from registry.errors import GuardError, UsageError, VerificationError
from registry.kinds import kind_of, parse_body
from registry.live.attach import owners
from registry.live.wrapped import look_under
from registry.moment import stamp
from registry.plainfile import expanded
from registry.workflows.applied import applied_to
from registry.workflows.check_live import require_compatible
from registry.workflows.trust import vouched_bundle

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from registry.artifact.bundle import Bundle
    from registry.digest import Digest
    from registry.kinds.contract import Body, GuardReport, ModelGuard
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
    _bundle: Bundle = field(repr=False)
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

    @property
    def mode(self) -> str | None:
        """What is kept and what is trained, where the kind has a choice."""
        return self._kept.mode

    @property
    def has_vectors(self) -> bool:
        """Whether vectors of the guard's own are trained, and nothing of the model."""
        return self._kept.has_vectors

    def parameters(self) -> list[Any]:
        """Return the vectors that an optimizer is built from, where they alone are trained.

        Raises:
            UsageError: the optimizer is built from the model's own parameters.
        """
        found: list[Any] = self._with_vectors().parameters()
        return found

    def clip(self, max_norm: float) -> None:
        """Scale the gradients of ``parameters()`` so that their norm is at most ``max_norm``.

        Raises:
            UsageError: the optimizer is built from the model's own parameters.
        """
        self._with_vectors().clip(max_norm)

    def exchange(self, optimizer: Any) -> None:
        """Put ``parameters()`` in place of the model's in an optimizer that was built from those.

        Raises:
            UsageError: the optimizer is built from the model's own parameters.
            GuardError: it took steps of them already.
        """
        self._with_vectors().exchange(optimizer)

    def save_delta(
        self, out: str | os.PathLike[str], *, data: Digest | None = None, seed: int | None = None
    ) -> Path:
        """Write what was trained as a draft to the new folder ``out``, and return its path.

        Args:
            out: A folder that is not there, or empty; published like one from ``extract``.
            data: Digest of what it was trained on; a declaration.
            seed: Seed of the training; a declaration.

        Raises:
            UsageError: ``out`` is taken, or see ``delta``.
            VerificationError: something else changed meanwhile.
            NonFiniteResultError: a trained value is NaN or infinite.
            HostError: the disk refuses.
        """
        from registry.artifact.bundle import require_new_folder, write_bundle
        from registry.workflows.make import delta_of

        require_new_folder(expanded(out))
        return write_bundle(delta_of(self._bundle, self, data=data, seed=seed), expanded(out))

    def delta(self, *, data: Digest | None = None, seed: int | None = None) -> Body:
        """Return the body of what was trained, of which ``save_delta`` writes an artifact.

        Args:
            data: Digest of what it was trained on; a declaration.
            seed: Seed of the training; a declaration.

        Raises:
            UsageError: the optimizer is built from the model's own parameters, or took no step.
            NonFiniteResultError: a trained value is NaN or infinite.
        """
        found: Body = self._with_vectors().delta(data=data, seed=seed)
        return found

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
            "mode": self.mode,
            "signed_by": list(self.signed_by),
            "verified_at": self.verified_at,
            "evidence": self.evidence,
            "report": self.report().to_dict(),
        }

    def release(self) -> None:
        """Give the model back as it was found: what could be trained before can be trained."""
        self._kept.release()

    def _with_vectors(self) -> Any:
        if not self.has_vectors:
            raise UsageError(
                f"expected a guard that trains vectors of its own, this one of kind {self.kind} "
                "leaves the optimizer the model's parameters.",
                hint="Build it from what is trained: "
                "torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)",
            )
        return self._kept


def guard(
    model: Any,
    artifact: Bundle | Reference | str | os.PathLike[str],
    *,
    mode: str | None = None,
    registry: Registry | str | None = None,
    trust: TrustArgument = None,
) -> Guard:
    """Keep what ``artifact`` protects in ``model`` and return the guard.

    A model has one guard. For a further training, or in a cell that is run again, the weights are
    read back and that same guard is returned: it proves what was kept since it began, counts the
    steps since then, and ``release`` gives the model back for all who asked. The guard of a mask is
    not shared: a second one is refused until the first is released.

    Call it before the optimizer is built, on the model with its adapters, and ``attach`` the
    optimizer.

    Args:
        model: A transformers model of the artifact's base; it may be wrapped by PEFT, by
            ``torch.compile``, by data parallelism or FSDP2.
        artifact: A bundle, its folder, or a reference.
        mode: What is kept and what is trained, where the kind has a choice: of a mask
            ``preserve`` (the default) or ``enhance``.
        registry: Where references are looked up; the default registry, if there is one.
        trust: Public keys of which one must have signed it; by default those that the registry
            trusts. A bundle in memory is asked for a signature only where keys are given.

    Raises:
        UsageError: artifacts of this kind keep nothing while training, or have no such mode.
        BaseModelMismatchError, GeometryError: the model is not of the artifact's base.
        VerificationError: what would be kept has drifted from the base already, or changed since
            the model was first guarded.
        EvidenceError: nobody who is trusted signed it, or it is revoked (``workflows.trust``).
        GuardError: the model cannot be guarded like this, is guarded for other weights, or has a
            guard that is not shared.
    """
    bundle, said = vouched_bundle(artifact, trust, registry)
    body = parse_body(bundle)
    wrapped = look_under(model)
    _require_comparable(wrapped.model, bundle.manifest.kind)
    require_compatible(wrapped, bundle)
    manifest = bundle.manifest
    return Guard(
        label=manifest.label,
        digest=manifest.digest,
        kind=manifest.kind,
        body=body,
        signed_by=() if said is None else said.signers,
        _bundle=bundle,
        _kept=_guarded(model, body, manifest.kind, mode, wrapped.model),
    )


def _guarded(model: Any, body: Body, kind: str, mode: str | None, inner: Any) -> ModelGuard:
    """Return the guard of the kind; what is on the model, and kept from it, is told."""
    try:
        found: ModelGuard = kind_of(kind).verb("guard").guard(model, body, mode=mode)
    except VerificationError as error:
        put = [entry.label for entry in applied_to(inner) if kind_of(entry.kind).rewrites]
        if not put:
            raise
        raise VerificationError(
            error.message,
            hint=f"{', '.join(put)} put other weights there. Take it off first: "
            "registry.unprotect(model); or guard it in place of this one.",
        ) from error
    return found


_WITHOUT_GUARD = {
    "safety-layers": "Keep the adapter out of the range (safelatch show NAME@V --as peft), train, "
    "and look at the result: safelatch inspect ADAPTER NAME@V",
    "esi-mask": "Train an adapter without the guard, then write a merged copy with the selected "
    "weights of the base: registry.project(ADAPTER, ARTIFACT, OUT, base=BASE)",
}
"""What to do where a model of a kind cannot be guarded."""


def _require_comparable(model: Any, kind: str) -> None:
    """Refuse what cannot be compared with a base: packed weights, and shifts of ours on them."""
    if getattr(model, "is_quantized", False) or getattr(model, "hf_quantizer", None) is not None:
        raise GuardError(
            "expected plain weights, got a quantised model: its packed weights cannot be compared "
            "with the base's.",
            hint=_WITHOUT_GUARD.get(kind),
        )
    on_it = owners(model)
    if on_it:
        raise GuardError(
            f"expected a model without artifacts on it, got {', '.join(on_it)}.",
            hint="Take them off, train, and apply them to the result: registry.unprotect(model)",
        )
