"""Where a checkpoint's bytes hold the base's protected tensors, and whether they are the same.

- A tensor is **same** when its bytes have the digest that the base record states. Held in another
  float dtype it is cast back value by value: where every value is one of the base's dtype, and the
  bits so made have that digest, nothing was lost on the way.
- In a dtype that cannot hold the base's values it is **rounded** when every sampled value is the
  base's, rounded: evidence, as an edit between the samples would not show.
- The experts of a mixture are found whether they are stored one by one or as one tensor.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.checkpoint.held import find_held
from registry.checkpoint.pairs import TensorPair
from registry.checkpoint.record import Entry
from registry.checkpoint.sketch import Sampler
from registry.checkpoint.values import exact_bits, holds, is_float, to_float64
from registry.digest import digest_pieces

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.checkpoint.held import Held
    from registry.checkpoint.reader import Checkpoint
    from registry.checkpoint.record import BaseRecord
    from registry.checkpoint.sites import Sites
    from registry.kinds.safety_layers.body import LayersBody


@dataclass(frozen=True, slots=True)
class Reading:
    """One protected tensor of the base as a checkpoint holds it.

    Attributes:
        base: The base's entry.
        pair: Both sketches side by side; ``None`` where there is nothing of its shape.
        is_missing: Whether nothing holds it; with a ``pair`` of ``None`` it has another shape.
        is_same: Whether it is the base's, bit for bit.
        is_rounded: Whether its sampled values are the base's, rounded to a narrower dtype.
    """

    base: Entry
    pair: TensorPair | None = None
    is_missing: bool = False
    is_same: bool = False
    is_rounded: bool = False


def read_stored(
    checkpoint: Checkpoint, body: LayersBody, sites: Sites
) -> tuple[list[Reading], tuple[str, ...]]:
    """Return every protected tensor as it is stored, and what is stored beside them, sorted."""
    readings, used, filled = [], set[str](), Counter[str]()
    for entry in body.protected:
        held = find_held(checkpoint.tensors, sites, entry)
        if held is None:
            readings.append(Reading(entry, is_missing=True))
            continue
        used |= {part.name for part in held.parts}
        filled.update({part.name: part.end - part.begin for part in held.parts})
        readings.append(_read(checkpoint, body, sites, entry, held))
    beside = {
        name
        for name in checkpoint.tensors
        if name not in used
        and not name.endswith(sites.recomputed)
        and any(map(body.protects, loaded_as(name, sites)))
    }
    # More experts than the base has, in one tensor with them.
    beside |= {name for name, size in filled.items() if size != checkpoint.tensors[name].nbytes}
    return readings, tuple(sorted(beside))


def read_effective(
    record: BaseRecord, body: LayersBody, sites: Sites
) -> tuple[list[Reading], tuple[str, ...]]:
    """Return the same of a base with an adapter merged into it (``checkpoint.effective``)."""
    held = {entry.name: entry for entry in record.entries}
    readings = [
        _compared(
            body, sites, entry, held[entry.name], record.samples[entry.name],
            is_same=held[entry.name] == entry,
        )
        for entry in body.protected
    ]  # fmt: skip
    return readings, ()


def _compared(
    body: LayersBody, sites: Sites, entry: Entry, held: Entry, bits: bytes, *, is_same: bool
) -> Reading:
    """Return the reading of a tensor of the base's shape; ``bits`` is the sketch of what is held.

    A sketch is as long as its dtype makes it, and says nothing beside one of another length.
    """
    ours, theirs = (
        to_float64(raw, dtype)
        for raw, dtype in ((body.samples[entry.name], entry.dtype), (bits, held.dtype))
    )
    if ours.shape != theirs.shape:  # complex against real
        return Reading(entry)
    pair = TensorPair(entry, held, sites, ours, theirs)
    return Reading(entry, pair, is_same=is_same, is_rounded=not is_same and _is_rounded(pair))


def _is_rounded(pair: TensorPair) -> bool:
    import numpy as np

    dtypes = (pair.child.dtype, pair.base.dtype)
    if not all(map(is_float, dtypes)) or holds(*dtypes):
        return False
    return np.array_equal(pair.cast, pair.theirs, equal_nan=True)


def loaded_as(name: str, sites: Sites) -> tuple[str, ...]:
    """Return the names that a loader may take ``name`` for.

    transformers adds the prefix of the model without its head to a name, or takes it off.
    """
    prefix = f"{sites.layer.split('.')[0]}."
    return name, prefix + name, name.removeprefix(prefix)


def _read(
    checkpoint: Checkpoint, body: LayersBody, sites: Sites, entry: Entry, held: Held
) -> Reading:
    if held.shape != entry.shape:
        return Reading(entry)
    sampler = Sampler(entry.name, held.dtype, held.shape)
    kept = [True]  # whether every value so far is one of the base's dtype

    def pieces() -> Iterator[bytes | memoryview]:
        for part in held.parts:
            for piece in checkpoint.pieces(part.name, part.begin, part.end):
                sampler.add(piece)
                bits = _in_dtype(piece, held.dtype, entry.dtype) if kept[0] else None
                kept[0] = bits is not None
                if bits is not None:
                    yield bits

    digest = digest_pieces(pieces())
    child = Entry(entry.name, held.dtype, held.shape, digest)
    is_same = kept[0] and digest == entry.digest
    return _compared(body, sites, entry, child, sampler.bits(), is_same=is_same)


def _in_dtype(piece: memoryview, held: str, wanted: str) -> bytes | memoryview | None:
    """Return the bits of ``piece`` in the dtype ``wanted``, ``None`` where it lacks a value."""
    if held == wanted:
        return piece
    if not (is_float(held) and is_float(wanted)):
        return None
    return exact_bits(to_float64(piece, held), wanted)
