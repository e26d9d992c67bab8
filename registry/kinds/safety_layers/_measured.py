"""What a measured range says of its search, and whether range and effect follow from its flags.

The ``measurement`` member of the body::

    template      name of the prompt's form, and the digest of the chat template
    scorer        who says that an answer refuses, with its version
    max_new_tokens    length of the answers that are scored, in tokens
    prompts       name, version, digest, splits and rows of each set
    n             over-rejection prompts asked at each point
    curves        harmless, harmful, between: mean and std of the cosines, per layer
    gap           symmetric angular gap in degrees, per layer, with its 95 % interval;
                  ``paper`` is the paper's own NM - NN
    controls      the same statistic where there is nothing harmful: form, scary
    initial       where the search began, and by which rule
    scaling       mode, alpha, attention_output, rule
    points        what was asked: step, first, last, alpha, refused
    resampled     how often each bound came out when the prompts were drawn again
    effect        the range against the baseline and against the strongest control
    seed          of every draw
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

from registry.errors import LocalizationError
from registry.kinds.safety_layers._evidence import effect
from registry.kinds.safety_layers._points import (
    ALPHA,
    BASELINE,
    CONTROL,
    LOWER,
    UPPER,
    Point,
    direction,
    level_of,
)
from registry.kinds.safety_layers._search import chosen

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np


def measured_findings(document: Mapping[str, Any], refused: np.ndarray) -> list[str]:
    """Return a line per rule that the measurement of a body breaks.

    Args:
        document: The body; its schema was checked.
        refused: Flags, uint8 [points, prompts].
    """
    measured, layers = document["measurement"], document["layers"]
    findings = [
        f"{where}: expected {layers} values, one per layer, got {len(values)}"
        for where, values in _per_layer(measured)
        if len(values) != layers
    ]
    if int(refused.max(initial=0)) > 1:
        findings.append(f"refused: expected flags of 0 and 1, got {int(refused.max())}")
    for index, (point, row) in enumerate(zip(measured["points"], refused, strict=True)):
        where, seen = f"points[{index}]", int(row.sum())
        if point["refused"] != seen:
            findings.append(
                f"{where}: expected {seen} refused as its flags, got {point['refused']}"
            )
        first, last = point["first"], point["last"]
        is_range = first is not None and last is not None and 0 <= first <= last < layers
        if (first, last) != (None, None) and not is_range:
            findings.append(f"{where}: expected a range below {layers}, got [{first}, {last}]")
    findings += _sweep_findings(document)
    if findings:
        return findings
    stated = (document["first"], document["last"])
    findings = _resampled_findings(measured)
    found = chosen(measured["points"])
    if found != stated:
        shown = "none" if found is None else list(found)
        return [f"range: expected {shown} by the rule and the sweep, got {list(stated)}"]
    return findings + (
        _effect_findings(measured, refused, stated, layers)
        or _omitted_findings(measured["points"], stated, layers)
    )


def _sweep_findings(document: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with what was asked for, whatever was answered."""
    measured, width = document["measurement"], document["last"] - document["first"]
    points, alpha = measured["points"], measured["scaling"]["alpha"]
    findings = []
    seen = Counter((p["step"], p["first"], p["last"], p["alpha"]) for p in points)
    baselines = sum(times for (step, *_), times in seen.items() if step == BASELINE)
    if baselines != 1:
        findings.append(f"points: expected one baseline, got {baselines}")
    for (step, first, last, factor), times in seen.items():
        where = f"points: {step} [{first}, {last}] by {factor:g}"
        if times > 1:
            findings.append(f"{where}: expected once, got {times} times")
        if (step == BASELINE) != (first is None):
            findings.append(f"{where}: expected a range, or none for the baseline")
        wanted = {BASELINE: 1, ALPHA: factor}.get(step, alpha)
        if factor != wanted:
            findings.append(f"{where}: expected alpha {wanted:g}")
        is_as_wide = None not in {first, last} and last - first == width
        if step == CONTROL and (not is_as_wide or first == document["first"]):
            findings.append(f"{where}: expected another range of {width + 1} layers")
    return findings


def _effect_findings(
    measured: Mapping[str, Any], refused: np.ndarray, found: tuple[int, int], layers: int
) -> list[str]:
    """Return where the stated effect is not the one of the flags, or is none."""
    points, alpha = measured["points"], measured["scaling"]["alpha"]
    of = {step: [i for i, p in enumerate(points) if p["step"] == step] for step in
          (BASELINE, LOWER, CONTROL)}  # fmt: skip
    own = [i for i in of[LOWER] if (points[i]["first"], points[i]["last"]) == found]
    by_count = sorted(of[CONTROL], key=lambda i: -direction(alpha) * points[i]["refused"])
    decisive = [
        Point(
            step=points[i]["step"],
            first=points[i]["first"],
            last=points[i]["last"],
            alpha=points[i]["alpha"],
            flags=tuple(map(bool, refused[i].tolist())),
        )
        for i in (*of[BASELINE], *own, *by_count[:1])
    ]
    swept = [(p["first"], p["last"]) for p in points if p["step"] in {UPPER, LOWER}]
    try:
        got = effect(decisive, found, alpha, layers, level=level_of(swept))
    except LocalizationError as error:
        return [f"effect: {error.message}"]
    stated = measured["effect"]
    return [
        f"effect.{name}: expected {value} by the flags, got {stated[name]}"
        for name, value in got.items()
        if not (
            math.isclose(value, stated[name], rel_tol=1e-9, abs_tol=1e-300)
            if isinstance(value, float)
            else value == stated[name]
        )
    ]


def _omitted_findings(
    points: Sequence[Mapping[str, Any]], found: tuple[int, int], layers: int
) -> list[str]:
    """Return what the search asks for and the points do not have: what was left out may decide."""
    from registry.kinds.safety_layers._search import control_ranges

    asked = {
        step: {(p["first"], p["last"]) for p in points if p["step"] == step}
        for step in (UPPER, LOWER, CONTROL)
    }
    (held, _), (first, last) = min(asked[UPPER]), found
    beside = {
        UPPER: [(held, bound) for bound in (last - 1, last + 1) if held <= bound < layers],
        LOWER: [(bound, last) for bound in (first - 1, first + 1) if 0 <= bound <= last],
        CONTROL: control_ranges(first, last, layers),
    }
    return [
        f"points: expected {step} [{first}, {last}], which decides about the range, found none"
        for step, ranges in beside.items()
        for first, last in ranges
        if (first, last) not in asked[step]
    ]


def _resampled_findings(measured: Mapping[str, Any]) -> list[str]:
    """Return where the stated firmness of the bounds cannot have come out of the sweep."""
    findings = []
    for name, step in (("first", LOWER), ("last", UPPER)):
        rows = measured["resampled"][name]
        values, total = [row["value"] for row in rows], math.fsum(row["share"] for row in rows)
        swept = {point[name] for point in measured["points"] if point["step"] == step}
        if len(set(values)) < len(values) or not swept.issuperset(values):
            findings.append(f"resampled.{name}: expected bounds of the sweep, each once")
        if not math.isclose(total, 1, abs_tol=1e-6):
            findings.append(f"resampled.{name}: expected shares that sum to 1, got {total:g}")
    return findings


def _per_layer(measured: Mapping[str, Any]) -> list[tuple[str, list[float]]]:
    rows = [
        (f"curves.{name}.{figure}", values)
        for name, curve in measured["curves"].items()
        for figure, values in curve.items()
    ]
    rows += [(f"gap.{name}", values) for name, values in measured["gap"].items()]
    return rows + [
        (f"controls.{name}.{figure}", values)
        for name, control in measured["controls"].items()
        for figure, values in control.items()
    ]
