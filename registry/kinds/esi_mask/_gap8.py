"""gap8: sorted indices as one byte per gap, and zstd around it.

The indices of one tensor, sorted, are told by their gaps, ``gap = index - previous - 1`` with
``previous = -1`` in front of the first. A gap is ``gap // 255`` bytes of 255 and one byte
``gap % 255``: 255 skips 255 weights and marks none, any other byte b skips b and marks the next.
The form is canonical: one set of indices has one spelling.

- At 1 % a uniform mask takes 0.087 bits per weight, with zstd level 1 0.081: the entropy bound.
- A tensor's gaps have at least ``count`` and at most ``count + numel // 255`` bytes, so what a
  file says about sizes is checked before anything is decompressed.
- In memory a mask is its sorted indices; the boolean form, 80 times as large at 1 %, is made
  for one tensor when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.errors import SchemaViolationError, UnsafeFormatError
from registry.wording import REMAKE, listed

if TYPE_CHECKING:
    import numpy as np

SKIP = 255
"""The byte that skips as many weights and marks none."""
LEVEL = 1
"""Level of zstd: on gaps, level 19 saves less than 1 % and takes 15 times as long."""

_MOST_UINT32 = 1 << 32


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
    marks = steps != SKIP
    found = int(np.count_nonzero(marks))
    last = int(np.sum(steps, dtype=np.uint64)) + found - 1
    findings = []
    if found != count:
        findings.append(f"expected {count:,} indices, got {found:,}")
    if last >= numel:
        findings.append(f"expected the last index below {numel:,}, got {last:,}")
    if steps.size and not marks[-1]:
        findings.append(f"expected a byte below {SKIP} at the end, got {SKIP}")
    if findings:
        raise UnsafeFormatError(
            f"{what}: {len(steps):,} bytes of gaps break the format:{listed(findings)}", hint=REMAKE
        )
    # A mark moves b + 1 on and a skip 255: for both that is min(b, 254) + 1. The sum may wrap to 0
    # behind the last of 2**32 weights; taking 1 away wraps it back.
    moves = np.minimum(steps, SKIP - 1)
    moves += 1
    indices: np.ndarray = np.cumsum(moves, dtype=index_dtype(numel))[marks]
    indices -= 1
    return indices


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


def decompress(frame: bytes | memoryview, size: int, *, what: str) -> bytes:
    """Return the ``size`` bytes that ``compress`` packed; never more is unpacked than that.

    Raises:
        UnsafeFormatError: not one zstd frame, or one of another size.
    """
    import zstandard

    if size == 0 and not frame:
        return b""
    try:
        # The library makes room for the size in the frame's own head: it is compared first.
        stated = zstandard.get_frame_parameters(frame).content_size
        if stated == size > 0:
            gaps = zstandard.ZstdDecompressor().decompress(
                frame, max_output_size=size, read_across_frames=False, allow_extra_data=False
            )
        else:
            told = "none" if stated == zstandard.CONTENTSIZE_UNKNOWN else f"{stated:,}"
            raise UnsafeFormatError(
                f"{what}: expected a zstd frame of {size:,} bytes, its head states {told}.",
                hint=REMAKE,
            )
    except zstandard.ZstdError as error:
        raise UnsafeFormatError(
            f"{what}: expected one zstd frame of {size:,} bytes, got {len(frame):,} bytes that "
            f"zstd refuses: {error}.",
            hint=REMAKE,
        ) from error
    return gaps


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
