"""What a guard says: of what it keeps while a model is trained, and of what it read back."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from registry.digest import Digest


@dataclass(frozen=True, slots=True)
class GuardEvidence:
    """What ``verify`` read back: every protected parameter, bit for bit what it was.

    Weights are what is proved. Code that acts inside the range, such as a forward hook on one of
    its modules, is not looked for.

    Attributes:
        parameters: How many parameters of the live model.
        weights: How many values they hold.
        base_tensors_by_digest: Tensors of the base that were found whole when the guard began.
        base_tensors_by_samples: Tensors whose sampled values alone could be compared then, as the
            model is in a narrower dtype than its base.
        steps: Steps of attached optimizers since the guard began.
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
        optimizers: Optimizers that were attached.
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
