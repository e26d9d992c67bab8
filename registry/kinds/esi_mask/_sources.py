"""Under which names others know a matrix: in files, in a live model, fused with others or alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np

    from registry.checkpoint.architecture import Sites
    from registry.kinds.esi_mask._matrices import Matrix


@dataclass(frozen=True, slots=True)
class Part:
    """One matrix in a parameter that others name: a rectangle of it, seen as two dimensions.

    Attributes:
        matrix: The matrix.
        row: First row of the rectangle.
        column: First column.
        width: Columns of the parameter.
    """

    matrix: Matrix
    row: int
    column: int
    width: int

    def inside(self, indices: np.ndarray) -> np.ndarray:
        """Return flat indices into the matrix for those of the parameter's that are in it."""
        import numpy as np

        first = self.row * self.width
        ends = np.searchsorted(indices, [first, first + self.matrix.rows * self.width])
        own = indices[ends[0] : ends[1]].astype(np.int64) - first
        rows, columns = np.divmod(own, self.width)
        columns -= self.column
        held = (columns >= 0) & (columns < self.matrix.cols)
        return rows[held] * self.matrix.cols + columns[held]


def named_parts(candidates: Iterable[Matrix], sites: Sites) -> dict[str, tuple[Part, ...]]:
    """Return the matrices in each parameter, by every name that it has.

    These are the tensor in the base's files, the parameter of a live model (transformers 5 has all
    experts of a layer in one), and a file of one tensor per expert (transformers 4).
    """
    found: dict[str, list[Part]] = {}
    for matrix in candidates:
        alone = matrix.name.partition("#")[0]
        place = sites.place_of(alone)
        stored = Part(matrix, matrix.row, matrix.column, matrix.shape[1])
        rows = {matrix.tensor: stored}
        if place.index is None:
            rows.setdefault(place.name, stored)
        else:
            row = (place.index * place.parts + place.part) * matrix.rows
            rows.setdefault(place.name, Part(matrix, row, 0, matrix.cols))
            rows.setdefault(alone, Part(matrix, 0, 0, matrix.cols))
        for name, part in rows.items():
            found.setdefault(name, []).append(part)
    return {name: tuple(parts) for name, parts in found.items()}
