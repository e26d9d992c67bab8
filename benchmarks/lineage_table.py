"""The results of ``lineage.py`` as a Markdown table, and every miss below it."""

from __future__ import annotations

import json
import math
import statistics
from typing import Any

_FIGURES_SHOWN = 400  # characters


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print one line for each variant, then each result that was not as expected."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["row"], []).append(row)
    print(
        "| change | n | true distance | estimate / truth: min, median, max "
        "| the same for one layer: min, max | expected | named so |\n|---|---|---|---|---|---|---|"
    )
    for name, group in groups.items():
        print(_line(name, group))
    misses = [row for row in rows if row["right"] is False]
    judged = sum(row["right"] is not None for row in rows)
    print(f"\n{len(rows)} results, {judged} classified, {len(misses)} misses.")
    for row in misses:
        print(_miss(row))


def _line(name: str, group: list[dict[str, Any]]) -> str:
    truths = [row["truth"] for row in group]
    ratios = [
        row["estimate"] / row["truth"]
        for row in group
        if 0 < row["truth"] < math.inf and row["estimate"] is not None
    ]
    layers = [row["layer_ratios"] for row in group if row["layer_ratios"]]
    whole = one = "-"
    if ratios:
        whole = f"{min(ratios):.3f}, {statistics.median(ratios):.3f}, {max(ratios):.3f}"
    if layers:
        one = f"{min(low for low, _ in layers):.2f}, {max(high for _, high in layers):.2f}"
    judged = [row["right"] for row in group if row["right"] is not None]
    said = f"{sum(judged)} of {len(judged)}" if judged else "-"
    expected = " or ".join(sorted({kind for row in group for kind in row["expected"]}))
    return f"| {name} | {len(group)} | {_range(truths)} | {whole} | {one} | {expected} | {said} |"


def _range(values: list[float]) -> str:
    low, high = min(values), max(values)
    if high == 0:
        return "0"
    return f"{low:.2g}" if low == high else f"{low:.2g} to {high:.2g}"


def _miss(row: dict[str, Any]) -> str:
    estimate = "infinite" if row["estimate"] is None else f"{row['estimate']:.3g}"
    figures = json.dumps(row["figures"], default=str)[:_FIGURES_SHOWN]
    what = (
        f"- {row['row']}, seed {row['seed']}: expected {' or '.join(row['expected'])}, "
        f"got {row['got']} ({row['relation']}, true distance {row['truth']:.3g}, "
        f"estimate {estimate})"
    )
    lines = [
        what,
        f"  made: {json.dumps(row['parameters'])[:_FIGURES_SHOWN]}",
        f"  figures: {figures}",
    ]
    if row["named"]:
        lines.append(f"  to be named: {row['named']}, named: {row['changed']}")
    return "\n".join(lines)
