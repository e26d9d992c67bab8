"""The candidates of a mask as a checkpoint's bytes hold them: selected bits, samples of the rest.

One stored tensor is read at a time, in pieces; of it the selected weights are kept and its sketch.
The experts of a mixture are found whether they are stored one by one or as one tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from registry.checkpoint.held import find_held
from registry.checkpoint.sketch import Sampler, extent, positions
from registry.checkpoint.values import exact_bits, is_float, item_size, rounded, to_float64

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np

    from registry.checkpoint.held import Held
    from registry.checkpoint.reader import Checkpoint
    from registry.checkpoint.record import BaseRecord, Entry
    from registry.checkpoint.sites import Sites
    from registry.checkpoint.values import Values
    from registry.kinds.esi_mask._matrices import Matrix
    from registry.kinds.esi_mask.body import MaskBody


@dataclass(frozen=True, slots=True)
class Reading:
    """One matrix of the base as it is held.

    Attributes:
        matrix: The matrix.
        dtype: Dtype of what holds it; empty where nothing of its shape does.
        selected: Raw bits of its selected weights, in order; ``None`` where the bytes were not
            seen.
        is_same: Whether the whole stored tensor is the base's, where that is known.
        sampled: Its sampled weights.
        fact: What is there instead of it, for people; empty otherwise.
    """

    matrix: Matrix
    dtype: str
    selected: bytes | None
    is_same: bool
    sampled: Sampled | None
    fact: str = ""


@dataclass(frozen=True, slots=True)
class Sampled:
    """The weights of a matrix that the flat part of a sketch holds, by place.

    Attributes:
        rank: Where a sampled weight is among the selected ones; -1 for one that is not selected.
        ours: The base's values.
        theirs: The values that are held.
    """

    rank: np.ndarray
    ours: Values
    theirs: Values


def read_stored(checkpoint: Checkpoint, body: MaskBody, sites: Sites) -> list[Reading]:
    """Return every candidate matrix as it is stored, those of one tensor together."""
    readings: list[Reading] = []
    for name, matrices in _by_tensor(body):
        entry = body.entries[name]
        held = find_held(checkpoint.tensors, sites, entry)
        fact = _misfit(entry, held)
        if held is None or fact:
            readings += [Reading(each, "", None, False, None, fact) for each in matrices]
            continue
        readings += _read(checkpoint, body, entry, held, matrices)
    return readings


def read_effective(record: BaseRecord, body: MaskBody) -> list[Reading]:
    """Return the same of a base with an adapter merged into it: what its samples show."""
    held = {entry.name: entry for entry in record.entries}
    readings = []
    for name, matrices in _by_tensor(body):
        entry, theirs = body.entries[name], held[name]
        fact = "" if theirs.shape == entry.shape else _reshaped(entry, theirs.shape)
        for matrix in matrices:
            indices = body.indices(matrix.name)
            seen = None if fact else _sampled(body, matrix, indices, theirs, record.samples[name])
            readings.append(Reading(matrix, theirs.dtype, None, theirs == entry, seen, fact))
    return readings


def equal_values(held: bytes, held_dtype: str, wanted: bytes, dtype: str) -> np.ndarray:
    """Return which values are the wanted ones: bit for bit, exactly widened, or rounded.

    Args:
        held: Raw bits.
        held_dtype: Their dtype, a float.
        wanted: As many raw bits.
        dtype: Their dtype, a float.
    """
    import numpy as np

    if held_dtype == dtype:
        bits = f"<u{item_size(dtype)}"
        found: np.ndarray = np.frombuffer(held, bits) == np.frombuffer(wanted, bits)
        return found
    theirs, ours = to_float64(held, held_dtype), to_float64(wanted, dtype)
    cast = rounded(ours, held_dtype)
    ours = ours if cast is None else cast
    found = (theirs == ours) & (np.signbit(theirs) == np.signbit(ours))
    found |= np.isnan(theirs) & np.isnan(ours)
    return found


def in_dtype(held: bytes, held_dtype: str, dtype: str) -> bytes | None:
    """Return the bits in ``dtype``, ``None`` where it lacks one of the values."""
    if held_dtype == dtype:
        return held
    return exact_bits(to_float64(held, held_dtype), dtype)


def _by_tensor(body: MaskBody) -> Iterator[tuple[str, list[Matrix]]]:
    ordered = sorted(body.matrices, key=lambda matrix: (matrix.tensor, matrix.name))
    for name, found in groupby(ordered, key=lambda matrix: matrix.tensor):
        yield name, list(found)


def _misfit(entry: Entry, held: Held | None) -> str:
    if held is None:
        return "expected as in the base, found nothing"
    if held.shape != entry.shape:
        return _reshaped(entry, held.shape)
    if not is_float(held.dtype):
        return f"expected floats as in the base, got {held.dtype}"
    return ""


def _reshaped(entry: Entry, shape: tuple[int, ...]) -> str:
    return f"expected shape {list(entry.shape)} as in the base, got {list(shape)}"


def _read(
    checkpoint: Checkpoint, body: MaskBody, entry: Entry, held: Held, matrices: Sequence[Matrix]
) -> Iterator[Reading]:
    """Yield the matrices of one tensor, whose bytes are read once."""
    import numpy as np

    indices = [body.indices(matrix.name) for matrix in matrices]
    places = [m.in_tensor(found) for m, found in zip(matrices, indices, strict=True)]
    flat = np.concatenate(places)
    order = np.argsort(flat, kind="stable")
    sampler = Sampler(entry.name, held.dtype, held.shape)
    taken = np.empty(flat.size, dtype=f"<u{item_size(held.dtype)}")
    taken[order] = _gather(checkpoint, held, flat[order], sampler)
    theirs = sampler.bits()
    begin = 0
    for matrix, found in zip(matrices, indices, strict=True):
        selected = taken[begin : begin + found.size].tobytes()
        begin += found.size
        seen = _sampled(body, matrix, found, held, theirs)
        yield Reading(matrix, held.dtype, selected, False, seen)


def _gather(checkpoint: Checkpoint, held: Held, wanted: np.ndarray, sampler: Sampler) -> np.ndarray:
    """Return the bits at sorted flat places of what is held; its sketch is taken on the way."""
    import numpy as np

    found = np.empty(wanted.size, dtype=f"<u{item_size(held.dtype)}")
    first = low = 0
    for part in held.parts:
        for piece in checkpoint.pieces(part.name, part.begin, part.end):
            sampler.add(piece)
            bits = np.frombuffer(piece, dtype=found.dtype)
            high = int(wanted.searchsorted(first + bits.size))
            found[low:high] = bits[wanted[low:high] - first]
            first, low = first + bits.size, high
    return found


def _sampled(
    body: MaskBody, matrix: Matrix, indices: np.ndarray, held: Entry | Held, bits: bytes
) -> Sampled:
    """Return what two sketches hold of one matrix of a tensor."""
    import numpy as np

    entry = body.entries[matrix.tensor]
    count = extent(entry.shape).flat
    rows, columns = np.divmod(positions(entry.name, entry.shape)[:count], matrix.shape[1])
    rows, columns = rows - matrix.row, columns - matrix.column
    inside = (rows >= 0) & (rows < matrix.rows) & (columns >= 0) & (columns < matrix.cols)
    own = (rows * matrix.cols + columns)[inside]
    rank = indices.searchsorted(own.astype(indices.dtype))
    is_selected = np.zeros(own.size, dtype=np.bool_)
    below = rank < indices.size
    is_selected[below] = indices[rank[below]] == own[below]
    rank = np.where(is_selected, rank, -1)
    ours = to_float64(body.samples[entry.name], entry.dtype)[:count][inside]
    return Sampled(rank, ours, to_float64(bits, held.dtype)[:count][inside])
