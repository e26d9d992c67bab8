"""Charts as PNG: readable at 700 pixels, told apart without colour, the same bytes each time.

- matplotlib is an extra. Without it there are no images, and the caller is told.
- Drawn on Agg figures of their own: no pyplot, no window, no setting of this process is changed,
  and none of the user's is read.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from registry.artifact.presentation import Chart, Panel, Series

_LOOKS = (
    ("#D55E00", "o", "-"),
    ("#0072B2", "s", "--"),
    ("#009E73", "^", ":"),
    ("#CC79A7", "D", "-."),
    ("#E69F00", "v", "-"),
    ("#56B4E9", "P", "--"),
)
"""Colour (Okabe and Ito's, safe for the colour-blind), marker and line of each series."""
_INK, _FAINT, _BAND = "#24292f", "#6e7781", "#eaeef2"
_DPI = 200  # 7 inches are 1400 pixels: sharp when a page shows them at 700
_MOST_NAMES = 48  # of an axis; of more, every second, third, ... is written


def draw(charts: Iterable[Chart]) -> dict[str, bytes] | None:
    """Return a PNG for each chart by its name; ``None`` where matplotlib is not installed."""
    try:
        import matplotlib.style
    except ModuleNotFoundError:
        return None
    with matplotlib.style.context("default"):  # whatever the user's own style is
        return {chart.name: _png(chart) for chart in charts}


def _png(chart: Chart) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    heights = [3.0, *(1.5 for _ in chart.panels[1:])]
    figure = Figure(figsize=(7.0, 1.1 + sum(heights)), dpi=_DPI, layout="constrained")
    figure.set_facecolor("white")
    FigureCanvasAgg(figure)
    rows = figure.subplots(
        len(chart.panels), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    colour = 0
    for axes, panel in zip(rows[:, 0], chart.panels, strict=True):
        _panel(axes, panel, colour, chart)
        colour += len(panel.series)
    figure.suptitle(_plain(chart.title), fontsize=11, color=_INK, x=0.01, ha="left")
    last = rows[-1, 0]
    last.set_xlabel(_plain(chart.x_label), fontsize=10, color=_INK)
    if chart.band is not None:
        last.xaxis.set_major_locator(MaxNLocator(integer=True))
    if chart.names:
        step = 1 + (len(chart.names) - 1) // _MOST_NAMES
        places = range(0, len(chart.names), step)
        last.set_xticks(places, [_plain(chart.names[place]) for place in places], rotation=90)
    for x, called in _chosen(chart):
        rows[0, 0].annotate(
            _plain(called), (x, 1.0), xycoords=("data", "axes fraction"), xytext=(4, -3),
            textcoords="offset points", va="top", fontsize=9, color=_INK,
        )  # fmt: skip
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _chosen(chart: Chart) -> list[tuple[float, str]]:
    """Return where what was chosen begins, and what it is called."""
    found = [] if chart.mark is None else [chart.mark]
    return found if chart.band is None else [*found, (chart.band[0] - 0.5, chart.band[2])]


def _panel(axes: Any, panel: Panel, colour: int, chart: Chart) -> None:
    from matplotlib.ticker import PercentFormatter

    for spine in ("top", "right"):
        axes.spines[spine].set_visible(False)
    axes.grid(visible=True, axis="y", color="#d0d7de", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, colors=_INK)
    axes.set_ylabel(_plain(panel.y_label), fontsize=10, color=_INK)
    if chart.mark is not None:
        axes.axvline(chart.mark[0], color=_FAINT, linewidth=1.0)
    if chart.band is not None:
        axes.axvspan(chart.band[0] - 0.5, chart.band[1] + 0.5, color=_BAND, linewidth=0)
    for number, series in enumerate(panel.series):
        beside = number - (len(panel.series) - 1) / 2
        _series(axes, series, colour + number, joined=panel.joined, beside=beside)
    if panel.limit is not None:
        value, called = panel.limit
        axes.axhline(value, color=_INK, linewidth=1.0, linestyle=(0, (4, 3)), label=_plain(called))
    if panel.span is not None:
        low, high = panel.span
        above = 0.1 if _chosen(chart) else 0.02  # what the mark is called stands above all points
        axes.set_ylim(low - 0.02 * (high - low), high + above * (high - low))
    if panel.percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    if len(panel.series) > 1 or panel.limit is not None:
        axes.legend(
            fontsize=9, frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(-0.01, 0.98),
            borderaxespad=0.0, handlelength=2.4, columnspacing=1.4, labelcolor=_INK,
        )  # fmt: skip


def _series(axes: Any, series: Series, number: int, *, joined: bool, beside: float) -> None:
    """Draw one series; its intervals stand beside those of others at the same x, not on them."""
    tone, marker, line = _LOOKS[number % len(_LOOKS)]
    points = series.points
    span = max((point.x for point in points), default=0) - min((p.x for p in points), default=0)
    has_errors = any(point.low is not None for point in points)
    shift = beside * 0.012 * span if joined and has_errors else 0.0
    x = [point.x + shift for point in points]
    y = [point.y for point in points]
    errors = [
        [max(0.0, point.y - point.low) if point.low is not None else 0.0 for point in points],
        [max(0.0, point.high - point.y) if point.high is not None else 0.0 for point in points],
    ]
    axes.errorbar(
        x, y, yerr=errors if has_errors else None, color=tone, marker=marker, markersize=5.5,
        linestyle=line if joined else "none", linewidth=1.6, elinewidth=1.0, capsize=2.5,
        label=_plain(series.label),
    )  # fmt: skip


def _plain(text: str) -> str:
    """Return ``text`` so that no dollar in it begins a formula, and no legend leaves it out."""
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")
