"""The same sampled positions of two checkpoints, side by side: what every judgement is made from.

Values are float64. A tensor with another shape is paired only where its first rows are the base's:
an extended vocabulary keeps them. Its grid rows are those that both sketches hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from registry.checkpoint.architecture import sites_for
from registry.checkpoint.sketch import GROUP, extent, grid_axes
from registry.checkpoint.values import is_float, item_size, rounded, to_float64

if TYPE_CHECKING:
    from registry.checkpoint.record import BaseRecord, Entry
    from registry.checkpoint.sites import Sites
    from registry.checkpoint.sketch import Extent
    from registry.checkpoint.values import Values

_SMALLEST, _LARGEST = 1e-100, 1e100


@dataclass(frozen=True)
class TensorPair:
    """One tensor of the base and of the child, in the same shape.

    Attributes:
        base: The base's entry.
        child: The child's entry.
        sites: The row of their family.
        ours: The base's sketch.
        theirs: The child's, at the same positions.
    """

    base: Entry
    child: Entry
    sites: Sites
    ours: Values
    theirs: Values

    @property
    def name(self) -> str:
        """Name of the tensor."""
        return self.base.name

    @property
    def layer(self) -> int | None:
        """Decoder layer, 0-based; ``None`` outside the layers."""
        return self.sites.layer_of(self.base.name)

    @property
    def writes_residual(self) -> bool:
        """Whether it is a weight whose outputs are added to the residual stream."""
        return self.sites.writes_residual(self.base.name)

    @property
    def is_same(self) -> bool:
        """Whether every bit of the two is the same."""
        return (self.base.dtype, self.base.digest) == (self.child.dtype, self.child.digest)

    @property
    def is_matrix(self) -> bool:
        """Whether it has two dimensions or more."""
        return len(self.base.shape) > 1

    @cached_property
    def cast(self) -> Values:
        """The base's values as a cast to the child's dtype leaves them."""
        if self.base.dtype == self.child.dtype:
            return self.ours
        cast = rounded(self.ours, self.child.dtype)
        return self.ours if cast is None else cast

    @cached_property
    def change(self) -> Values:
        """What is left of the difference when a cast is allowed for."""
        return self.theirs - self.cast

    @cached_property
    def extent(self) -> Extent:
        """The parts of the sketch."""
        return extent(self.base.shape)

    def flat(self, values: Values) -> Values:
        """Return the flat part of a sketch: [extent.flat]."""
        return values[: self.extent.flat]

    def grid(self, values: Values) -> Values:
        """Return the grid part of a sketch: [extent.rows, extent.columns]; empty without one."""
        start, size = self.extent.flat, self.extent.rows * self.extent.columns
        return values[start : start + size].reshape(self.extent.rows, self.extent.columns)

    def groups(self, values: Values) -> Values:
        """Return the runs of neighbours in a sketch: [extent.groups, 64]."""
        return values[self.extent.count - self.extent.groups * GROUP :].reshape(-1, GROUP)


def pairs(base: BaseRecord, child: BaseRecord) -> list[TensorPair]:
    """Return every tensor that both have in one shape and can be reckoned with, in order.

    Left out are integers, 8-bit floats, and tensors of which a sample is not finite or so large or
    small that its square is lost: digests and distances alone judge those.
    """
    sites = sites_for(base.geometry.family)
    theirs = {entry.name: entry for entry in child.entries}
    found = []
    for entry in base.entries:
        other = theirs.get(entry.name)
        if other is None or other.shape != entry.shape or not entry.numel:
            continue
        if entry.name.endswith(sites.recomputed):
            continue
        if not (is_float(entry.dtype) and is_float(other.dtype)):
            continue
        before = to_float64(base.samples[entry.name], entry.dtype)
        after = to_float64(child.samples[entry.name], other.dtype)
        if _is_ordinary(before) and _is_ordinary(after):
            found.append(TensorPair(entry, other, sites, before, after))
    return found


def _is_ordinary(values: Values) -> bool:
    import numpy as np

    magnitudes = np.abs(values[values != 0])
    return bool(np.all((magnitudes >= _SMALLEST) & (magnitudes <= _LARGEST)))


def flat_bits(record: BaseRecord, entry: Entry) -> bytes:
    """Return the bits of the flat part of a tensor's sketch."""
    return record.samples[entry.name][: extent(entry.shape).flat * item_size(entry.dtype)]


def common_rows(base: BaseRecord, child: BaseRecord, name: str) -> tuple[Values, Values] | None:
    """Return the grid values of a matrix whose first rows may be the base's, where both have them.

    Returns:
        [rows, columns] of the base and of the child; ``None`` unless both are matrices of one
        width with a grid, of which at least one row is common.
    """
    import numpy as np

    entries = [{e.name: e for e in record.entries}.get(name) for record in (base, child)]
    ours, theirs = entries
    if ours is None or theirs is None or len(ours.shape) != 2 or len(theirs.shape) != 2:
        return None
    if (
        ours.shape[1] != theirs.shape[1]
        or extent(ours.shape).is_whole
        or extent(theirs.shape).is_whole
    ):
        return None
    grids = []
    for record, entry in ((base, ours), (child, theirs)):
        parts = extent(entry.shape)
        values = to_float64(record.samples[name], entry.dtype)
        size = parts.rows * parts.columns
        grids.append(values[parts.flat : parts.flat + size].reshape(parts.rows, parts.columns))
    _, first, second = np.intersect1d(
        grid_axes(ours.shape)[0], grid_axes(theirs.shape)[0], return_indices=True
    )
    if not len(first):
        return None
    return grids[0][first], grids[1][second]
