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

from typing import TYPE_CHECKING, Any
from weakref import WeakSet, ref

from registry.digest import digest_json
from registry.errors import GuardError, UsageError, VerificationError
from registry.kinds.safety_layers._guard_report import GuardEvidence, GuardReport
from registry.kinds.safety_layers._live_bits import changed_bits, read_baseline
from registry.kinds.safety_layers._live_range import range_of
from registry.kinds.safety_layers._repair import how_to_put_back
from registry.kinds.safety_layers._training_configs import ENGINES, training_config
from registry.live.wrapped import PROVE_LATER, innermost, look_under
from registry.wording import listed

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from registry.kinds.safety_layers.body import LayersBody

__all__ = [
    "ENGINES", "GuardEvidence", "GuardReport", "LayersGuard", "guard", "training_config",
]  # fmt: skip

_LATER = (
    "Build the optimizer after the guard, from what is trained: "
    "torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)"
)
_GUARDS: WeakSet[LayersGuard] = WeakSet()


class LayersGuard:
    """A range that is kept while a model is trained.

    Attributes:
        is_shared: Whether it was asked for again, and more than one caller has it.
    """

    mode = None
    has_vectors = False

    def __init__(self, model: nn.Module, body: LayersBody) -> None:
        wrapped, found = range_of(model, body)
        self._baseline = read_baseline(found, body)
        self._model, self._body = model, body
        self._inner = ref(wrapped.model)
        self._was = {name: parameter.requires_grad for name, parameter in found.items()}
        self._hooks: list[tuple[ref[Optimizer], Any]] = []
        self._steps = 0
        self._is_released = False
        self.is_shared = False
        _freeze(found)
        _GUARDS.add(self)

    def go_on(self, model: nn.Module, body: LayersBody) -> None:
        """Guard on, as ``model`` wraps the guarded one now.

        Raises:
            GuardError: other weights than those of ``body`` are kept.
            VerificationError: they are not what they were.
        """
        kept = self._body
        if kept.protected != body.protected:
            raise GuardError(
                f"expected a model without a guard, or with one of {_named(body)}; it has one of "
                f"{_named(kept)}.",
                hint="Give the model back first: g.release(), where g is what registry.guard(model,"
                " ARTIFACT) returns once more for the artifact that is guarded.",
            )
        before, self._model = self._model, model
        try:
            self.verify()
        except BaseException:
            self._model = before
            raise
        _freeze(range_of(model, kept)[1])
        self.is_shared = True

    def is_on(self, model: nn.Module) -> bool:
        """Return whether ``model``, or what it wraps, is guarded by this guard now."""
        return not self._is_released and self._inner() is innermost(model)

    def attach(self, optimizer: Any) -> None:
        """Watch ``optimizer``: a step that could change the range is refused before it happens.

        A wrapper is followed to the optimizer inside; attaching one twice is no news.

        Raises:
            GuardError: it holds protected parameters or momentum of them, or none of this model's,
                or it cannot be watched.
            RuntimeError: the guard was released.
        """
        from torch.optim import Optimizer

        if self._is_released:
            raise RuntimeError("this guard was released: guard the model again")
        inner = optimizer
        while isinstance(getattr(inner, "optimizer", None), Optimizer):
            inner = inner.optimizer
        if not isinstance(inner, Optimizer) or not hasattr(inner, "_optimizer_step_pre_hooks"):
            raise GuardError(
                "expected a torch optimizer, whose steps can be watched, got "
                f"{type(inner).__name__}: it steps without hooks.",
                hint=f"Give the torch optimizer that steps, or shard with FSDP2. {PROVE_LATER}",
            )
        self._require_own(inner)
        self._require_kept(inner)
        if not any(watched() is inner for watched, _ in self._hooks):
            self._hooks.append((ref(inner), inner.register_step_pre_hook(self._before_step)))

    def verify(self) -> GuardEvidence:
        """Return evidence that every protected parameter is bit for bit what it was.

        Of a sharded model, every rank asks at the same time.

        Raises:
            VerificationError: with every parameter that is not.
            GuardError: something else acts inside the range, or the weights cannot be read.
        """
        wrapped, found = range_of(self._model, self._body)
        findings = changed_bits(found, self._baseline)
        if findings:
            raise VerificationError(
                f"expected layers {self._body.first} to {self._body.last} bit for bit as when the "
                f"guard began, {len(findings)} of {len(found)} protected parameters changed:"
                f"{listed(findings, len(findings))}",
                hint=how_to_put_back(wrapped),
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

    def _require_own(self, optimizer: Any) -> None:
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if held.isdisjoint(id(parameter) for parameter in self._model.parameters()):
            raise GuardError(
                f"expected an optimizer of the guarded model, none of its {len(held)} parameters "
                "is that model's: it trains a copy of it, or another one.",
                hint="Guard what is trained: g = registry.guard(model, artifact). Where ZeRO steps "
                f"flat copies, shard with FSDP2. {PROVE_LATER}",
            )

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


def _freeze(parameters: dict[str, nn.Parameter]) -> None:
    for parameter in parameters.values():
        parameter.requires_grad_(False)
        parameter.grad = None


def _named(body: LayersBody) -> str:
    return f"layers {body.first} to {body.last}, norms {body.norms}"


def guard(model: nn.Module, body: LayersBody, *, mode: str | None = None) -> LayersGuard:
    """Freeze what ``body`` protects in ``model`` and return the guard; before the optimizer.

    A model has one guard: the second time, for another training or in a cell that is run again,
    it is read back and returned.

    Args:
        model: A transformers model of the range's base, wrapped or not.
        body: The range, read from a bundle.
        mode: Must be ``None``: a range is frozen.

    Raises:
        UsageError: a mode is given.
        VerificationError: a protected tensor is not the base's, or not what it was when the model
            was first guarded.
        GuardError: the model cannot be guarded like this, or is guarded for other weights.
    """
    if mode is not None:
        raise UsageError(
            f"expected no mode for safety layers, which are frozen, got {mode!r:.80}.",
            hint="Leave mode out.",
        )
    inner = innermost(model)
    held = next((one for one in _GUARDS if one.is_on(inner)), None)
    if held is None:
        return LayersGuard(model, body)
    held.go_on(model, body)
    return held
