"""The search for the range: which layers, scaled together, change refusals the most.

Source: Safety Layers (arXiv 2408.17003), section 3.4. Nothing here knows a model: ``count`` says
which prompts are refused with a range scaled, so the search is checked without one, and the range
can be computed again from what was recorded (``chosen``), with the standard library alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.errors import LocalizationError
from registry.kinds.safety_layers._evidence import effect, resampled
from registry.kinds.safety_layers._points import (
    ALPHA,
    BASELINE,
    CONTROL,
    LEVEL,
    LOWER,
    NOT_FOUND,
    UPPER,
    Point,
    best_bound,
    change,
    level_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from registry.kinds.safety_layers._points import Flags

    Count = Callable[[int, int, float], Flags]

GRID = (0.7, 0.8, 0.9, 1.1, 1.2, 1.3)
"""Factors that are tried at the initial range."""
FLOOR, CEILING = 0.05, 0.95
REACH = 2  # layers on either side of a bound that are tried first
CONTROLS = 6
RULE = (
    f"alpha: of {', '.join(f'{alpha:g}' for alpha in GRID)} at the initial range, the one above 1 "
    "that adds the most refusals, or if none does the one below 1 that takes the most; the change "
    f"must be significant (paired exact McNemar, p < {LEVEL:g}), one that leaves {FLOOR:.0%} to "
    f"{CEILING:.0%} of the prompts refused goes before one that does not, and of equals the "
    "nearest to 1 is taken. Bounds: most refusals for alpha > 1, fewest below; ties to the "
    "narrowest range. The range counts where it changes refusals more than the model as it is "
    f"and than every control: paired exact McNemar, p < {LEVEL:g} over the ranges that the "
    "bounds were moved over, and undivided against a control that shares layers with the range"
)
GIVEN = "alpha: as given. Bounds:" + RULE.partition("Bounds:")[2]


@dataclass(frozen=True, slots=True)
class Found:
    """What the search found.

    Attributes:
        first: First layer of the range.
        last: Last layer of the range, included.
        alpha: The factor it was found with.
        rule: How that factor and the bounds were chosen.
        points: Everything that was asked, in order.
        effect: The range against the baseline and against the strongest control.
        resampled: How often each bound came out when the prompts were drawn again.
    """

    first: int
    last: int
    alpha: float
    rule: str
    points: tuple[Point, ...]
    effect: dict[str, Any]
    resampled: dict[str, Any]


def search(
    count: Count,
    baseline: Flags,
    *,
    layers: int,
    initial: tuple[int, int],
    alpha: float | None = None,
    seed: int,
) -> Found:
    """Return the range whose scaling changes refusals the most, with its evidence.

    Args:
        count: Which prompts are refused with layers first..last scaled by alpha.
        baseline: Which are refused unscaled.
        layers: Number of decoder layers.
        initial: Where the search starts, both ends included.
        alpha: The factor; chosen by ``RULE`` if ``None``.
        seed: Seed of the resampling.

    Raises:
        LocalizationError: no factor changes refusals, or the range that was found does it no more
            than the baseline or than an equally wide range elsewhere.
    """
    points = [Point(BASELINE, None, None, 1.0, baseline)]
    grid = GRID if alpha is None else (alpha,)
    tried = [Point(ALPHA, *initial, factor, count(*initial, factor)) for factor in grid]
    points += tried
    factor = _best_alpha(tried, baseline) if alpha is None else alpha

    def sweep(step: str, start: int, low: int, high: int, held: int) -> int:
        """Ask around ``start``, then on while the best is at an edge; return the best bound."""
        asked: dict[int, Point] = {}

        def range_of(bound: int) -> tuple[int, int]:
            return (held, bound) if step == UPPER else (bound, held)

        waiting = list(range(max(low, start - REACH), min(high, start + REACH) + 1))
        while waiting:
            for bound in waiting:
                flags = count(*range_of(bound), factor)
                asked[bound] = Point(step, *range_of(bound), factor, flags)
            refused = {range_of(bound): point.refused for bound, point in asked.items()}
            best = best_bound(step, refused, factor)
            waiting = [best - 1] if best == min(asked) else []
            waiting += [best + 1] if best == max(asked) else []
            waiting = [bound for bound in waiting if low <= bound <= high]
        points.extend(asked[bound] for bound in sorted(asked))
        return best

    last = sweep(UPPER, initial[1], initial[0], layers - 1, initial[0])
    first = sweep(LOWER, initial[0], 0, last, last)
    swept = [(point.first, point.last) for point in points if point.step in {UPPER, LOWER}]
    for start, end in control_ranges(first, last, layers):
        points.append(Point(CONTROL, start, end, factor, count(start, end, factor)))
    return Found(
        first,
        last,
        factor,
        RULE if alpha is None else GIVEN,
        tuple(points),
        effect(points, (first, last), factor, layers, level=level_of(swept)),
        resampled(points, factor, seed),
    )


def chosen(points: Iterable[Mapping[str, Any]]) -> tuple[int, int] | None:
    """Return the range that follows from recorded points by the rule, ``None`` if none does.

    Args:
        points: ``step``, ``first``, ``last``, ``alpha`` and ``refused`` of each, as in the body.
    """
    swept: dict[str, dict[tuple[int, int], int]] = {UPPER: {}, LOWER: {}}
    alphas = set()
    for point in points:
        if point["step"] in swept and point["first"] is not None and point["last"] is not None:
            swept[point["step"]][point["first"], point["last"]] = point["refused"]
            alphas.add(point["alpha"])
    if not all(swept.values()) or len(alphas) > 1:
        return None
    alpha = alphas.pop()
    last = best_bound(UPPER, swept[UPPER], alpha)
    first = best_bound(LOWER, swept[LOWER], alpha)
    is_held = len({first for first, _ in swept[UPPER]}) == 1
    return (first, last) if is_held and {last for _, last in swept[LOWER]} == {last} else None


def control_ranges(first: int, last: int, layers: int) -> list[tuple[int, int]]:
    """Return equally wide ranges elsewhere, ascending, at most ``CONTROLS``.

    Those that share no layer with the range; where there are fewer than two, the two others that
    share the fewest.
    """
    width = last - first + 1
    starts = [start for start in range(layers - width + 1) if start != first]
    apart = [start for start in starts if abs(start - first) >= width]
    if len(apart) < 2:
        apart = sorted(starts, key=lambda start: (-abs(start - first), start))[:2]
    elif len(apart) > CONTROLS:
        steps = range(CONTROLS)
        apart = [apart[round(step * (len(apart) - 1) / (CONTROLS - 1))] for step in steps]
    return [(start, start + width - 1) for start in sorted(apart)]


def _best_alpha(tried: Sequence[Point], baseline: Flags) -> float:
    changes = {point.alpha: change(point.flags, baseline, point.alpha) for point in tried}
    moved = [p for p in tried if changes[p.alpha][0] > 0 and changes[p.alpha][1] < LEVEL]
    if not moved:
        start = tried[0]
        seen = ", ".join(f"{p.refused} at {p.alpha:g} (p {changes[p.alpha][1]:.2g})" for p in tried)
        raise LocalizationError(
            f"expected layers {start.first} to {start.last}, where the search starts, to change "
            f"the {sum(baseline)} of {len(baseline)} prompts refused when they are scaled, "
            f"p < {LEVEL:g}; got {seen}.",
            hint=NOT_FOUND,
        )

    def rank(point: Point) -> tuple[bool, bool, int, float]:
        # Below 1 comes last: an answer that breaks is no refusal, so a fall may be mere damage.
        is_inside = FLOOR <= point.refused / len(baseline) <= CEILING
        distance = round(abs(point.alpha - 1), 9)
        return (point.alpha > 1, is_inside, changes[point.alpha][0], -distance)

    return max(moved, key=rank).alpha
