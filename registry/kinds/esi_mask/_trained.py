"""Trained values of selected weights, in the form in which an artifact holds them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.errors import NonFiniteResultError
from registry.live.compare import torch_dtype
from registry.wording import listed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from torch import Tensor

    from registry.kinds.esi_mask._matrices import Matrix


def raw_values(candidates: Sequence[Matrix], values: Mapping[str, Tensor]) -> np.ndarray:
    """Return ``values`` as raw bytes in the dtype of the base, matrix after matrix, uint8.

    Raises:
        NonFiniteResultError: a value is NaN or infinite in that dtype.
    """
    import numpy as np
    import torch

    pieces, broken = [], []
    for matrix in candidates:
        if matrix.name not in values:
            continue
        rounded = values[matrix.name].to(torch_dtype(matrix.dtype))
        wrong = int((~torch.isfinite(rounded)).sum())
        if wrong:
            broken.append(f"{matrix.name}: {wrong:,} of {rounded.numel():,} values")
        pieces.append(rounded.view(torch.uint8).numpy())
    if broken:
        raise NonFiniteResultError(
            f"expected finite values in the dtype of the base, got NaN or infinity in "
            f"{len(broken)} matrices:{listed(broken)}",
            hint="Train again with a smaller learning rate.",
        )
    return np.concatenate(pieces)
