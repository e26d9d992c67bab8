"""What speaks for a range that was found: against the baseline, its controls, and other prompts."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any

from registry.errors import LocalizationError
from registry.kinds.safety_layers._points import (
    BASELINE,
    CONTROL,
    LEVEL,
    LOWER,
    NOT_FOUND,
    UPPER,
    Point,
    best_bound,
    change,
    direction,
    shares_layers,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

RESAMPLES = 1000


def effect(
    points: Sequence[Point],
    found: tuple[int, int],
    alpha: float,
    layers: int,
    *,
    level: float,
) -> dict[str, Any]:
    """Return the range against baseline and strongest control, or refuse it.

    Args:
        points: Baseline, range and controls, at least.
        found: The range.
        alpha: The factor.
        layers: Number of decoder layers.
        level: Largest p that counts (``level_of`` the ranges that were tried). Against a control
            that shares layers with the range, where the model has no other, it is ``LEVEL``: such
            a control carries a part of what the range does, and is hard to beat already.

    Raises:
        LocalizationError: the range does not stand out, with the counts.
    """
    baseline = next(point for point in points if point.step == BASELINE)
    own = next(p for p in points if p.step == LOWER and (p.first, p.last) == found)
    controls = [point for point in points if point.step == CONTROL]
    where = f"layers {found[0]} to {found[1]} scaled by {alpha:g}"
    if not controls:
        raise LocalizationError(
            f"expected a range that leaves another of its width, got all {layers} layers: "
            f"{own.refused} of {len(own.flags)} prompts refused, {baseline.refused} unscaled.",
            hint=NOT_FOUND,
        )
    moved, p = change(own.flags, baseline.flags, alpha)
    if moved <= 0 or p >= level:
        raise LocalizationError(
            f"expected {where} to change the {baseline.refused} of {len(own.flags)} prompts "
            f"refused, p < {level:.2g}; got {own.refused}, p {p:.2g}.",
            hint=NOT_FOUND,
        )
    strongest = max(controls, key=lambda point: direction(alpha) * point.refused)
    more, control_p = change(own.flags, strongest.flags, alpha)
    if shares_layers(strongest, found):
        level = LEVEL
    if more <= 0 or control_p >= level:
        raise LocalizationError(
            f"expected {where} to change refusals more than an equally wide range elsewhere, "
            f"p < {level:.2g}; of {len(own.flags)} prompts {baseline.refused} are refused "
            f"unscaled, {own.refused} with it, {strongest.refused} with {strongest.first} to "
            f"{strongest.last}, p {control_p:.2g}.",
            hint=NOT_FOUND,
        )
    return {
        "baseline": baseline.refused,
        "range": own.refused,
        "p": p,
        "control": {
            "first": strongest.first, "last": strongest.last, "refused": strongest.refused,
        },
        "control_p": control_p,
    }  # fmt: skip


def resampled(points: Sequence[Point], alpha: float, seed: int) -> dict[str, Any]:
    """Return how often each bound came out of the same sweep over prompts drawn again."""
    draw = random.Random(seed)  # noqa: S311 -- resampling, not secrets
    n = len(points[0].flags)
    seen: dict[str, Counter[int]] = {LOWER: Counter(), UPPER: Counter()}
    for _ in range(RESAMPLES):
        prompts = draw.choices(range(n), k=n)
        for step, bounds in seen.items():
            refused = {
                (p.first or 0, p.last or 0): sum(p.flags[i] for i in prompts)
                for p in points
                if p.step == step
            }
            bounds[best_bound(step, refused, alpha)] += 1
    return {
        "resamples": RESAMPLES,
        **{
            name: [
                {"value": value, "share": times / RESAMPLES}
                for value, times in sorted(seen[step].items())
            ]
            for name, step in (("first", LOWER), ("last", UPPER))
        },
    }
