"""The sketch of a tensor: raw bits at the same positions on every machine.

The format is frozen: records that travel hold these bits, and a changed position would make every
old record lie. Three parts, one after the other:

- **flat**: element by element, spread over the tensor. They estimate distances. ``numel / 4096`` of
  them, at least 1,024 and at most 8,192. A tensor of one dimension and at most 65,536 elements, or
  any of at most 1,024, is taken whole, and has no other part.
- **grid**: 48 rows by 48 columns. Where they are depends on the size of the axis alone, so that
  the layers of a model share them, and hardly changes when an axis grows: the positions with the
  smallest hash. They show the rank and the direction of a change.
- **groups**: 8 runs of 64 neighbours that begin at multiples of 64. They show the levels that a
  quantiser left.

Rules:

- Positions depend on the tensor's name and shape alone, never on its dtype or values.
- Slot ``i`` of ``k`` covers elements ``[i*n//k, (i+1)*n//k)``; the position in it is output ``i``
  of splitmix64 modulo the slot's width. Positions of a part are therefore sorted and unique.
- A seed is the first 8 bytes, little-endian, of BLAKE3 of a domain text, the name and the shape.
- Element ``i`` of an axis has output ``i`` of splitmix64 as its hash, up to 2**20 elements; a
  longer axis is cut into slots.
- A tensor of more than two dimensions is a matrix of its last axis by all the others.
- Integer arithmetic only; values are compared in float64 (``values``).

Source of the generator: Steele, Lea and Flood, "Fast splittable pseudorandom number generators".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING

from registry.checkpoint.values import item_size
from registry.digest import digest_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Positions = NDArray[np.int64]

VERSION = 2
"""Version of the positions; 1 had flat samples alone and was never published."""
SIDE, GROUPS, GROUP = 48, 8, 64
_LEAST, _MOST, _SPARSE = 1024, 8192, 4096
_WHOLE_VECTOR = 1 << 16
_LONG_AXIS = 1 << 20
_DOMAIN = "safelatch/sketch/v2"


@dataclass(frozen=True, slots=True)
class Extent:
    """How many elements of a tensor each part of its sketch holds.

    Attributes:
        flat: Spread over the tensor; all of it where ``is_whole``.
        rows: Of the grid; 0 without one.
        columns: Of the grid.
        groups: Runs of 64 neighbours.
        is_whole: Whether the flat part is the tensor itself.
    """

    flat: int
    rows: int
    columns: int
    groups: int
    is_whole: bool

    @property
    def count(self) -> int:
        """Elements in all."""
        return self.flat + self.rows * self.columns + self.groups * GROUP


def extent(shape: tuple[int, ...]) -> Extent:
    """Return the parts of the sketch of a tensor of this ``shape``."""
    numel = prod(shape)
    if numel <= _LEAST or (len(shape) == 1 and numel <= _WHOLE_VECTOR):
        return Extent(numel, 0, 0, 0, is_whole=True)
    flat = min(max(numel // _SPARSE, _LEAST), _MOST)
    rows, columns = _matrix(shape)
    groups = min(GROUPS, numel // GROUP)
    if len(shape) == 1:
        return Extent(flat, 0, 0, groups, is_whole=False)
    return Extent(flat, min(SIDE, rows), min(SIDE, columns), groups, is_whole=False)


def positions(name: str, shape: tuple[int, ...]) -> Positions:
    """Return the flat, row-major positions of the sketch: its parts one after the other.

    Returns:
        [extent(shape).count], int64; sorted and unique within a part.
    """
    import numpy as np

    return np.concatenate(_parts(name, shape))


def grid_axes(shape: tuple[int, ...]) -> tuple[Positions, Positions]:
    """Return the rows and the columns of the grid of a tensor that has one, sorted."""
    rows, columns = _matrix(shape)
    return _axis(rows), _axis(columns)


class Sampler:
    """Collects the sketch of one tensor from its bytes, piece by piece."""

    def __init__(self, name: str, dtype: str, shape: tuple[int, ...]) -> None:
        self._bits = f"<u{item_size(dtype)}"
        self._parts = _parts(name, shape)
        self._next = [0] * len(self._parts)  # the first position that is not taken yet
        self._taken: list[list[bytes]] = [[] for _ in self._parts]
        self._first = 0

    def add(self, piece: memoryview) -> None:
        """Take what the sketch holds of the next ``piece``, whole elements."""
        import numpy as np

        bits = np.frombuffer(piece, dtype=self._bits)
        after = self._first + len(bits)
        for index, (where, taken) in enumerate(zip(self._parts, self._taken, strict=True)):
            begin = self._next[index]
            end = self._next[index] = int(where.searchsorted(after))
            if end > begin:
                taken.append(bits[where[begin:end] - self._first].tobytes())
        self._first = after

    def bits(self) -> bytes:
        """Return the sketch, once every piece was added."""
        return b"".join(b"".join(taken) for taken in self._taken)


def splitmix64(seed: int, count: int) -> NDArray[np.uint64]:
    """Return the first ``count`` outputs of splitmix64 from ``seed``, modulo 2**64."""
    import numpy as np

    step, shifts = np.uint64(0x9E3779B97F4A7C15), [np.uint64(n) for n in (30, 27, 31)]
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * step
        z = (z ^ (z >> shifts[0])) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> shifts[1])) * np.uint64(0x94D049BB133111EB)
        outputs: NDArray[np.uint64] = z ^ (z >> shifts[2])
    return outputs


def _parts(name: str, shape: tuple[int, ...]) -> list[Positions]:
    import numpy as np

    made = extent(shape)
    if made.is_whole:
        return [np.arange(made.flat, dtype=np.int64)]
    numel = prod(shape)
    parts = [_slots(numel, made.flat, _seed("flat", name, shape))]
    if made.rows:
        parts.append(_grid(shape))
    if made.groups:
        starts = _slots(numel // GROUP, made.groups, _seed("groups", name, shape)) * GROUP
        parts.append((starts[:, None] + np.arange(GROUP)).reshape(-1))
    return parts


def _slots(size: int, count: int, seed: int) -> Positions:
    import numpy as np

    whole, rest = (np.uint64(part) for part in divmod(size, count))
    index = np.arange(count + 1, dtype=np.uint64)
    ends = index * whole + index * rest // np.uint64(count)  # index * size could overflow
    width = ends[1:] - ends[:-1]
    picked: Positions = (ends[:-1] + splitmix64(seed, count) % width).astype(np.int64)
    return picked


@lru_cache(maxsize=64)
def _grid(shape: tuple[int, ...]) -> Positions:
    rows, columns = grid_axes(shape)
    found: Positions = (rows[:, None] * shape[-1] + columns).reshape(-1)
    return found


@lru_cache(maxsize=64)
def _axis(size: int) -> Positions:
    import numpy as np

    if size <= SIDE:
        return np.arange(size, dtype=np.int64)
    seed = _seed("axis", "", ())
    if size > _LONG_AXIS:
        return _slots(size, SIDE, seed)
    lowest = np.argpartition(splitmix64(seed, size), SIDE)[:SIDE]
    return np.sort(lowest).astype(np.int64)


def _matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    return prod(shape[:-1]), shape[-1]


def _seed(part: str, name: str, shape: tuple[int, ...]) -> int:
    text = f"{_DOMAIN}\0{part}\0{name}\0" + "x".join(str(size) for size in shape)
    digest = digest_bytes(text.encode("utf-8")).removeprefix("blake3:")
    return int.from_bytes(bytes.fromhex(digest[:16]), "little")
