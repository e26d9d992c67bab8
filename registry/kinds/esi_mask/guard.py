"""Train around the selected weights, or the selected weights alone, and prove what was kept.

Source: Qi et al., SPA (``preserve``) and SET (``enhance``); how each works is in its own module.

SPA: the optimizer has the model's parameters, as ever. It may exist before the guard: what its
momentum does to a selected weight is undone with the rest::

    g = registry.guard(model, artifact)
    optimizer = AdamW(model.parameters(), weight_decay=0.1)
    g.attach(optimizer)

SET: the optimizer has the guard's vectors and nothing of the model. The model is moved and sharded
before they are asked for; gradients are clipped and set to None through the optimizer::

    g = registry.guard(model, artifact, mode="enhance")
    optimizer = AdamW(g.parameters())
    g.attach(optimizer)
    ...                                      # loss.backward(), clip_grad_norm_(g.parameters(), 1.0)
    optimizer.step(); optimizer.zero_grad()

An optimizer that a Trainer built from the model's parameters gets the vectors in their places,
before its first step: ``g.exchange(optimizer)``.
"""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from weakref import WeakSet, finalize

from registry.digest import digest_json
from registry.errors import GuardError, UsageError
from registry.kinds.esi_mask._enhance import Enhancing
from registry.kinds.esi_mask._guard_reports import ENHANCE, PRESERVE, GuardEvidence, GuardReport
from registry.kinds.esi_mask._preserve import Preserving
from registry.kinds.esi_mask._trained import raw_values
from registry.kinds.esi_mask.body import DELTA
from registry.live.wrapped import innermost

if TYPE_CHECKING:
    from torch import nn

    from registry.digest import Digest
    from registry.kinds.esi_mask.body import MaskBody

MODES = (PRESERVE, ENHANCE)
"""Train everything but the selected weights, or them alone; the first is the default."""

_GUARDS: WeakSet[MaskGuard] = WeakSet()


class MaskGuard:
    """Selected weights that are kept, or trained alone, while a model is trained."""

    is_shared = False  # a second guard of the same model is refused

    def __init__(self, model: nn.Module, body: MaskBody, mode: str) -> None:
        _require_unguarded(model)
        self._model, self._body = model, body
        self._work = Preserving(model, body) if mode == PRESERVE else Enhancing(model, body)
        finalize(self, self._work.unhook).atexit = False  # a guard that is lost takes no gradients
        self._optimizers: list[tuple[Any, tuple[Any, ...]]] = []
        self._steps = 0
        self._is_released = False
        _GUARDS.add(self)

    @property
    def mode(self) -> str:
        """``preserve`` or ``enhance``."""
        return self._work.mode

    @property
    def has_vectors(self) -> bool:
        """Whether an optimizer is built from ``parameters()``."""
        return isinstance(self._work, Enhancing)

    def is_on(self, model: nn.Module) -> bool:
        """Return whether ``model``, or what it wraps, is guarded by this guard now."""
        return not self._is_released and innermost(self._model) is innermost(model)

    def parameters(self) -> list[nn.Parameter]:
        """Return what an optimizer of SET is built from: a vector for each parameter, by name.

        Of a sharded model, every vector is cut as its parameter is; norms are over all ranks.

        Raises:
            UsageError: the selected weights are kept, not trained.
            RuntimeError: the guard was released.
        """
        return self._enhancing().parameters()

    def clip(self, max_norm: float) -> None:
        """Scale the gradients of ``parameters()`` so that their norm is at most ``max_norm``."""
        self._enhancing().clip(max_norm)

    def exchange(self, optimizer: Any) -> None:
        """Put ``parameters()`` in place of the model's in an optimizer that was built from those.

        Raises:
            UsageError: the selected weights are kept, not trained.
            GuardError: it took steps of the model's parameters already.
            RuntimeError: the guard was released.
        """
        self._enhancing().exchange(_inside(optimizer))

    def attach(self, optimizer: Any) -> None:
        """Watch ``optimizer``: after each of its steps, what must be kept is what it was.

        A wrapper is followed to the optimizer inside; attaching one twice is no news.

        Raises:
            GuardError: it holds what it must not, nothing of this model, or cannot be watched.
            RuntimeError: the guard was released.
        """
        self._require_on()
        inner = _inside(optimizer)
        self._work.bind()
        self._work.require(inner)
        if not any(watched is inner for watched, _ in self._optimizers):
            hooks = (
                inner.register_step_pre_hook(self._before_step),
                inner.register_step_post_hook(self._after_step),
            )
            self._optimizers.append((inner, hooks))

    def verify(self) -> GuardEvidence:
        """Return evidence that everything that must be kept is bit for bit what it was.

        Of a sharded model, every rank asks at the same time.

        Raises:
            VerificationError: with every matrix or parameter that is not.
            GuardError: something else acts on selected weights, or they cannot be read.
        """
        weights, digests = self._work.verify()
        began = self._work.baseline
        return GuardEvidence(
            mode=self._work.mode,
            weights=weights,
            digests=len(digests),
            base_matrices_by_digest=began.by_digest,
            base_matrices_by_values=began.by_values,
            base_matrices_not_compared=began.not_compared,
            steps=self._steps,
            digest=digest_json([[name, digest] for name, digest in digests.items()]),
        )

    def report(self) -> GuardReport:
        """Return what is kept and what is trained now."""
        return GuardReport(
            mode=self._work.mode,
            matrices=len(self._work.baseline.bits),
            selected=self._body.selected,
            optimizers=len(self._optimizers),
            steps=self._steps,
            **self._work.figures(),
        )

    def delta(self, *, data: Digest | None = None, seed: int | None = None) -> MaskBody:
        """Return the body of form ``delta`` that holds what was trained.

        Of a sharded model, every rank asks at the same time.

        Args:
            data: Digest of what it was trained on; a declaration.
            seed: Seed of the training; a declaration.

        Returns:
            The mask's body with new values, in the dtype of the base, and how they were trained:
            the learning rate is that of the optimizer's first group, at the beginning where a
            schedule keeps it.

        Raises:
            UsageError: the selected weights are kept, or no step was taken.
            NonFiniteResultError: a value is NaN or infinite in the dtype of the base.
        """
        trained = self._enhancing().trained_values()
        if not self._steps:
            raise UsageError(
                "expected a delta after at least one step, no watched optimizer took one.",
                hint="Attach the optimizer, then train: g.attach(optimizer)",
            )
        optimizer = self._optimizers[0][0]
        group = optimizer.param_groups[0]
        how = {
            "steps": self._steps,
            "optimizer": type(optimizer).__name__,
            "learning_rate": float(group.get("initial_lr", group["lr"])),
            "weight_decay": float(group.get("weight_decay", 0.0)),
            "data": data,
            "seed": seed,
        }
        new_values = raw_values(self._body.matrices, trained)
        return replace(self._body, form=DELTA, new_values=new_values, delta=how)

    def release(self) -> None:
        """Give the model back as it was found, and watch no optimizer any more."""
        if self._is_released:
            return
        self._is_released = True
        for _, hooks in self._optimizers:
            for hook in hooks:
                hook.remove()
        self._optimizers.clear()
        self._work.unhook()
        self._work.release()

    def _require_on(self) -> None:
        if self._is_released:
            raise RuntimeError("this guard was released: guard the model again")

    def _enhancing(self) -> Enhancing:
        self._require_on()
        if not isinstance(self._work, Enhancing):
            raise UsageError(
                f"expected a guard of mode {ENHANCE}, got {self._work.mode}: the selected weights "
                "are kept, and the optimizer has the model's parameters.",
                hint="To train them alone: registry.guard(model, artifact, mode='enhance')",
            )
        return self._work

    def _before_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        has_closure = any(callable(given) for given in (*args[1:], *kwargs.values()))
        self._work.before_step(optimizer, has_closure=has_closure)
        self._steps += 1

    def _after_step(self, _optimizer: Any, _args: Any, _kwargs: Any) -> None:
        self._work.after_step()


def _require_unguarded(model: nn.Module) -> None:
    inner = innermost(model)
    if any(other.is_on(inner) for other in _GUARDS):
        gc.collect()  # one that nobody has any more holds itself, through its optimizer
    if any(other.is_on(inner) for other in _GUARDS):
        raise GuardError(
            "expected a model without a guard, this one is guarded already.",
            hint="Use that guard, or give the model back first: g.release(); of a SafetyCallback: "
            "callback.guard.release()",
        )


def _inside(optimizer: Any) -> Any:
    """Return the torch optimizer inside wrappers."""
    from torch.optim import Optimizer

    inner = optimizer
    while isinstance(getattr(inner, "optimizer", None), Optimizer):
        inner = inner.optimizer
    if not isinstance(inner, Optimizer):
        raise GuardError(
            f"expected a torch optimizer, got {type(inner).__name__}: it steps without hooks.",
            hint="Give the torch optimizer that it was built from: g.attach(optimizer)",
        )
    return inner


def guard(model: nn.Module, body: MaskBody, *, mode: str | None = None) -> MaskGuard:
    """Keep the selected weights of ``model``, or prepare to train them alone; return the guard.

    Args:
        model: A transformers model of the mask's base, wrapped or not.
        body: The mask, read from a bundle.
        mode: One of ``MODES``; ``preserve`` by default.

    Raises:
        UsageError: there is no such mode, or a delta is asked to be trained.
        VerificationError: selected weights are not the artifact's.
        GuardError: the model cannot be guarded like this, or is guarded already.
    """
    chosen = PRESERVE if mode is None else mode
    if chosen not in MODES:
        raise UsageError(f"expected one of {', '.join(MODES)}, got mode {mode!r:.80}.")
    return MaskGuard(model, body, chosen)
