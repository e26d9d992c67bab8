"""What a guard says: what it read back, what is kept, what is trained, and what that saves."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from registry.digest import Digest

PRESERVE, ENHANCE = "preserve", "enhance"
"""SPA: everything is trained but the selected weights. SET: they alone are."""


@dataclass(frozen=True, slots=True)
class GuardEvidence:
    """What ``verify`` read back: every weight that must be kept, bit for bit what it was.

    Attributes:
        mode: ``preserve`` or ``enhance``.
        weights: How many weights were kept: the selected ones, or all others.
        digests: How many digests those are: by matrix, or by parameter.
        base_matrices_by_digest: Matrices whose selected weights were found to be the artifact's
            when the guard began.
        base_matrices_by_values: Matrices of which that was seen after rounding alone, as the model
            is in a narrower dtype than its base.
        base_matrices_not_compared: Matrices of which the artifact has no values to round.
        steps: Steps of attached optimizers since then.
        digest: Over names and digests of all of them.
    """

    mode: str
    weights: int
    digests: int
    base_matrices_by_digest: int
    base_matrices_by_values: int
    base_matrices_not_compared: int
    steps: int
    digest: Digest

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class GuardReport:
    """What is kept, what is trained, and what that saves; of a sharded model, over all ranks.

    Attributes:
        mode: ``preserve`` or ``enhance``.
        matrices: Matrices with selected weights.
        selected: Selected weights.
        trainable: Values that are trained now, adapters included.
        weights: Values of the model, adapters included.
        kept_bytes: What the guard holds: kept values or masters, and their indices. This and the
            next two are arithmetic, not measured.
        gradient_bytes: Gradients that are not held from one backward pass to the next.
        moment_bytes: The same for AdamW's two moments.
        optimizers: Optimizers that are watched.
        steps: Steps they took.
    """

    mode: str
    matrices: int
    selected: int
    trainable: int
    weights: int
    kept_bytes: int
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
        selected = f"{self.selected:,} selected weights of {self.matrices} matrices"
        kept = selected if self.mode == PRESERVE else f"everything but {selected}"
        return (
            f"kept       {kept}\n"
            f"trainable  {self.trainable:,} of {self.weights:,} values "
            f"({100 * self.share_trainable:.1f} %)\n"
            f"held       {self.kept_bytes:,} bytes by the guard (arithmetic, not measured)\n"
            f"not needed {self.gradient_bytes:,} bytes of gradients, {self.moment_bytes:,} bytes "
            "of AdamW's moments (arithmetic, not measured)\n"
            f"watched    {self.optimizers} optimizer(s), {self.steps} step(s)"
        )
