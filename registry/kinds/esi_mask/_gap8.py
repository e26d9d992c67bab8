"""gap8: sorted indices as one byte per gap, and zstd around it.

The indices of one tensor, sorted, are told by their gaps, ``gap = index - previous - 1`` with
``previous = -1`` in front of the first. A gap is ``gap // 255`` bytes of 255 and one byte
``gap % 255``: 255 skips 255 weights and marks none, any other byte b skips b and marks the next.
The form is canonical: one set of indices has one spelling.

- At 1 % a uniform mask takes 0.087 bits per weight, with zstd level 1 0.081: the entropy bound.
- A tensor's gaps have at least ``count`` and at most ``count + numel // 255`` bytes, so what a
  file says about sizes is checked before anything is decompressed.
- Nothing is allocated because a file states a size: what is packed comes out in pieces, and none
  is taken beyond what was expected. zstd makes at most 128 KiB of four bytes, so that a stated
  size that the packed bytes cannot hold is refused without unpacking.
- In memory a mask is its sorted indices; the boolean form, 80 times as large at 1 %, is made
  for one tensor when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.errors import SchemaViolationError, UnsafeFormatError
from registry.wording import REMAKE, listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np

SKIP = 255
"""The byte that skips as many weights and marks none."""
LEVEL = 1
"""Level of zstd: on gaps, level 19 saves less than 1 % and takes 15 times as long."""

_MOST_UINT32 = 1 << 32
_BLOCK = 1 << 17  # most bytes that a block of zstd makes, of
_LEAST_BLOCK = 4  # so many at least: a head of three, and the byte that is repeated
_FED = 64 * _LEAST_BLOCK
_WINDOW = 8 << 20  # the largest that a level of zstd below 20 chooses


def index_dtype(numel: int) -> np.dtype[Any]:
    """Return the dtype of indices into ``numel`` weights: uint32 up to 2**32 weights, or uint64."""
    import numpy as np

    return np.dtype(np.uint32 if numel <= _MOST_UINT32 else np.uint64)


def encode(indices: np.ndarray, numel: int, *, what: str) -> bytes:
    """Return the gaps of ``indices``.

    Args:
        indices: Flat indices into one tensor, integers, strictly increasing, shape [count].
        numel: How many weights the tensor has.
        what: How to call the tensor in an error.

    Raises:
        SchemaViolationError: an index is not above the one before it, or outside the tensor.
    """
    import numpy as np

    require_indices(indices, numel, what=what)
    gaps = indices.astype(index_dtype(numel))
    gaps[1:] -= gaps[:-1].copy()
    gaps[1:] -= 1
    long = np.flatnonzero(gaps >= SKIP)
    skips, rest = np.divmod(gaps[long], SKIP)
    gaps[long] = rest
    steps = np.insert(gaps.astype(np.uint8), np.repeat(long, skips.astype(np.intp)), SKIP)
    return bytes(steps)


def decode(gaps: bytes | memoryview, numel: int, count: int, *, what: str) -> np.ndarray:
    """Return the sorted indices that ``gaps`` tell: uint32 up to 2**32 weights, or uint64.

    Args:
        gaps: The bytes that ``encode`` returned.
        numel: How many weights the tensor has.
        count: How many of them are selected.
        what: How to call the tensor in an error.

    Raises:
        UnsafeFormatError: another number of indices, one at or above ``numel``, or skips at the
            end that lead to none.
    """
    import numpy as np

    steps = np.frombuffer(gaps, dtype=np.uint8)
    followed = Followed()
    followed.add(gaps)
    followed.require(numel, count, what=what)
    marks = steps != SKIP
    # A mark moves b + 1 on and a skip 255: for both that is min(b, 254) + 1. The sum may wrap to 0
    # behind the last of 2**32 weights; taking 1 away wraps it back.
    moves = np.minimum(steps, SKIP - 1)
    moves += 1
    indices: np.ndarray = np.cumsum(moves, dtype=index_dtype(numel))[marks]
    indices -= 1
    return indices


class Followed:
    """Where gaps lead, of which one piece after the other is seen and none is kept."""

    __slots__ = ("_last", "_marks", "_size", "_sum")

    def __init__(self) -> None:
        self._size = self._sum = self._marks = self._last = 0

    def add(self, piece: bytes | memoryview) -> None:
        """Go on over the next bytes."""
        import numpy as np

        if len(piece):
            steps = np.frombuffer(piece, dtype=np.uint8)
            self._size += steps.size
            self._marks += int(np.count_nonzero(steps != SKIP))
            self._sum += int(np.sum(steps, dtype=np.uint64))
            self._last = piece[-1]

    def passing(self, pieces: Iterable[memoryview]) -> Iterator[memoryview]:
        """Yield ``pieces``, gone over."""
        for piece in pieces:
            self.add(piece)
            yield piece

    def require(self, numel: int, count: int, *, what: str) -> None:
        """Raise ``UnsafeFormatError`` unless it was ``count`` indices into ``numel`` weights."""
        findings = []
        last = self._sum + self._marks - 1
        if self._marks != count:
            findings.append(f"expected {count:,} indices, got {self._marks:,}")
        if last >= numel:
            findings.append(f"expected the last index below {numel:,}, got {last:,}")
        if self._size and self._last == SKIP:
            findings.append(f"expected a byte below {SKIP} at the end, got {SKIP}")
        if findings:
            raise UnsafeFormatError(
                f"{what}: {self._size:,} bytes of gaps break the format:{listed(findings)}",
                hint=REMAKE,
            )


def boolean(indices: np.ndarray, numel: int) -> np.ndarray:
    """Return the mask of one tensor as booleans, shape [numel]."""
    import numpy as np

    mask = np.zeros(numel, dtype=np.bool_)
    mask[indices] = True
    return mask


def compress(gaps: bytes) -> bytes:
    """Return ``gaps`` as one zstd frame that states their size; no bytes are no frame."""
    import zstandard

    if not gaps:
        return b""
    return zstandard.ZstdCompressor(level=LEVEL, write_content_size=True).compress(gaps)


def most_unpacked(packed: int) -> int:
    """Return the most bytes that a zstd frame of ``packed`` bytes can hold."""
    return packed // _LEAST_BLOCK * _BLOCK


def decompress(frame: bytes | memoryview, size: int, *, what: str) -> bytes:
    """Return the ``size`` bytes that ``compress`` packed; see ``unpacked``."""
    return b"".join(unpacked(frame, size, what=what))


def unpacked(frame: bytes | memoryview, size: int, *, what: str) -> Iterator[bytes]:
    """Yield the ``size`` bytes that ``compress`` packed, in pieces of at most 8 MiB.

    Raises:
        UnsafeFormatError: not one zstd frame, or one of another size; at the latest at the end.
    """
    import zstandard

    if size == 0 and not frame:
        return
    refused = f"{what}: expected one zstd frame of {size:,} bytes, got"
    got = 0
    try:
        # The library makes room for the window in the frame's own head: both are compared first.
        stated = zstandard.get_frame_parameters(frame).content_size
        if not stated == size > 0:
            told = "none" if stated == zstandard.CONTENTSIZE_UNKNOWN else f"{stated:,}"
            raise UnsafeFormatError(
                f"{what}: expected a zstd frame of {size:,} bytes, its head states {told}.",
                hint=REMAKE,
            )
        if size > (most := most_unpacked(len(frame))):
            raise UnsafeFormatError(
                f"{refused} {len(frame):,} that can hold {most:,} at most.", hint=REMAKE
            )
        unpacking = zstandard.ZstdDecompressor(max_window_size=_WINDOW).decompressobj()
        for begin in range(0, len(frame), _FED):
            piece = unpacking.decompress(frame[begin : begin + _FED])
            got += len(piece)
            if got > size:
                raise UnsafeFormatError(f"{refused} one of more.", hint=REMAKE)
            if piece:
                yield piece
            if unpacking.eof:
                more = len(frame) - begin - _FED
                behind = len(unpacking.unused_data) + max(more, 0)
                break
        else:
            behind = 0
    except zstandard.ZstdError as error:
        raise UnsafeFormatError(
            f"{refused} {len(frame):,} bytes that zstd refuses: {error}.", hint=REMAKE
        ) from error
    if not unpacking.eof or behind or got != size:
        fact = f"{behind:,} bytes behind it" if behind else f"one of {got:,} or cut off"
        raise UnsafeFormatError(f"{refused} {fact}.", hint=REMAKE)


def require_indices(indices: np.ndarray, numel: int, *, what: str) -> None:
    """Raise ``SchemaViolationError`` unless indices are sorted, distinct and below ``numel``."""
    import numpy as np

    findings: list[str] = []
    if indices.dtype.kind not in "ui" or indices.ndim != 1:
        findings.append(
            f"expected integers in one dimension, got {indices.dtype.name} {indices.shape}"
        )
    elif indices.size:
        if not np.all(indices[1:] > indices[:-1]):
            place = int(np.argmin(indices[1:] > indices[:-1])) + 1
            findings.append(
                f"entry {place:,}: expected more than {indices[place - 1]:,}, "
                f"got {indices[place]:,}"
            )
        low, high = int(indices.min()), int(indices.max())
        if low < 0:
            findings.append(f"expected indices from 0, got {low:,}")
        if high >= numel:
            findings.append(f"expected indices below {numel:,}, got {high:,}")
    if findings:
        raise SchemaViolationError(
            f"{what}: {indices.size:,} indices that are no mask of {numel:,} weights:",
            findings,
            hint="Sort the indices of the tensor and give each once.",
        )
