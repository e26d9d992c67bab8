"""A stored tensor with an adapter's factors merged into it: W + scale * B @ A, in its own dtype.

The sum is made in float64 and cast to that dtype as torch casts, a few rows at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.checkpoint.values import exact_bits, item_size, rounded, to_float64
from registry.errors import CompatibilityError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.checkpoint.adapter import Adapter, LoraModule
    from registry.checkpoint.reader import Checkpoint
    from registry.checkpoint.sites import Sites

_AT_ONCE = 1 << 18  # weights in memory as float64, a few times


def merged_pieces(
    checkpoint: Checkpoint, adapter: Adapter, module: LoraModule, sites: Sites
) -> Iterator[bytes]:
    """Yield the bytes of the weight of ``module`` with the adapter's factors in it, in order.

    Args:
        checkpoint: Files of the base, which the adapter fits (``checkpoint.effective.misfits``).
        adapter: The adapter.
        module: One of its modules.
        sites: The row of the base's family.

    Raises:
        CompatibilityError: a sum is not finite in the dtype of the weight.
    """
    import numpy as np

    info = checkpoint.tensors[module.weight]
    b, a = adapter.factors(module)
    is_transposed = module.is_embedding or (
        sites.transposed and sites.layer_of(module.weight) is not None
    )
    left, right = (a.T, b.T) if is_transposed else (b, a)
    rows, columns = info.shape
    width = columns * item_size(info.dtype)
    step = max(1, _AT_ONCE // max(1, columns))
    for first in range(0, rows, step):
        last = min(rows, first + step)
        raw = b"".join(map(bytes, checkpoint.pieces(module.weight, first * width, last * width)))
        with np.errstate(invalid="ignore", over="ignore"):
            change = (left[first:last] @ right).reshape(-1) * module.scale
            cast = rounded(to_float64(raw, info.dtype) + change, info.dtype)
        bits = None if cast is None or not np.isfinite(cast).all() else exact_bits(cast, info.dtype)
        if bits is None:
            raise CompatibilityError(
                f"{module.weight}: expected finite {info.dtype} with the adapter merged, some are "
                "not.",
                hint="Look at the adapter: safelatch inspect ADAPTER",
            )
        yield bits
