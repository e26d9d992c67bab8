"""A guard for the Trainers of transformers and TRL, as a callback.

- ``on_init_end`` runs before ``create_optimizer``: the range is frozen there. An optimizer that
  was given to the Trainer is there already and is asked at once.
- ``on_train_begin`` runs after ``create_optimizer`` and after a checkpoint was resumed: the
  optimizer is attached, and the weights are read back before a long run begins.
- ``on_train_end`` runs after the best model was loaded: the weights are read back again.

Where selected weights alone are trained (``mode="enhance"``), the Trainer builds its optimizer as
ever, and before the first step the guard's vectors take the places of the model's parameters in it.
The Trainer clips and clears the gradients of the model alone, so the callback does it for these.

transformers is imported when the class is first asked for, so that ``import registry`` is not.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from registry.errors import GuardError, UsageError
from registry.workflows.guard import Guard, guard

if TYPE_CHECKING:
    import os

    from registry.artifact.bundle import Bundle
    from registry.reference import Reference
    from registry.store.catalog import Registry
    from registry.workflows.trust import TrustArgument

_OWN_OPTIMIZER = (
    "Leave optimizers= out: the Trainer builds its own behind the guard. For another class: "
    "Trainer(..., optimizer_cls_and_kwargs=(torch.optim.SGD, {'lr': 1e-3}))"
)
_EARLIER = "Give it to the Trainer when it is made: Trainer(model=model, callbacks=[...])"


class _Keeping:
    """What the callback does; ``transformers.TrainerCallback`` is mixed in on first use."""

    def __init__(
        self,
        artifact: Guard | Bundle | Reference | str | os.PathLike[str],
        *,
        mode: str | None = None,
        registry: Registry | str | None = None,
        trust: TrustArgument = None,
    ) -> None:
        """Keep ``artifact`` while the Trainer trains; arguments as ``registry.guard``.

        Args:
            artifact: Also a guard of the model that the Trainer is given.
            mode: As ``registry.guard``; a guard has its own.
            registry: As ``registry.guard``.
            trust: As ``registry.guard``.

        Raises:
            UsageError: a guard of another mode is given.
        """
        if isinstance(artifact, Guard) and mode not in {None, artifact.mode}:
            raise UsageError(
                f"expected mode={artifact.mode!r} as the guard has it, or none, got {mode!r:.80}.",
                hint="Leave mode= out, or give the artifact in place of the guard.",
            )
        self._artifact, self._registry, self._trust = artifact, registry, trust
        self._mode = mode
        self.guard: Guard | None = artifact if isinstance(artifact, Guard) else None
        """The guard, once the Trainer is made."""
        self.report: dict[str, Any] | None = None
        """``Guard.to_dict()`` of the end of training; ``None`` before it, or if it raised."""

    def on_init_end(
        self, _args: Any, _state: Any, _control: Any, *, model: Any, optimizer: Any = None, **_: Any
    ) -> None:
        """Freeze, before the Trainer builds its optimizer.

        A guard that another callback, or ``registry.guard``, put on this model is taken over.

        Raises:
            SafelatchError: see ``registry.guard`` and ``Guard.attach``; the model is as it was.
        """
        if isinstance(self._artifact, Guard):
            self._require_ready(self._artifact, model, optimizer)
            return
        if self.guard is not None and not self.guard.is_on(model):
            self._let_go()
        if self.guard is None:
            self.guard = guard(
                model, self._artifact, mode=self._mode, registry=self._registry, trust=self._trust
            )
        if optimizer is not None:
            try:
                self.guard.attach(optimizer)
            except GuardError as error:
                self._let_go()
                raise GuardError(error.message, hint=_OWN_OPTIMIZER) from error

    def on_train_begin(
        self, _args: Any, _state: Any, _control: Any, *, model: Any, optimizer: Any, **_: Any
    ) -> None:
        """Attach the optimizer and read the weights back before the first step.

        Raises:
            GuardError: it is too late, or the optimizer could change what is protected.
            VerificationError: a resumed checkpoint does not hold the base's layers.
        """
        self.report = None
        if self.guard is None:
            raise GuardError(
                "expected SafetyCallback before the Trainer builds its optimizer, it was added "
                "after the Trainer was made: the optimizer holds what should be frozen.",
                hint=_EARLIER,
            )
        if not self.guard.is_on(model):
            raise GuardError(
                "expected the model that was guarded when the Trainer was made, it trains another "
                "one (model_init makes a new one for each training).",
                hint="Give the Trainer the model itself: Trainer(model=model, callbacks=[...])",
            )
        if self.guard.has_vectors:
            self.guard.exchange(optimizer)
        self.guard.attach(optimizer)
        self.guard.verify()

    def on_step_begin(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
        """Drop the gradients of the guard's vectors from before, which the Trainer leaves there."""
        if self.guard is not None and self.guard.has_vectors:
            for vector in self.guard.parameters():
                vector.grad = None

    def on_pre_optimizer_step(self, args: Any, _state: Any, _control: Any, **_: Any) -> None:
        """Clip the gradients of the guard's vectors, which the Trainer does not know."""
        if self.guard is not None and self.guard.has_vectors and args.max_grad_norm:
            self.guard.clip(args.max_grad_norm)

    def on_train_end(
        self, args: Any, state: Any, _control: Any, *, optimizer: Any = None, **_: Any
    ) -> None:
        """Read the weights back, and keep the report.

        Raises:
            VerificationError: a protected tensor is not bit for bit what it was.
        """
        if self.guard is not None:
            if (
                self.guard.has_vectors
                and args.load_best_model_at_end
                and state.best_model_checkpoint is not None
            ):  # the model holds an earlier step: the vectors take that over
                self.guard.attach(optimizer)
            self.guard.verify()
            self.report = self.guard.to_dict()

    def _let_go(self) -> None:
        """Release the guard, unless it is somebody else's too."""
        if self.guard is not None and not self.guard.is_shared:
            self.guard.release()
        self.guard = None

    @staticmethod
    def _require_ready(held: Guard, model: Any, optimizer: Any) -> None:
        if not held.is_on(model):
            raise GuardError(
                "expected a guard of the model that the Trainer trains, it is of another one.",
                hint="Guard that model: SafetyCallback(registry.guard(model, artifact))",
            )
        if optimizer is not None:
            held.attach(optimizer)


@cache
def _callback_class() -> type:
    from transformers import TrainerCallback

    body = {"__doc__": "Keep an artifact while a Trainer of transformers or TRL trains a model."}
    return type("SafetyCallback", (_Keeping, TrainerCallback), {**body, "__module__": __name__})


def __getattr__(name: str) -> Any:
    """Make the class on first use (PEP 562)."""
    if name == "SafetyCallback":
        return _callback_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
