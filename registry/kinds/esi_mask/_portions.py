"""Sums of an ESI mask's receipt: over the layers, over the components, over everything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

OTHERS = "all others"
_MOST_COMPONENTS = 20  # that are shown one by one


@dataclass(frozen=True, slots=True)
class Portion:
    """What some of the candidates have.

    Attributes:
        layer: Of which decoder layer; ``None`` for the output head, and for sums over layers.
        component: What it is in its layer, such as ``self_attn.v_proj``.
        weights: How many weights.
        selected: How many of these are selected.
        scores: Sum of the scores of all of them.
        selected_scores: Sum of the scores of the selected ones.
    """

    layer: int | None
    component: str
    weights: int
    selected: int
    scores: float
    selected_scores: float


def portions(mass: Iterable[Mapping[str, Any]]) -> tuple[Portion, ...]:
    """Return the rows of the receipt ``mass``."""
    return tuple(
        Portion(
            layer=row["layer"],
            component=row["component"],
            weights=row["weights"],
            selected=row["selected"],
            scores=float(row["sum"]),
            selected_scores=float(row["selected_sum"]),
        )
        for row in mass
    )


def total(rows: Iterable[Portion], *, component: str = "", layer: int | None = None) -> Portion:
    """Return the sum of ``rows``, under this name."""
    rows = tuple(rows)
    return Portion(
        layer=layer,
        component=component,
        weights=sum(row.weights for row in rows),
        selected=sum(row.selected for row in rows),
        scores=sum(row.scores for row in rows),
        selected_scores=sum(row.selected_scores for row in rows),
    )


def by_layer(rows: Iterable[Portion]) -> list[tuple[int, Portion]]:
    """Return the sum of each layer in order; rows without a layer are left out."""
    found: dict[int, list[Portion]] = {}
    for row in rows:
        if row.layer is not None:
            found.setdefault(row.layer, []).append(row)
    return [(layer, total(found[layer], layer=layer)) for layer in sorted(found)]


def by_component(rows: Sequence[Portion]) -> list[Portion]:
    """Return the sum of each component, most of the scores first; of very many, the rest in one."""
    found: dict[str, list[Portion]] = {}
    for row in rows:
        found.setdefault(row.component, []).append(row)
    sums = [total(group, component=name) for name, group in found.items()]
    sums.sort(key=lambda row: (-row.scores, row.component))
    if len(sums) <= _MOST_COMPONENTS + 1:
        return sums
    return [*sums[:_MOST_COMPONENTS], total(sums[_MOST_COMPONENTS:], component=OTHERS)]


def portion(part: float, whole: float) -> float | None:
    """Return the share of ``part`` in ``whole``, 0 to 1; ``None`` of nothing."""
    return part / whole if whole else None
