"""A model whose parameters are cut over processes: which rows are here, and exact sums over all.

- FSDP2 cuts every parameter along its first dimension, in the order of the processes. What this
  process holds of a matrix is a range of its rows. A model in one process holds all of them.
- Every process is given the same pairs. What FSDP2 hands out is the mean of n equal gradients: the
  gradient itself, bit by bit, where n is a power of two. Otherwise the sum of n and the division
  by n round, each time in the dtype that gradients are reduced in.
- Everything else that is put together is exact: integers are summed, and floats as their bits,
  which all processes but one give as zero.
- Any other way to hold a model in parts is refused: a mask of it could be a wrong one.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from registry.errors import ApplyError
from registry.kinds.esi_mask._across import by_process
from registry.kinds.esi_mask._gap8 import index_dtype
from registry.kinds.esi_mask._matrices import held
from registry.kinds.esi_mask._places import is_sharded, local
from registry.wording import listed

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from torch import Tensor, nn

    from registry.checkpoint.architecture import Sites
    from registry.kinds.esi_mask._matrices import Matrix

_SHOWN = 5
_SHARD = (
    "Shard all of it, each layer and then the model, over one group of processes: "
    "torch.distributed.fsdp.fully_shard(module)"
)


@dataclass(frozen=True, slots=True)
class Shards:
    """Which rows of every parameter are in this process.

    Attributes:
        extents: Parameter name to the rows that are here, half-open, counted as ``Matrix.shape``
            counts rows; empty in one process.
        mesh: The processes, as torch names them; ``None`` in one process.
    """

    extents: Mapping[str, tuple[int, int]]
    mesh: Any

    @property
    def is_one(self) -> bool:
        """Whether this process holds all of the model."""
        return self.mesh is None

    @property
    def rank(self) -> int:
        """Which process this one is, from 0."""
        return 0 if self.is_one else int(self.mesh.get_local_rank())

    @property
    def ranks(self) -> int:
        """How many processes there are."""
        return 1 if self.is_one else int(self.mesh.size())

    def sum(self, numbers: np.ndarray) -> np.ndarray:
        """Return the sum of integers over all processes."""
        import torch

        if self.is_one:
            return numbers
        found = torch.from_numpy(numbers.copy()).to(self.mesh.device_type)
        torch.distributed.all_reduce(found, group=self.mesh.get_group())
        result: np.ndarray = found.cpu().numpy()
        return result

    def equal(self, first: Tensor, second: Tensor) -> bool:
        """Return whether two parameters are equal in all processes."""
        import numpy as np
        import torch

        if first.shape != second.shape:
            return False
        differ = not torch.equal(local(first), local(second))
        return not self.sum(np.array([differ], dtype=np.int64))[0]

    def rows(self, matrix: Matrix) -> tuple[int, int]:
        """Return which rows of a live matrix are here, half-open."""
        if self.is_one:
            return 0, matrix.rows
        first, after = (
            min(max(row - matrix.row, 0), matrix.rows) for row in self.extents[matrix.tensor]
        )
        return first, after

    def held(self, live: Mapping[str, Tensor], sites: Sites, matrix: Matrix) -> Tensor:
        """Return the view [rows here, cols] of the part of ``matrix`` that is here.

        Args:
            live: Parameters by name, or what is laid out as their local parts are.
            sites: The row of the model's family.
            matrix: A candidate of this live model.
        """
        if self.is_one:
            return held(live, sites, matrix)
        first, after = self.rows(matrix)
        begin, _ = self.extents[matrix.tensor]
        flat = local(live[matrix.tensor]).reshape(-1, matrix.shape[1])
        if first == after:
            begin = matrix.row + first  # nothing of it is here
        return flat[
            matrix.row + first - begin : matrix.row + after - begin,
            matrix.column : matrix.column + matrix.cols,
        ]

    def whole(self, part: Tensor, matrix: Matrix) -> Tensor:
        """Return all rows of ``matrix`` [rows, cols], bit by bit, from those that are here."""
        if self.is_one:
            return part
        first, after = self.rows(matrix)
        found = part.new_zeros((matrix.rows, matrix.cols))
        found[first:after] = part
        return self._bits_summed(found)

    def values(self, part: Tensor, matrix: Matrix, indices: np.ndarray) -> Tensor:
        """Return the values of ``matrix`` at flat ``indices``, from the part that is here."""
        import torch

        flat = torch.from_numpy(indices.astype("int64")).to(part.device)
        first, after = self.rows(matrix)
        here = (flat >= first * matrix.cols) & (flat < after * matrix.cols)
        found = part.new_zeros(flat.shape)
        own = flat[here] - first * matrix.cols
        found[here] = part[own // matrix.cols, own % matrix.cols]
        return found if self.is_one else self._bits_summed(found)

    def joined(
        self, selected: Mapping[str, np.ndarray], candidates: tuple[Matrix, ...]
    ) -> dict[str, np.ndarray]:
        """Return the sorted flat indices into each matrix from those into the part here."""
        import numpy as np

        if self.is_one:
            return dict(selected)
        sizes = np.array([selected[matrix.name].size for matrix in candidates], dtype=np.int64)
        table = by_process(self, sizes)
        found = {}
        for matrix, counts in zip(candidates, table.T, strict=True):
            begin = int(counts[: self.rank].sum())
            indices = np.zeros(int(counts.sum()), dtype=np.int64)
            own = selected[matrix.name]
            indices[begin : begin + own.size] = own.astype(np.int64)
            indices[begin : begin + own.size] += self.rows(matrix)[0] * matrix.cols
            if indices.size:
                indices = self.sum(indices)
            found[matrix.name] = indices.astype(index_dtype(matrix.numel))
        return found

    def _bits_summed(self, tensor: Tensor) -> Tensor:
        """Return a tensor of which every process has some entries and zero bits elsewhere."""
        import torch

        found = tensor.contiguous().to(self.mesh.device_type)
        if found.numel():
            torch.distributed.all_reduce(found.view(torch.uint8), group=self.mesh.get_group())
        return found.to(tensor.device)


def shards_of(model: nn.Module) -> Shards:
    """Return which rows of every parameter of ``model`` are in this process.

    Raises:
        ApplyError: the model is in parts, but not as FSDP2 makes them of all of it.
    """
    modules: Any = model.modules()
    for module in modules:
        if hasattr(module, "reshard") and hasattr(module, "unshard"):
            module.reshard()  # what a forward pass without a backward leaves whole
    live: dict[str, Any] = dict(model.named_parameters())
    _require_no_other_engine(model, live)
    cut = {name: value for name, value in live.items() if is_sharded(value)}
    if not cut:
        return Shards({}, None)
    mesh = next(iter(cut.values())).device_mesh
    findings = [
        f"{name}: {_difference(value, mesh)}"
        for name, value in sorted(live.items())
        if _difference(value, mesh)
    ]
    if findings:
        raise ApplyError(
            "expected every parameter cut along its first dimension over the same processes, got "
            f"{len(findings)} of {len(live)} others:{listed(findings, _SHOWN)}",
            hint=_SHARD,
        )
    return Shards({name: _rows_here(value) for name, value in cut.items()}, mesh)


def _difference(value: Any, mesh: Any) -> str:
    """Return how a parameter is held otherwise; empty if it is not."""
    from torch.distributed.tensor import Shard

    if not is_sharded(value):
        return "whole in each of them"
    if value.device_mesh != mesh or mesh.ndim != 1:
        return f"over {value.device_mesh}"
    (placement,) = value.placements
    if type(placement) is not Shard or placement.dim != 0:
        return f"placed by {placement}"
    low, high = _chunk(value)
    expected, got = [high - low, *value.shape[1:]], list(local(value).shape)
    return "" if expected == got else f"expected {expected} here, got {got}"


def _chunk(value: Any) -> tuple[int, int]:
    """Return the range of the first dimension that is here, as ``torch.chunk`` cuts."""
    size, step = value.shape[0], -(-value.shape[0] // value.device_mesh.size())
    first = min(value.device_mesh.get_local_rank() * step, size)
    return first, min(first + step, size)


def _rows_here(value: Any) -> tuple[int, int]:
    low, high = _chunk(value)
    inner = prod(value.shape[1:-1])
    return low * inner, high * inner


def _require_no_other_engine(model: nn.Module, live: Mapping[str, Any]) -> None:
    kinds = {kind.__name__ for module in model.modules() for kind in type(module).__mro__}
    if "FullyShardedDataParallel" in kinds or any(hasattr(v, "ds_id") for v in live.values()):
        raise ApplyError(
            "expected a model in one process, or sharded with FSDP2, got one that FSDP1 or "
            "DeepSpeed ZeRO-3 holds in parts.",
            hint=_SHARD,
        )
