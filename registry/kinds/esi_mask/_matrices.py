"""The logical matrices of a model: what a mask addresses, in files and in a live model.

A score compares matrices by the spread of their weights, so a tensor that holds several matrices is
taken apart first, whoever put them together:

- a fused ``qkv_proj`` is three matrices, ``...qkv_proj.weight#q``, ``#k`` and ``#v``, and a fused
  ``gate_up_proj`` two, ``#gate`` and ``#up``;
- experts are one matrix each, under the name that files of one tensor per expert give it, also
  where the files or the live model hold all experts of a layer in one tensor;
- every other matrix has its tensor's name.

An index into a matrix is row-major within it, in the layout that its files have: a Conv1D weight
(GPT-2) is [in_features, out_features], and what is fused in it are columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import TYPE_CHECKING

from registry.errors import GeometryError, TargetModuleMissingError, UnsupportedArchitectureError
from registry.kinds.esi_mask._fused import equal_parts, fused_outputs
from registry.wording import RESTORE_CONFIG, listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import numpy as np
    from torch import Tensor

    from registry.checkpoint.architecture import Sites
    from registry.checkpoint.geometry import Geometry
    from registry.checkpoint.record import Entry

RULE = "layer matrices and a stored head, without routers/1"
"""The rule of the candidates, as artifacts record it: two-dimensional float weights inside decoder
layers and the output head where it is stored; no biases, norms, embeddings, routers and gates of
shared experts."""

MOST = 1 << 18
"""Most candidates that are looked at: the largest mixtures that are published have 70,000."""

FLOATS = ("BF16", "F16", "F32", "F64")

_AS_FLOATS = "Use a checkpoint that stores its weights as floating-point numbers: BF16, F16 or F32."


@dataclass(frozen=True, slots=True)
class Matrix:
    """One logical matrix of a base, and the rectangle of its stored tensor that holds it.

    Attributes:
        name: Its own name; the tensor's where it is all of it.
        tensor: Name of the tensor in the base's files.
        dtype: Dtype of the tensor, as in safetensors.
        shape: The tensor as two dimensions; one of more has all but its last put together.
        row: First row of the rectangle.
        rows: How many rows.
        column: First column.
        cols: How many columns.
        layer: Decoder layer, 0-based; ``None`` for the output head.
        component: What it is in its layer, the same for all experts: ``self_attn.v_proj``.
        expert: Which expert it belongs to, 0-based; ``None`` for what every token uses.
    """

    name: str
    tensor: str
    dtype: str
    shape: tuple[int, int]
    row: int
    rows: int
    column: int
    cols: int
    layer: int | None
    component: str
    expert: int | None

    @property
    def numel(self) -> int:
        """Number of weights."""
        return self.rows * self.cols

    def in_tensor(self, indices: np.ndarray) -> np.ndarray:
        """Return flat indices into the stored tensor for indices into the matrix; int64, sorted."""
        import numpy as np

        flat = indices.astype(np.int64)
        width = self.shape[1]
        if self.cols == width:
            return flat + self.row * width
        rows, columns = np.divmod(flat, self.cols)
        return (rows + self.row) * width + columns + self.column


def matrices(entries: Iterable[Entry], sites: Sites, geometry: Geometry) -> tuple[Matrix, ...]:
    """Return the candidates by ``RULE``, sorted by name.

    Args:
        entries: The tensors of the base.
        sites: The row of its family.
        geometry: Its counts and widths.

    Raises:
        UnsupportedArchitectureError: a weight that would be a candidate is packed or quantised.
        GeometryError: a fused tensor cannot be split as the geometry says, two tensors hold one
            matrix, or there are more than ``MOST``.
    """
    packed: list[str] = []
    found: dict[str, Matrix] = {}
    twice: list[str] = []
    for entry in entries:
        if not _is_candidate(entry, sites):
            continue
        if entry.dtype not in FLOATS:
            packed.append(f"{entry.name!r:.120}: {entry.dtype}")
            continue
        _require_few(len(found), entry)
        for matrix in _split(entry, sites, geometry):
            if matrix.name in found:
                tensors = f"{found[matrix.name].tensor!r:.120} and {entry.name!r:.120}"
                twice.append(f"{matrix.name!r:.120}: in {tensors}")
            found[matrix.name] = matrix
    if packed:
        raise UnsupportedArchitectureError(
            f"expected weights out of {', '.join(FLOATS)}, got {len(packed)} others:"
            f"{listed(packed)}",
            hint=_AS_FLOATS,
        )
    if twice:
        raise GeometryError(
            f"expected each matrix in one tensor, got {len(twice)} in two:{listed(twice)}",
            hint="Save the model again with transformers: model.save_pretrained(DIR)",
        )
    return tuple(found[name] for name in sorted(found))


def selection_size(rho: float, candidates: Iterable[Matrix]) -> int:
    """Return ``k = floor(rho * N)``, exactly, for the N weights of the ``candidates``."""
    return int(Fraction(repr(rho)) * sum(matrix.numel for matrix in candidates))


def held(live: Mapping[str, Tensor], sites: Sites, matrix: Matrix) -> Tensor:
    """Return the view [rows, cols] of what holds ``matrix`` in a live model.

    It shares the memory of the parameter and is detached from the graph.

    Args:
        live: Tensor by the name of its parameter: parameters, or their gradients. Tensors by their
            names in the files are found too.
        sites: The row of the model's family.
        matrix: A candidate of the base.

    Raises:
        TargetModuleMissingError: the model has no such parameter, or one of another shape.
    """
    place = sites.place_of(_file_name(matrix))
    whole = live.get(place.name)
    if whole is None:
        whole = live.get(matrix.tensor)
        if whole is None:
            raise TargetModuleMissingError(
                f"{matrix.name}: expected a parameter {place.name}, the model has none.",
                hint="Load the model as its family's own class: "
                "AutoModelForCausalLM.from_pretrained(DIR)",
            )
        found, row = _flat(whole), matrix.row
        fits = tuple(found.shape) == matrix.shape
    elif place.index is None:
        found, row = whole.detach(), matrix.row
        fits = tuple(found.shape) == matrix.shape
    else:
        row = (place.index * place.parts + place.part) * matrix.rows
        fits = (
            whole.ndim == 3
            and place.index < whole.shape[0]
            and tuple(whole.shape[1:]) == (place.parts * matrix.rows, matrix.cols)
        )
        found = _flat(whole)
    if not fits:
        raise TargetModuleMissingError(
            f"{matrix.name}: expected {list(matrix.shape)} as in the base, the model has "
            f"{place.name} of shape {list(whole.shape)}.",
            hint="Load a model of the base's architecture, without quantisation and unsharded.",
        )
    return found[row : row + matrix.rows, matrix.column : matrix.column + matrix.cols]


def parameter_of(sites: Sites, matrix: Matrix) -> str:
    """Return the name of the live parameter that holds ``matrix``, alone or among others."""
    return sites.place_of(_file_name(matrix)).name


def in_parameter(sites: Sites, matrix: Matrix, indices: np.ndarray) -> np.ndarray:
    """Return flat indices into ``parameter_of`` for indices into ``matrix``; int64, sorted."""
    place = sites.place_of(_file_name(matrix))
    if place.index is None:
        return matrix.in_tensor(indices)
    import numpy as np

    start = (place.index * place.parts + place.part) * matrix.numel
    return indices.astype(np.int64) + start


def _flat(whole: Tensor) -> Tensor:
    """Return a tensor of two or more dimensions as two, as ``Matrix.shape`` counts them."""
    return whole.detach().view(-1, whole.shape[-1])


def _file_name(matrix: Matrix) -> str:
    """Return the name that files of one tensor per expert give what holds ``matrix``."""
    return matrix.name.partition("#")[0]


def _require_few(found: int, entry: Entry) -> None:
    """Refuse a shape that says more experts than there can be, before each gets a name."""
    more = entry.shape[0] if len(entry.shape) > 2 else 1
    if found + more > MOST:
        raise GeometryError(
            f"{entry.name!r:.120}: expected at most {MOST:,} matrices in the model, got "
            f"{found + more:,} or more.",
            hint=RESTORE_CONFIG,
        )


def _is_candidate(entry: Entry, sites: Sites) -> bool:
    """Whether the rule takes a tensor, were it of floats."""
    if entry.name == sites.head:
        return len(entry.shape) == 2
    layer = sites.layer_of(entry.name)
    if layer is None or entry.name.endswith(sites.recomputed):
        return False
    prefix = f"{sites.layer_prefix(layer)}."
    if len(entry.shape) == 3:
        return any(_experts(entry.name.removeprefix(prefix), sites))
    live = sites.place_of(entry.name).name.removeprefix(prefix).removesuffix(".weight")
    return len(entry.shape) == 2 and entry.name.endswith(".weight") and live not in sites.routers


def _experts(name: str, sites: Sites) -> Iterator[tuple[str, int, int]]:
    """Yield (stored name, part, of parts) of what files may hold together under this name."""
    for row in sites.regrouped:
        if name == row.live and "{index}" in row.stored:
            yield row.stored, row.part, row.parts


def _split(entry: Entry, sites: Sites, geometry: Geometry) -> Iterator[Matrix]:
    """Yield the matrices that a tensor holds."""
    layer = sites.layer_of(entry.name)
    prefix = "" if layer is None else f"{sites.layer_prefix(layer)}."
    name = entry.name.removeprefix(prefix)
    shape = (prod(entry.shape[:-1]), entry.shape[-1])
    if len(entry.shape) > len(shape):
        for stored, part, parts in _experts(name, sites):
            rows = equal_parts(entry, entry.shape[1], parts)
            for index in range(entry.shape[0]):
                yield Matrix(
                    name=f"{prefix}{stored.format(index=index)}",
                    tensor=entry.name,
                    dtype=entry.dtype,
                    shape=shape,
                    row=(index * parts + part) * rows,
                    rows=rows,
                    column=0,
                    cols=shape[1],
                    layer=layer,
                    component=_without_index(stored),
                    expert=index,
                )
        return
    expert = sites.place_of(entry.name).index
    component = name.removesuffix(".weight")
    if expert is not None:
        row = next(r for r in sites.regrouped if r.stored.format(index=expert) == name)
        component = _without_index(row.stored)
    start = 0
    for label, size in fused_outputs(entry, name.removesuffix(".weight"), sites, geometry):
        across = sites.transposed and bool(label)  # outputs are columns there
        yield Matrix(
            name=f"{entry.name}{label}",
            tensor=entry.name,
            dtype=entry.dtype,
            shape=shape,
            row=0 if across else start,
            rows=shape[0] if across else size,
            column=start if across else 0,
            cols=size if across else shape[1],
            layer=layer,
            component=f"{component}{label}",
            expert=expert,
        )
        start += size


def _without_index(stored: str) -> str:
    """Return the component that experts share: ``experts.w1`` of ``experts.{index}.w1.weight``."""
    return stored.replace(".{index}", "").removesuffix(".weight")
