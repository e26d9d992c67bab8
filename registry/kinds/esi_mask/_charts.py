"""The pictures of an ESI mask: where the scores are, and where the selected weights are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.artifact.presentation import Chart, Panel, Point, Series
from registry.kinds.esi_mask._portions import OTHERS, by_component, by_layer, portion, total

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from registry.kinds.esi_mask._portions import Portion
    from registry.kinds.esi_mask.body import MaskBody

_MOST_SERIES = 5  # and one for the rest: a panel has six
_ROOM = 1.06  # above the highest point, for its marker
_BESIDE = 0.2  # so that equal shares of a component do not hide each other


def charts(body: MaskBody, rows: Sequence[Portion]) -> tuple[Chart, ...]:
    """Return the pictures; none by layer where nothing is in a layer."""
    layers = _layers_chart(body, rows)
    return tuple(chart for chart in (layers, _components_chart(rows)) if chart is not None)


def _layers_chart(body: MaskBody, rows: Sequence[Portion]) -> Chart | None:
    """Return share of the scores and of the selected weights layer by layer, by block."""
    in_layers = [row for row in rows if row.layer is not None]
    if not in_layers:
        return None
    whole, blocks = total(rows), _blocks(in_layers)

    def panel(label: str, part: str, limit: tuple[float, str] | None = None) -> Panel:
        lines = tuple(
            Series(name, _points((n, _value(row, whole, part)) for n, row in by_layer(of_block)))
            for name, of_block in blocks
        )
        return Panel(label, lines, percent=False, limit=limit, span=_span(lines, limit))

    return Chart(
        name="layers",
        title="Where the expected safety impact is, layer by layer",
        described=(
            "Share of all scores (expected safety impact, summed) that each layer has, and below "
            "it the share of that layer's weights that is selected, beside the share overall; "
            "one line for each block of a layer. The output head is in no layer."
        ),
        x_label="layer",
        panels=(
            panel("% of all scores", "scores"),
            panel("% selected", "selected", (100 * body.selected / body.weights, "overall")),
        ),
    )


def _blocks(rows: Sequence[Portion]) -> list[tuple[str, list[Portion]]]:
    """Return the rows by the block that they are in, the blocks with most of the scores first."""
    found: dict[str, list[Portion]] = {}
    for row in rows:
        found.setdefault(row.component.partition(".")[0], []).append(row)
    ordered = sorted(found.items(), key=lambda item: (-total(item[1]).scores, item[0]))
    if len(ordered) <= _MOST_SERIES + 1:
        return ordered
    rest = [row for _, block in ordered[_MOST_SERIES:] for row in block]
    return [*ordered[:_MOST_SERIES], (OTHERS, rest)]


def _points(shares: Iterable[tuple[float, float | None]]) -> tuple[Point, ...]:
    """Return shares in percent, without those of nothing; most are too small for whole percent."""
    return tuple(Point(x, 100 * share) for x, share in shares if share is not None)


def _span(lines: Iterable[Series], limit: tuple[float, str] | None = None) -> tuple[float, float]:
    """Return 0 and a little above the highest point: shares are compared from nothing on."""
    highest = max((point.y for line in lines for point in line.points), default=0.0)
    return 0.0, _ROOM * max(highest, 0.0 if limit is None else limit[0]) or 1.0


def _value(row: Portion, whole: Portion, part: str) -> float | None:
    if part == "scores":
        return portion(row.scores, whole.scores)
    return portion(row.selected, row.weights)


def _components_chart(rows: Sequence[Portion]) -> Chart:
    """Return what share each component has of weights, of scores and of the selected."""
    whole, found = total(rows), by_component(rows)
    shares = (
        ("weights", [portion(row.weights, whole.weights) for row in found]),
        ("scores", [portion(row.scores, whole.scores) for row in found]),
        ("selected weights", [portion(row.selected, whole.selected) for row in found]),
    )
    marks = tuple(
        Series(label, _points((x + _BESIDE * (place - 1), y) for x, y in enumerate(ys)))
        for place, (label, ys) in enumerate(shares)
    )
    return Chart(
        name="components",
        title="Which parts of the layers carry the impact",
        described=(
            "Share that each component, all layers together, has of the candidates' weights, of "
            "all scores and of the selected weights. Where a component has more of the selected "
            "than of the weights, the mask is denser there."
        ),
        x_label="component",
        panels=(Panel("% of all", marks, percent=False, joined=False, span=_span(marks)),),
        names=tuple(row.component for row in found),
    )
