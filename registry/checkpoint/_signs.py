"""The signs by which a kind of change is known, each with its threshold; change.py has the order.

A sign is given the tensors that moved. It returns the kind, or ``None`` where it does not hold, and
the figures it looked at in either case. Thresholds were set on real weights (docs/lineage.md has
what they get right and what they miss).
"""

from __future__ import annotations

import math
from collections import Counter
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from registry.checkpoint.levels import quantisers
from registry.checkpoint.lineage import judge
from registry.checkpoint.pairs import pairs
from registry.checkpoint.ranks import direction_of, rank_of
from registry.checkpoint.sketch import splitmix64
from registry.checkpoint.values import PRECISION, held_in, steps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from registry.checkpoint.pairs import TensorPair
    from registry.checkpoint.ranks import Direction
    from registry.checkpoint.record import BaseRecord
    from registry.checkpoint.values import Values

    Figures = dict[str, Any]
    Sign = tuple["ChangeKind | None", Figures]

ChangeKind = Literal[
    "identical", "cast", "fine-tune", "sparse-edit", "merged-lora", "quantised-int8",
    "quantised-nf4", "quantised-4bit", "quantised-gguf", "vocabulary-extended", "abliterated",
    "merge", "unrelated", "unknown",
]  # fmt: skip

_LOOKED_AT = 64
"""Matrices whose runs are looked at, of all roles and layers."""
_LEVELS = 0.6
"""Share of the runs that changed which hold a quantiser's levels. Other changes leave almost none;
of a row whose largest weight is far above the rest, some are not told."""
_SHARED, _EXPLAINED = 0.8, 0.3
"""One direction in all layers: mean squared cosine with it, and its share of the change."""
_SHARED_IN_LAYER, _FIRST = 0.9, 0.5
"""A direction per layer: the same within a layer, and the first direction's share of a matrix."""
_ROUNDING = 1.4
"""What is left beside a low rank or a merge, at most, in units of what rounding leaves."""
_ABOVE_ROUNDING = 0.5
"""Share of the change that a low rank or a merge has to explain, at least."""
_LOW_RANK = 0.5
"""Share of the changed matrices that have to be of low rank."""
_SPARSE, _STEPS, _FEW_MATRICES = 0.1, 2.0, 3
"""A sparse edit: share of the weights at most, steps of the dtype above, or matrices at most."""
_COMBINED = 0.95
"""Share of the change that is a merge whatever rounding is."""
_NOTHING = 0.02
"""Share of a parent below which it is none."""


def spread(everything: Sequence[TensorPair], moved: Sequence[TensorPair]) -> Figures:
    """Return how many weights changed, and by how many of their dtype's steps."""
    import numpy as np

    changed, sizes = 0.0, []
    for pair in moved:
        touched = pair.change != 0
        changed += float(touched.mean()) * pair.base.numel
        sizes.append(np.abs(pair.change[touched]) / steps(pair.theirs[touched], pair.child.dtype))
    total = sum(pair.base.numel for pair in moved)
    every = np.concatenate(sizes) if sizes else np.empty(0)
    return {
        "matrices": sum(pair.is_matrix for pair in moved),
        "of_matrices": sum(pair.is_matrix for pair in everything),
        "changed_share": short(changed / total) if total else 0.0,
        "steps": short(float(np.median(every))) if every.size else 0.0,
    }


def quantised(moved: Sequence[TensorPair]) -> Sign:
    """Return which quantiser's levels most changed runs of neighbours hold."""
    import numpy as np

    matrices = [pair for pair in moved if pair.is_matrix]
    matrices = [pair for pair in matrices if pair.layer is not None] or matrices
    some = np.argsort(splitmix64(0, len(matrices)))[:_LOOKED_AT]
    made: Counter[str | None] = Counter()
    for pair in (matrices[index] for index in some):
        made.update(quantisers(pair, PRECISION[held_in(pair.theirs, pair.child.dtype)]))
    runs = sum(made.values())
    families: Counter[ChangeKind] = Counter()
    for name, count in made.items():
        if name is not None:
            families[_FAMILIES.get(name, "quantised-gguf")] += count
    if not families:
        return None, {"runs": runs}
    kind, count = families.most_common(1)[0]
    figures = {
        "runs": runs,
        "levels_share": short(count / runs),
        "levels": max((name for name in made if name), key=lambda name: made[name]),
    }
    return (kind if count >= _LEVELS * runs else None), figures


_FAMILIES: dict[str, ChangeKind] = {
    "nf4": "quantised-nf4", "int8": "quantised-int8", "4bit": "quantised-4bit",
}  # fmt: skip


def abliterated(moved: Sequence[TensorPair], width: int) -> Sign:
    """Return whether what writes to the residual stream changed in one direction of it.

    Args:
        moved: The tensors that moved.
        width: Of the residual stream.
    """
    found = direction_of([pair for pair in moved if pair.writes_residual], width)
    if found is None:
        return None, {}
    figures = {
        "shared_direction": short(found.shared),
        "shared_in_layer": short(found.by_layer),
        "explained_by_direction": short(found.explained),
        "first_direction": short(found.first),
    }
    return ("abliterated" if _is_one_direction(found) else None), figures


def _is_one_direction(found: Direction) -> bool:
    everywhere = found.shared >= _SHARED and found.explained >= _EXPLAINED
    in_layers = found.by_layer >= _SHARED_IN_LAYER and found.first >= _FIRST
    return everywhere or in_layers


def merged_lora(moved: Sequence[TensorPair]) -> Sign:
    """Return whether most changed matrices changed by a low rank and rounding alone."""
    ranks = [
        rank
        for pair in moved
        if pair.is_matrix
        and (rank := rank_of(pair, held_in(pair.theirs, pair.child.dtype))) is not None
    ]
    if not ranks:
        return None, {}
    low = [
        rank.rank
        for rank in ranks
        if rank.is_low and rank.residual <= _ROUNDING and rank.explained >= _ABOVE_ROUNDING
    ]
    figures = {
        "rank": max(low, default=None),
        "median_rank": round(median(rank.rank for rank in ranks)),
        "beside_rank": short(median(rank.residual for rank in ranks)),
        "low_rank_share": short(len(low) / len(ranks)),
    }
    return ("merged-lora" if len(low) >= _LOW_RANK * len(ranks) else None), figures


def sparse(spread: Figures, unread: int) -> Sign:
    """Return whether few weights changed, by much, or few matrices, or none that a sample met.

    Args:
        spread: What ``spread`` says of the tensors that moved.
        unread: How many tensors changed whose values cannot be reckoned with.
    """
    few = spread["changed_share"] <= _SPARSE and spread["steps"] > _STEPS and not unread
    local = spread["matrices"] + unread <= min(_FEW_MATRICES, spread["of_matrices"] // 2)
    return ("sparse-edit" if few or local else None), {}


def merge(
    base: BaseRecord,
    child: BaseRecord,
    moved: Sequence[TensorPair],
    others: Sequence[tuple[str, BaseRecord]],
) -> Sign:
    """Return whether the change is a sum of the changes of ``others``, with the share of each.

    It is when they explain nearly all of it, or most of it and what is left is what rounding
    leaves.
    """
    import numpy as np

    names = [pair.name for pair in moved if pair.is_matrix]
    parents = {
        name: found
        for name, record in others
        if record.weights not in {base.weights, child.weights}
        and judge(base, record).is_descendant
        and set(names) <= (found := {pair.name: pair for pair in pairs(base, record)}).keys()
    }
    if not parents or not names:
        return None, {}
    made = {pair.name: pair for pair in moved}
    weights = np.concatenate(
        [
            np.full(
                made[name].extent.flat, math.sqrt(made[name].base.numel / made[name].extent.flat)
            )
            for name in names
        ]
    )
    columns = [_moves([found[name] for name in names])[0] * weights for found in parents.values()]
    change, rounding = (each * weights for each in _moves([made[name] for name in names]))
    if not change.any():
        return None, {}
    left = np.stack(columns, axis=1)
    shares, *_ = np.linalg.lstsq(left, change, rcond=None)
    rest = float(((left @ shares - change) ** 2).sum())
    noise = float((rounding**2).sum()) * (1 + float((shares**2).sum()))  # parents are rounded too
    explained = 1 - rest / float((change**2).sum())
    figures = {
        "merge_explained": short(explained),
        "beside_merge": short(math.sqrt(rest / noise)),
        "parents": {name: short(float(s)) for name, s in zip(parents, shares, strict=True)},
    }
    is_rounding = explained >= _ABOVE_ROUNDING and rest <= _ROUNDING**2 * noise
    is_other = [abs(share - 1) < _NOTHING for share in shares]  # a child of that one, not of two
    rest_is_nothing = sum(abs(share) >= _NOTHING for share in shares) == 1
    if any(is_other) and rest_is_nothing:
        return None, figures
    return ("merge" if explained >= _COMBINED or is_rounding else None), figures


def _moves(chosen: Sequence[TensorPair]) -> tuple[Values, Values]:
    """Return the changes of all flat samples, and what rounding leaves in each, one deviation."""
    import numpy as np

    changes = [pair.flat(pair.theirs - pair.ours) for pair in chosen]
    rounding = [
        steps(pair.flat(pair.theirs), held_in(pair.theirs, pair.child.dtype)) / math.sqrt(12)
        for pair in chosen
    ]
    return np.concatenate(changes), np.concatenate(rounding)


def short(value: float) -> float:
    """Return ``value`` with four significant digits."""
    return float(f"{value:.4g}")
