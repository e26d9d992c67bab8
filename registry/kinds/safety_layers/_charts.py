"""The pictures of safety layers: curves with their controls, and the sweep of the bounds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from registry.artifact.presentation import Chart, Panel, Point, Series, Share
from registry.measure.statistics import Rate

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from registry.kinds.safety_layers.body import LayersBody


def curves_chart(body: LayersBody, measured: Mapping[str, Any]) -> Chart:
    """Return cosines and gap of each layer, beside the controls."""
    curves, gap, controls = measured["curves"], measured["gap"], measured["controls"]
    cosines = tuple(
        Series(label, tuple(Point(x, value) for x, value in enumerate(curves[name]["mean"])))
        for name, label in (
            ("harmless", "both harmless"),
            ("harmful", "both harmful"),
            ("between", "one of each"),
        )
    )
    gaps = (
        _angles("harmful", gap),
        _angles("form alone", controls["form"]),
        _angles("scary", controls["scary"]),
    )
    return Chart(
        name="curves",
        title="How far apart the base keeps harmful and harmless prompts, layer by layer",
        described=(
            "Mean cosine of each layer's output for pairs of prompts, and below it the angle "
            "between harmful and harmless prompts beyond the angle within each, with 95 % "
            "intervals, beside two controls in which nothing is harmful: questions against "
            "imperatives, and prompts that only sound harmful. The range is layers "
            f"{body.first} to {body.last}."
        ),
        x_label="layer",
        panels=(
            Panel("mean cosine", cosines, percent=False, span=_span(cosines)),
            Panel("gap, degrees", gaps, percent=False),
        ),
        band=(body.first, body.last, f"layers {body.first} to {body.last}"),
    )


def _span(cosines: Iterable[Series]) -> tuple[float, float]:
    """Return 1 and the tenth below the least cosine."""
    least = min(point.y for series in cosines for point in series.points)
    return math.floor(10 * least) / 10 - (0.1 if least >= 1 else 0.0), 1.0


def _angles(label: str, figures: Mapping[str, Sequence[float]]) -> Series:
    rows = zip(figures["degrees"], figures["low"], figures["high"], strict=True)
    return Series(label, tuple(Point(x, *row) for x, row in enumerate(rows)))


def sweep_chart(body: LayersBody, measured: Mapping[str, Any]) -> Chart:
    """Return what was refused as each bound moved, beside equally wide ranges."""
    points, n, alpha = measured["points"], measured["n"], measured["scaling"]["alpha"]

    def series(label: str, step: str, bound: str) -> Series:
        found = sorted((p for p in points if p["step"] == step), key=lambda p: int(p[bound]))
        return Series(label, tuple(_refused(p[bound], p["refused"], n) for p in found))

    own = next(p["refused"] for p in points if p["step"] == "lower" and p["first"] == body.first)
    plain = next(p["refused"] for p in points if p["step"] == "baseline")
    limit = (plain / n, "the base as it is")
    bounds = (
        series("last layer moved", "upper", "last"), series("first layer moved", "lower", "first"),
    )  # fmt: skip
    elsewhere = (
        Series("the range", (_refused(body.first, own, n),)),
        series("as wide, from this layer on", "control", "first"),
    )
    return Chart(
        name="sweep",
        title=f"Harmless prompts refused with layers scaled by {alpha:g}",
        described=(
            "Share of harmless prompts that sound harmful which the base refuses, with 95 % "
            "intervals: while the last and then the first layer of the scaled range is moved, and "
            "with equally wide ranges elsewhere. The base as it is refuses "
            f"{plain} of {n}, with layers {body.first} to {body.last} scaled {own}."
        ),
        x_label="layer",
        panels=(
            Panel("refused", bounds, span=(0.0, 1.0), limit=limit),
            Panel("refused", elsewhere, span=(0.0, 1.0), limit=limit, joined=False),
        ),
        band=(body.first, body.last, f"layers {body.first} to {body.last}"),
    )


def _refused(x: int, successes: int, n: int) -> Point:
    share = share_of(successes, n)
    return Point(x, share.value, share.low, share.high)


def share_of(successes: int, n: int) -> Share:
    """Return a share of prompts with its Wilson interval."""
    interval = Rate(successes, n).interval()
    return Share(successes, n, interval.low, interval.high)
