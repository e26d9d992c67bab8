"""Values at the places of a mask: raw bytes in the dtype of the base, matrix after matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.checkpoint.values import item_size
from registry.digest import digest_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np

    from registry.kinds.esi_mask._matrices import Matrix
    from registry.kinds.esi_mask._packed import PackedMask


def gather_values(
    candidates: Sequence[Matrix],
    mask: PackedMask,
    read: Callable[[Matrix, np.ndarray], bytes],
) -> tuple[np.ndarray, np.ndarray]:
    """Return the selected values, uint8 [bytes], and their digests, uint8 [matrices, 32].

    Args:
        candidates: The matrices of the mask, sorted by name.
        mask: Which weights are selected.
        read: Gives the raw bytes, in the dtype of the base, of a matrix at sorted flat indices.
    """
    import numpy as np

    pieces = [read(matrix, mask.indices(matrix.name)) for matrix in candidates]
    digests = [bytes.fromhex(digest_bytes(piece).partition(":")[2]) for piece in pieces]
    return (
        np.frombuffer(b"".join(pieces), dtype=np.uint8),
        np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 32),
    )


def split_values(
    values: np.ndarray, candidates: Sequence[Matrix], counts: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """Return the part of each matrix of ``values``: views of raw bytes, uint8, by name."""
    found, begin = {}, 0
    for matrix in candidates:
        end = begin + counts[matrix.name] * item_size(matrix.dtype)
        found[matrix.name] = values[begin:end]
        begin = end
    return found
