"""What shape a change has: its rank in a matrix, and one direction shared by many.

Judged on the 48 by 48 grid, whose rows and columns the layers share. Rounding to the stored dtype
adds noise of a known size to every element: what stays below it is not counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.checkpoint.values import steps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from registry.checkpoint.pairs import TensorPair

_LOW = 2 / 3
"""Largest rank that is low, as a share of all singular values: 32 on a grid of 48 by 48."""
_ABOVE = 1.2
"""How far above the largest singular value that rounding is expected to make a signal is."""


@dataclass(frozen=True, slots=True)
class Rank:
    """The singular values of a change on the grid, against rounding.

    Attributes:
        rank: Singular values that rounding does not explain.
        of: Singular values in all.
        explained: Share of the change's squares in these, 0 to 1.
        residual: Root mean square of the rest, in units of what rounding leaves beside as many
            singular values: 1 when there is nothing but rounding.
    """

    rank: int
    of: int
    explained: float
    residual: float

    @property
    def is_low(self) -> bool:
        """Whether it is far enough below the largest rank that could be seen."""
        return 0 < self.rank <= _LOW * self.of


def rank_of(pair: TensorPair, dtype: str) -> Rank | None:
    """Return the rank of a matrix's change; ``None`` where the grid shows none.

    Args:
        pair: A matrix of two checkpoints.
        dtype: What the child's values were last rounded to.
    """
    import numpy as np

    change = pair.grid(pair.change)
    if not change.size or not np.isfinite(change).all() or not change.any():
        return None
    noise = (steps(pair.grid(pair.theirs), dtype) ** 2) / 12
    bound = math.sqrt(noise.sum(axis=1).max()) + math.sqrt(noise.sum(axis=0).max())
    values = np.linalg.svd(change, compute_uv=False)
    rank = int((values > _ABOVE * bound).sum())
    squares = values**2
    rest = float(squares[rank:].sum())
    return Rank(
        rank=rank,
        of=len(values),
        explained=1.0 - rest / float(squares.sum()),
        residual=math.sqrt(rest / float(noise.sum())) / (1 - rank / len(values))
        if rank < len(values)
        else 0.0,
    )


@dataclass(frozen=True, slots=True)
class Direction:
    """How far changes of the weights that write to the residual stream share a direction in it.

    Attributes:
        shared: Mean squared cosine of their first left singular vectors with the common direction,
            0 to 1; 1 / 48 for unrelated ones.
        by_layer: The same within each layer that has several, averaged.
        explained: Share of all their change's squares in the common direction.
        first: Median share of a matrix's change in its own first direction.
    """

    shared: float
    by_layer: float
    explained: float
    first: float


def direction_of(changed: Sequence[TensorPair], width: int) -> Direction | None:
    """Return how far the changes of matrices share a direction of the residual stream.

    A few dimensions of the stream have far larger weights than the others, and whatever changes
    weights in proportion would share those. Each dimension is therefore measured in units of its
    own weights, the same in all matrices, which leaves a shared direction shared.

    Args:
        changed: Weights that write to the residual stream.
        width: Of the residual stream; what has other outputs is left out.
    """
    import numpy as np

    found, squares = [], []
    for pair in changed:
        shape = pair.base.shape
        if pair.sites.out_features(shape) != width or len(shape) != 2:
            continue
        change, weights = pair.grid(pair.change), pair.grid(pair.cast)
        if not change.size or not np.isfinite(change).all() or not change.any():
            continue
        change, weights = (each.T if pair.sites.transposed else each for each in (change, weights))
        columns = (weights**2).sum(axis=0)
        columns[columns == 0] = 1.0
        change = change - weights * ((change * weights).sum(axis=0) / columns)
        if not change.any():
            continue
        found.append((pair.layer, change / (np.linalg.norm(weights) or 1.0)))
        squares.append((weights**2).sum(axis=1) / ((weights**2).sum() or 1.0))
    if len(found) < 2:
        return None
    scale = np.sqrt(np.mean(squares, axis=0))
    scale[scale == 0] = 1.0
    lefts, firsts, layers, sums = [], [], [], []
    for layer, change in found:
        own = change / scale[:, None]
        left, values, _ = np.linalg.svd(own, full_matrices=False)
        lefts.append(left[:, 0])
        firsts.append(float(values[0] ** 2 / (values**2).sum()))
        layers.append(layer)
        sums.append(own @ own.T)
    stacked = np.array(lefts)
    common = np.linalg.svd(stacked, full_matrices=False)[2][0]
    total = np.sum(sums, axis=0)
    within = [
        np.linalg.svd(stacked[np.array(layers) == layer])[1][0] ** 2 / layers.count(layer)
        for layer in set(layers)
        if layers.count(layer) > 1
    ]
    return Direction(
        shared=float(np.mean((stacked @ common) ** 2)),
        by_layer=float(np.mean(within)) if within else 0.0,
        explained=float(common @ total @ common / np.trace(total)),
        first=float(np.median(firsts)),
    )
