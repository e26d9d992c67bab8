"""One point of the sweep, and which of several says where a bound is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.measure.statistics import mcnemar_exact

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    Flags = tuple[bool, ...]

LEVEL = 0.05
"""Largest p of a change that counts, where one change is asked about."""
ALPHA, UPPER, LOWER, CONTROL, BASELINE = "alpha", "upper", "lower", "control", "baseline"
NOT_FOUND = (
    "Nothing was written. Give more over-rejection prompts with --data FILE, or another --alpha; a "
    "model that refuses nothing, or with all its layers, has no such range."
)
"""Hint of every error that says there is no range."""


@dataclass(frozen=True, slots=True)
class Point:
    """One point of the sweep.

    Attributes:
        step: What it was asked for: ``baseline``, ``alpha``, ``upper``, ``lower`` or ``control``.
        first: First layer scaled; ``None`` for the baseline.
        last: Last layer scaled, included; ``None`` for the baseline.
        alpha: The factor; 1 for the baseline.
        flags: Whether each prompt was refused.
    """

    step: str
    first: int | None
    last: int | None
    alpha: float
    flags: Flags

    @property
    def refused(self) -> int:
        """How many prompts were refused."""
        return sum(self.flags)

    def to_dict(self) -> dict[str, Any]:
        """Return it as the body has it; the flags are in a tensor."""
        return {
            "step": self.step, "first": self.first, "last": self.last, "alpha": self.alpha,
            "refused": self.refused,
        }  # fmt: skip


def direction(alpha: float) -> int:
    """Return 1 where scaling by ``alpha`` should add refusals, -1 where it should take some."""
    return 1 if alpha > 1 else -1


def change(after: Flags, before: Flags, alpha: float) -> tuple[int, float]:
    """Return by how much refusals moved in the direction of the scaling, and the p of that."""
    gained = sum(new and not old for new, old in zip(after, before, strict=True))
    lost = sum(old and not new for new, old in zip(after, before, strict=True))
    return direction(alpha) * (gained - lost), mcnemar_exact(gained, lost)


def level_of(ranges: Iterable[tuple[int | None, int | None]]) -> float:
    """Return the largest p that counts for the best of these ranges: ``LEVEL`` over their number.

    Source: Bonferroni. The range that is found is the best of all that the bounds were moved
    over, and the best of many differs from a control by chance more often than one does.
    """
    return LEVEL / max(1, len(set(ranges)))


def shares_layers(point: Point, found: tuple[int, int]) -> bool:
    """Return whether the range of ``point`` and ``found`` have a layer in common."""
    first, last = point.first, point.last
    return None not in {first, last} and first <= found[1] and found[0] <= last  # type: ignore[operator]


def best_bound(step: str, refused: Mapping[tuple[int, int], int], alpha: float) -> int:
    """Return the bound with the most refusals (fewest below 1), of equals the narrowest range.

    Args:
        step: Which bound: ``upper`` is the last layer, ``lower`` the first.
        refused: Range to how many prompts were refused with it.
        alpha: The factor.
    """

    def rank(where: tuple[int, int]) -> tuple[int, int]:
        first, last = where
        return (direction(alpha) * refused[where], first - last)

    first, last = max(sorted(refused), key=rank)
    return last if step == UPPER else first
