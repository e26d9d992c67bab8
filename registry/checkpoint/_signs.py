"""The signs by which a kind of change is known, each with its threshold; change.py has the order.

A sign is given the tensors that moved and writes the figures it looked at, whether it holds or not.
Thresholds were set on real weights (docs/lineage.md has what they get right and what they miss).
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

    from registry.checkpoint.pairs import Pair
    from registry.checkpoint.ranks import Direction
    from registry.checkpoint.record import BaseRecord
    from registry.checkpoint.sites import Sites
    from registry.checkpoint.values import Values

Kind = Literal[
    "identical", "cast", "fine-tune", "sparse-edit", "merged-lora", "quantised-int8",
    "quantised-nf4", "quantised-4bit", "quantised-gguf", "vocabulary-extended", "abliterated",
    "merge", "unrelated", "unknown",
]  # fmt: skip

_MOST = 0.9  # almost every one
_LEVELS = 0.6  # of the runs that changed; of another change's runs none have a quantiser's levels
_SHARED, _EXPLAINED, _FIRST = 0.8, 0.3, 0.5
_ROUNDING, _HALF, _LOW_RANK = 1.3, 0.5, 0.75
_SPARSE, _STEPS = 0.1, 2.0
_FEW = 3
_COMBINED = 0.95
_LOOKED_AT = 64


def spread(everything: Sequence[Pair], moved: Sequence[Pair]) -> dict[str, Any]:
    """Return how many weights changed, and by how many of their dtype's steps."""
    import numpy as np

    changed, sizes = 0.0, []
    for pair in moved:
        difference = pair.flat(pair.change)
        touched = difference != 0
        changed += float(touched.mean()) * pair.base.numel
        if touched.any():
            values = pair.flat(pair.theirs)[touched]
            size = np.abs(difference[touched]) / steps(values, pair.child.dtype)
            sizes.append(size[np.isfinite(size)])
    total = sum(pair.base.numel for pair in moved)
    every = np.concatenate(sizes) if sizes else np.empty(0)
    return {
        "matrices": sum(pair.is_matrix for pair in moved),
        "of_matrices": sum(pair.is_matrix for pair in everything),
        "changed_share": short(changed / total) if total else 0.0,
        "steps": short(float(np.median(every))) if every.size else 0.0,
    }


def _quantised(moved: Sequence[Pair], sites: Sites, figures: dict[str, Any]) -> Kind | None:
    import numpy as np

    del sites
    matrices = [pair for pair in moved if pair.is_matrix]
    matrices = [pair for pair in matrices if pair.layer is not None] or matrices
    some = np.argsort(splitmix64(0, len(matrices)))[:_LOOKED_AT]  # of all roles and layers
    made: Counter[str | None] = Counter()
    for pair in (matrices[index] for index in some):
        made.update(quantisers(pair, PRECISION[held_in(pair.theirs, pair.child.dtype)]))
    runs = sum(made.values())
    families: Counter[str] = Counter()
    for name, count in made.items():
        if name is not None:
            families[name if name in {"nf4", "int8", "4bit"} else "gguf"] += count
    if not families:
        return None
    family, count = families.most_common(1)[0]
    if count < _LEVELS * runs:
        return None
    figures |= {
        "runs": runs,
        "levels_share": short(count / runs),
        "levels": max((name for name in made if name), key=lambda name: made[name]),
    }
    kinds: dict[str, Kind] = {
        "nf4": "quantised-nf4", "int8": "quantised-int8", "4bit": "quantised-4bit",
        "gguf": "quantised-gguf",
    }  # fmt: skip
    return kinds[family]


def _abliterated(moved: Sequence[Pair], sites: Sites, figures: dict[str, Any]) -> Kind | None:
    writes = [pair for pair in moved if sites.writes_residual(pair.name)]
    found = direction_of(writes, transposed=sites.transposed)
    if found is None:
        return None
    figures |= {
        "shared_direction": short(found.shared),
        "shared_in_layer": short(found.by_layer),
        "explained_by_direction": short(found.explained),
        "first_direction": short(found.first),
    }
    return "abliterated" if _is_one_direction(found) else None


def _is_one_direction(found: Direction) -> bool:
    everywhere = found.shared >= _SHARED and found.explained >= _EXPLAINED
    in_layers = found.by_layer >= _MOST and found.first >= _FIRST
    return everywhere or in_layers


def _merged_lora(moved: Sequence[Pair], sites: Sites, figures: dict[str, Any]) -> Kind | None:
    del sites
    ranks = [
        rank
        for pair in moved
        if pair.is_matrix
        and (rank := rank_of(pair, held_in(pair.theirs, pair.child.dtype))) is not None
    ]
    if not ranks:
        return None
    low = [
        rank
        for rank in ranks
        if rank.is_low and rank.residual <= _ROUNDING and rank.explained >= _HALF
    ]
    figures |= {
        "rank": round(median(rank.rank for rank in ranks)),
        "beside_rank": short(median(rank.residual for rank in ranks)),
        "low_rank_share": short(len(low) / len(ranks)),
    }
    if len(low) < _LOW_RANK * len(ranks):
        return None
    figures["rank"] = max(rank.rank for rank in low)
    return "merged-lora"


def _sparse(moved: Sequence[Pair], sites: Sites, figures: dict[str, Any]) -> Kind | None:
    del sites
    if not moved:
        return "sparse-edit"  # the digests differ, and no sample does
    few = figures["changed_share"] <= _SPARSE and figures["steps"] > _STEPS
    local = figures["matrices"] <= min(_FEW, figures["of_matrices"] // 2)
    return "sparse-edit" if few or local else None


def is_merge(
    base: BaseRecord,
    child: BaseRecord,
    moved: Sequence[Pair],
    others: Sequence[tuple[str, BaseRecord]],
    figures: dict[str, Any],
) -> bool:
    """Fit the change by the changes of ``others``; write their shares into ``figures``.

    It is a merge when they explain nearly all of it, or most of it and what is left is what
    rounding leaves.
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
        return False
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
    left = np.stack(columns, axis=1)
    shares, *_ = np.linalg.lstsq(left, change, rcond=None)
    rest = float(((left @ shares - change) ** 2).sum())
    noise = float((rounding**2).sum()) * (1 + float((shares**2).sum()))  # parents are rounded too
    explained = 1 - rest / float((change**2).sum())
    figures |= {
        "merge_explained": short(explained),
        "beside_merge": short(math.sqrt(rest / noise)),
        "parents": {name: short(float(s)) for name, s in zip(parents, shares, strict=True)},
    }
    return explained >= _COMBINED or (explained >= _HALF and rest <= _ROUNDING**2 * noise)


def _moves(chosen: Sequence[Pair]) -> tuple[Values, Values]:
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


SIGNS = (_quantised, _abliterated, _sparse, _merged_lora)
"""From the particular to the general."""
