"""Does this checkpoint carry the lock in its bytes, at which strength, and would it be loaded?

Works on bytes alone, without torch. A lock that was written into a checkpoint is a set of output
projection biases; they are compared with ``W_o @ displacement`` recomputed from the checkpoint's
own weights. Stored is not applied: most loaders drop such a bias in silence, and that is said.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.checkpoint.values import to_float64

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from registry.checkpoint.architecture import Sites
    from registry.checkpoint.reader import Checkpoint
    from registry.kinds.safety_lock.body import LockBody

RESIDUAL_BOUND = 0.05
"""Largest ``||b - alpha b_1|| / ||b||`` at which a stored bias counts as this lock (bf16 rounding
is about 0.002)."""
LEAST_SHARE = 0.5
"""Smallest stored strength, as a share of the measured one, that counts as this lock."""
_FLOATS = {"F64", "F32", "F16", "BF16"}
_TINY = 1e-300


@dataclass(frozen=True, slots=True)
class LockInspection:
    """What the bytes say.

    Attributes:
        stored: Whether every touched layer holds this lock's bias, at half its measured strength or
            more and inside the measured range.
        alpha: Strength that fits the stored biases best; ``None`` when nothing is stored.
        residual: Largest relative part of a stored bias that the lock does not explain.
        layers_found: Touched layers that hold any output bias.
        loader_keeps: Whether the stock loader of this family reads such a bias.
        explains: Config fields that differ from the base's because a bias is stored: its switch.
        tensors: Tensors that are this lock.
    """

    stored: bool
    alpha: float | None
    residual: float | None
    layers_found: tuple[int, ...]
    loader_keeps: bool
    explains: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "stored": self.stored,
            "alpha": self.alpha,
            "residual": self.residual,
            "layers_found": list(self.layers_found),
            "loader_keeps": self.loader_keeps,
        }


def inspect(checkpoint: Checkpoint, body: LockBody, sites: Sites) -> LockInspection:
    """Look for ``body`` in the bytes of ``checkpoint``.

    The stored strength is the least-squares fit ``alpha = <b, b_1> / <b_1, b_1>`` over all touched
    layers, where ``b_1`` is the bias at strength 1.
    """
    found = tuple(
        layer for layer in body.layers if sites.attn_out_bias(layer) in checkpoint.tensors
    )
    keeps = sites.loader_keeps_bias(checkpoint.config)
    fit = None
    if found and all(_is_comparable(checkpoint, body, sites, layer) for layer in found):
        fit = _fit(
            [_values(checkpoint, sites.attn_out_bias(layer)) for layer in found],
            [_unit_shift(checkpoint, body, sites, layer) for layer in found],
        )
    if fit is None:
        return LockInspection(False, None, None, found, keeps)
    alpha, residual = fit
    most = body.alpha_range[1] if body.alpha_range else 0.0
    strong = body.alpha is not None and LEAST_SHARE * body.alpha <= alpha <= most * 1.01
    whole = found == body.layers and residual <= RESIDUAL_BOUND and strong
    switch = sites.o_proj_has_bias
    explains = (switch,) if whole and keeps and isinstance(switch, str) else ()
    tensors = tuple(sites.attn_out_bias(layer) for layer in found) if whole else ()
    return LockInspection(
        whole, round(alpha, 6), round(residual, 6), found, keeps, explains, tensors
    )


def _fit(stored: Sequence[Any], unit: Sequence[Any]) -> tuple[float, float] | None:
    """Return alpha and the largest relative residual; ``None`` when no number says anything."""
    import numpy as np

    with np.errstate(all="ignore"):  # the bytes may hold anything
        size = sum(float(shift @ shift) for shift in unit)
        dot = sum(float(bias @ shift) for bias, shift in zip(stored, unit, strict=True))
        if not (math.isfinite(size) and math.isfinite(dot) and size > 0):
            return None
        alpha = dot / size
        residuals = [
            float(np.linalg.norm(bias - alpha * shift) / max(np.linalg.norm(bias), _TINY))
            for bias, shift in zip(stored, unit, strict=True)
        ]
    return (alpha, max(residuals)) if all(map(math.isfinite, residuals)) else None


def _is_comparable(checkpoint: Checkpoint, body: LockBody, sites: Sites, layer: int) -> bool:
    """Whether bias and weight of ``layer`` have the shapes and dtypes that this lock speaks of."""
    bias = checkpoint.tensors[sites.attn_out_bias(layer)]
    weight = checkpoint.tensors.get(sites.attn_out_weight(layer))
    if weight is None or len(weight.shape) != 2 or {bias.dtype, weight.dtype} - _FLOATS:
        return False
    width = sites.in_features(weight.shape)
    highest = max(head for at, head in body.heads if at == layer)
    return bias.shape == (sites.out_features(weight.shape),) and (
        width % body.head_dim == 0 and highest < width // body.head_dim
    )


def _values(checkpoint: Checkpoint, name: str) -> np.ndarray:
    return to_float64(checkpoint.read(name), checkpoint.tensors[name].dtype)


def _unit_shift(checkpoint: Checkpoint, body: LockBody, sites: Sites, layer: int) -> np.ndarray:
    """Return ``sum_h sigma * W_o[:, h] @ theta``, float64 [hidden_size]."""
    import numpy as np

    name = sites.attn_out_weight(layer)
    weight: Any = _values(checkpoint, name).reshape(checkpoint.tensors[name].shape)
    if sites.transposed:
        weight = weight.T
    total = np.zeros(weight.shape[0])
    with np.errstate(all="ignore"):
        for head, displacement in body.of_layer(layer):
            columns = weight[:, head * body.head_dim : (head + 1) * body.head_dim]
            total += columns @ displacement.astype(np.float64)
    return total
