"""Keep a range while a model is trained: freeze it, watch the optimizer, prove it afterwards.

Source: Safety Layers, section on SPPFT: everything but the range is fine-tuned.

- Frozen means frozen before the optimizer is built. A parameter that an optimizer holds can change
  without a gradient, by weight decay or by momentum from before: that is refused at ``attach``.
- Before every step the range is looked up again by name; one that was unfrozen, has a gradient, or
  got an adapter is refused there, and the step does not happen.
- The proof is the bits: ``verify`` compares the digest of every protected parameter with that of
  the beginning, which was compared with the base.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from registry.digest import digest_json
from registry.errors import GuardError, UsageError, VerificationError
from registry.kinds.safety_layers._live_bits import changed_bits, read_baseline
from registry.kinds.safety_layers._live_range import range_of
from registry.kinds.safety_layers._training_configs import ENGINES, training_config
from registry.live.wrapped import look_under
from registry.wording import listed

if TYPE_CHECKING:
    from torch import nn

    from registry.digest import Digest
    from registry.kinds.safety_layers.body import LayersBody

__all__ = [
    "ENGINES", "GuardEvidence", "GuardReport", "LayersGuard", "guard", "training_config",
]  # fmt: skip

_LATER = (
    "Build the optimizer after the guard, from what is trained: "
    "torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)"
)
_GUARDS: WeakSet[LayersGuard] = WeakSet()


@dataclass(frozen=True, slots=True)
class GuardEvidence:
    """What ``verify`` read back: every protected parameter, bit for bit what it was.

    Attributes:
        parameters: How many parameters of the live model.
        weights: How many values they hold.
        base_tensors_by_digest: Tensors of the base that were found whole when the guard began.
        base_tensors_by_samples: Tensors whose sampled values alone could be compared then, as the
            model is in a narrower dtype than its base.
        steps: Steps of attached optimizers since then.
        digest: Over names and digests of all of them.
    """

    parameters: int
    weights: int
    base_tensors_by_digest: int
    base_tensors_by_samples: int
    steps: int
    digest: Digest

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class GuardReport:
    """What is kept, what is trained, and what that saves; of a sharded model, over all ranks.

    Attributes:
        first: First layer of the range.
        last: Last layer of the range, included.
        norms: ``frozen``, or ``trainable``: the range's own norms are trained.
        parameters: Protected parameters of the live model.
        protected: Values they hold.
        trainable: Values that are trained now, adapters included.
        weights: Values of the model, adapters included.
        gradient_bytes: Gradients that are not needed for what the guard froze. Arithmetic, not
            measured: one value of the parameter's dtype for each.
        moment_bytes: The same for AdamW's two moments.
        optimizers: Optimizers that are watched.
        steps: Steps they took.
    """

    first: int
    last: int
    norms: str
    parameters: int
    protected: int
    trainable: int
    weights: int
    gradient_bytes: int
    moment_bytes: int
    optimizers: int
    steps: int

    @property
    def share_trainable(self) -> float:
        """Share of the model's values that is trained."""
        return self.trainable / self.weights

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {**asdict(self), "share_trainable": self.share_trainable}

    def __str__(self) -> str:
        norms = "" if self.norms == "frozen" else ", their own norms are trained"
        return (
            f"kept       layers {self.first} to {self.last}{norms}: {self.parameters} parameters, "
            f"{self.protected:,} values\n"
            f"trainable  {self.trainable:,} of {self.weights:,} values "
            f"({100 * self.share_trainable:.1f} %)\n"
            f"not needed {self.gradient_bytes:,} bytes of gradients, {self.moment_bytes:,} bytes "
            "of AdamW's moments (arithmetic, not measured)\n"
            f"watched    {self.optimizers} optimizer(s), {self.steps} step(s)"
        )


class LayersGuard:
    """A range that is kept while a model is trained."""

    mode = None
    has_vectors = False

    def __init__(self, model: nn.Module, body: LayersBody) -> None:
        wrapped, found = range_of(model, body)
        inner = wrapped.model
        if any(other.is_on(inner) for other in _GUARDS):
            raise GuardError(
                "expected a model without a guard, this one is guarded already.",
                hint="Use that guard, or give the model back first: g.release()",
            )
        self._baseline = read_baseline(found, body)
        self._model, self._body = model, body
        self._was = {name: parameter.requires_grad for name, parameter in found.items()}
        self._hooks: list[tuple[Any, Any]] = []
        self._steps = 0
        self._is_released = False
        for parameter in found.values():
            parameter.requires_grad_(False)
            parameter.grad = None
        _GUARDS.add(self)

    def is_on(self, model: nn.Module) -> bool:
        """Return whether ``model``, or what it wraps, is guarded by this guard now."""
        return not self._is_released and (look_under(self._model).model is look_under(model).model)

    def attach(self, optimizer: Any) -> None:
        """Watch ``optimizer``: a step that could change the range is refused before it happens.

        A wrapper is followed to the optimizer inside; attaching one twice is no news.

        Raises:
            GuardError: it holds protected parameters or momentum of them, or it cannot be watched.
            RuntimeError: the guard was released.
        """
        from torch.optim import Optimizer

        if self._is_released:
            raise RuntimeError("this guard was released: guard the model again")
        inner = optimizer
        while isinstance(getattr(inner, "optimizer", None), Optimizer):
            inner = inner.optimizer
        if not isinstance(inner, Optimizer):
            raise GuardError(
                f"expected a torch optimizer, got {type(inner).__name__}: it steps without hooks.",
                hint="Give the torch optimizer that it was built from: g.attach(optimizer)",
            )
        self._require_kept(inner)
        if not any(watched is inner for watched, _ in self._hooks):
            self._hooks.append((inner, inner.register_step_pre_hook(self._before_step)))

    def verify(self) -> GuardEvidence:
        """Return evidence that every protected parameter is bit for bit what it was.

        Of a sharded model, every rank asks at the same time.

        Raises:
            VerificationError: with every parameter that is not.
            GuardError: something else acts inside the range, or the weights cannot be read.
        """
        _, found = range_of(self._model, self._body)
        findings = changed_bits(found, self._baseline)
        if findings:
            raise VerificationError(
                f"expected layers {self._body.first} to {self._body.last} bit for bit as when the "
                f"guard began, {len(findings)} of {len(found)} protected parameters changed:"
                f"{listed(findings, len(findings))}",
                hint="Put the base's layers back: registry.protect(model, artifact, base=DIR)",
            )
        bits = self._baseline.bits
        return GuardEvidence(
            parameters=len(found),
            weights=sum(parameter.numel() for parameter in found.values()),
            base_tensors_by_digest=self._baseline.by_digest,
            base_tensors_by_samples=self._baseline.by_samples,
            steps=self._steps,
            digest=digest_json([[name, bits[name].digest] for name in sorted(bits)]),
        )

    def report(self) -> GuardReport:
        """Return what is kept and what is trained now."""
        _, found = range_of(self._model, self._body)
        every = list(self._model.parameters())
        saved = sum(
            parameter.numel() * parameter.element_size()
            for name, parameter in found.items()
            if self._was[name]
        )
        return GuardReport(
            first=self._body.first,
            last=self._body.last,
            norms=self._body.norms,
            parameters=len(found),
            protected=sum(parameter.numel() for parameter in found.values()),
            trainable=sum(p.numel() for p in every if p.requires_grad),
            weights=sum(p.numel() for p in every),
            gradient_bytes=saved,
            moment_bytes=2 * saved,
            optimizers=len(self._hooks),
            steps=self._steps,
        )

    def release(self) -> None:
        """Give ``requires_grad`` back as it was, and watch no optimizer any more."""
        if self._is_released:
            return
        self._is_released = True
        for _, hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        own = look_under(self._model).own
        for name, was in self._was.items():
            if name in own:
                own[name].requires_grad_(was)

    def _before_step(self, optimizer: Any, _args: Any, _kwargs: Any) -> None:
        self._require_kept(optimizer)
        self._steps += 1

    def _require_kept(self, optimizer: Any) -> None:
        _, found = range_of(self._model, self._body)
        where = f"layers {self._body.first} to {self._body.last}"
        unfrozen = sorted(name for name, parameter in found.items() if parameter.requires_grad)
        if unfrozen:
            raise GuardError(
                f"expected {where} frozen, {len(unfrozen)} of {len(found)} protected parameters "
                f"require gradients again:{listed(unfrozen, 5)}",
                hint="Leave them frozen; to train them, give the guard up: g.release()",
            )
        pushed = sorted(name for name, parameter in found.items() if parameter.grad is not None)
        if pushed:
            raise GuardError(
                f"expected no gradients in {where}, {len(pushed)} of {len(found)} protected "
                f"parameters have one:{listed(pushed, 5)}",
                hint="Nothing may write gradients there; to train them, give the guard up: "
                "g.release()",
            )
        ids = {id(p) for group in optimizer.param_groups for p in group["params"]}
        ids |= {id(p) for p, state in optimizer.state.items() if state}
        held = sorted(name for name, parameter in found.items() if id(parameter) in ids)
        if held:
            raise GuardError(
                f"expected an optimizer without the parameters of {where}, {len(held)} of "
                f"{len(found)} are in its groups or have momentum: weight decay and momentum "
                f"change what has no gradient:{listed(held, 5)}",
                hint=_LATER,
            )


def guard(model: nn.Module, body: LayersBody, *, mode: str | None = None) -> LayersGuard:
    """Freeze what ``body`` protects in ``model`` and return the guard; before the optimizer.

    Args:
        model: A transformers model of the range's base, wrapped or not.
        body: The range, read from a bundle.
        mode: Must be ``None``: a range is frozen.

    Raises:
        UsageError: a mode is given.
        VerificationError: a protected tensor is not the base's.
        GuardError: the model cannot be guarded like this, or is guarded already.
    """
    if mode is not None:
        raise UsageError(
            f"expected no mode for safety layers, which are frozen, got {mode!r:.80}.",
            hint="Leave mode out.",
        )
    return LayersGuard(model, body)
