"""Expected safety impact of every candidate weight, one matrix at a time, and what it adds up to.

``ESI_i = sigma(W) * |dS/dtheta_i|``, with sigma the standard deviation of the logical matrix that
holds the weight. The scores of a whole model are never in memory: they are made anew, in fp32, from
the summed gradients whenever they are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from torch import Tensor

    from registry.checkpoint.architecture import Sites
    from registry.kinds.esi_mask._gradients import Gradients
    from registry.kinds.esi_mask._matrices import Matrix
    from registry.kinds.esi_mask._shards import Shards

_CHUNK = 1 << 22  # weights widened to fp64 in one go: 32 MiB
_DIGITS = 9  # of sums that are written down: the last ones depend on the machine


@dataclass(frozen=True, slots=True)
class Impact:
    """Scores of the candidates of one model.

    Attributes:
        matrices: The candidates, sorted by name.
        sites: The row of the model's family.
        sigma: Matrix name to the standard deviation of its weights.
        found: The summed gradients.
        shards: Which rows of every matrix, and of its sum, are here.
    """

    matrices: tuple[Matrix, ...]
    sites: Sites
    sigma: Mapping[str, float]
    found: Gradients
    shards: Shards

    def scores(self, part: int | None = None) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (matrix name, scores), fp32 [numel] in row-major order, sorted by name.

        Of rows that are here: all of them in one process.

        Args:
            part: The part of the pairs to take the mean over, from 0; all pairs by default.
        """
        sums = self.found.sums if part is None else self.found.sums[part : part + 1]
        pairs = sum(self.found.pairs) if part is None else self.found.pairs[part]
        for matrix in self.matrices:
            gradient = self._summed(sums, matrix)
            scores = gradient.abs().mul_(self.sigma[matrix.name] / pairs)
            yield matrix.name, scores.reshape(-1).cpu().numpy()

    def whole_scores(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the same of all pairs, of all rows, in every process."""
        import torch

        for matrix, (name, scores) in zip(self.matrices, self.scores(), strict=True):
            part = torch.from_numpy(scores).view(-1, matrix.cols)
            yield name, self.shards.whole(part, matrix).view(-1).numpy()

    def without_gradient(self) -> tuple[str, ...]:
        """Return the matrices of which no weight had a gradient, sorted: experts never used."""
        import numpy as np

        some = [
            any(bool(self._held(sums, matrix).any()) for sums in self.found.sums)
            for matrix in self.matrices
        ]
        found = self.shards.sum(np.array(some, dtype=np.int64))
        return tuple(m.name for m, is_some in zip(self.matrices, found, strict=True) if not is_some)

    def mass(self, selected: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], ...]:
        """Return the sums of scores per layer and component; the head has no layer and is first.

        Args:
            selected: Matrix name to the flat indices of its selected weights.
        """
        import numpy as np

        rows: dict[tuple[int, str], list[float]] = {}
        for matrix, (name, scores) in zip(self.matrices, self.whole_scores(), strict=True):
            row = rows.setdefault(
                (-1 if matrix.layer is None else matrix.layer, matrix.component), [0, 0, 0.0, 0.0]
            )
            chosen = selected[name]
            row[0] += matrix.numel
            row[1] += chosen.size
            row[2] += float(scores.sum(dtype=np.float64))
            row[3] += float(scores[chosen].sum(dtype=np.float64))
        return tuple(
            {
                "layer": None if layer < 0 else layer,
                "component": component,
                "weights": int(weights),
                "selected": int(count),
                "sum": rounded(total),
                "selected_sum": rounded(min(part, total)),  # of one sum, in another order
            }
            for (layer, component), (weights, count, total, part) in sorted(rows.items())
        )

    def _summed(self, sums: tuple[dict[str, Tensor], ...], matrix: Matrix) -> Tensor:
        gradient = self._held(sums[0], matrix)
        for more in sums[1:]:
            gradient = gradient + self._held(more, matrix)  # not in place: it is a view
        return gradient

    def _held(self, sums: Mapping[str, Tensor], matrix: Matrix) -> Tensor:
        return self.shards.held(sums, self.sites, matrix)


def spread(weights: Tensor) -> float:
    """Return the population standard deviation of a matrix, summed in fp64.

    In two passes, the mean first: a matrix far from zero loses nothing.
    """
    rows = max(1, _CHUNK // max(1, weights.shape[-1]))
    parts: tuple[Tensor, ...] = weights.split(rows)  # type: ignore[no-untyped-call]
    mean = sum(float(part.double().sum()) for part in parts) / weights.numel()
    squares = sum(float((part.double() - mean).square().sum()) for part in parts)
    return float((squares / weights.numel()) ** 0.5)


def agreement(
    first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray], numels: Mapping[str, int]
) -> tuple[float, float]:
    """Return the Jaccard index of two selections of one size, and what chance alone gives.

    Chance is two independent random selections with the same counts in every matrix: that one
    matrix is hotter than another is no agreement about its weights.
    """
    import numpy as np

    both = sum(np.intersect1d(first[n], second[n], assume_unique=True).size for n in numels)
    size = sum(first[name].size + second[name].size for name in numels)
    expected = sum(first[name].size * second[name].size / numels[name] for name in numels)
    return both / (size - both), expected / (size - expected)


def rounded(value: float) -> float:
    """Return ``value`` to the digits that are the same on every machine."""
    return float(f"{value:.{_DIGITS}g}")
