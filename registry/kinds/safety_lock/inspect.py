"""Does this checkpoint carry the lock in its bytes, at which strength, and would it be loaded?

Works on bytes alone, without torch. A lock that was written into a checkpoint is a set of output
projection biases; they are compared with ``W_o @ displacement`` recomputed from the checkpoint's
own weights. Stored is not applied: most loaders drop such a bias in silence, and that is said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.checkpoint.sketch import to_float64

if TYPE_CHECKING:
    import numpy as np

    from registry.checkpoint.architecture import Sites
    from registry.checkpoint.reader import Checkpoint
    from registry.kinds.safety_lock.body import LockBody

RESIDUAL_BOUND = 0.05
"""Largest ``||b - alpha b_1|| / ||b||`` at which a stored bias counts as this lock (bf16 rounding
is about 0.002)."""


@dataclass(frozen=True, slots=True)
class LockInspection:
    """What the bytes say.

    Attributes:
        stored: Whether every touched layer holds this lock's bias.
        alpha: Strength that fits the stored biases best; ``None`` when nothing is stored.
        residual: Largest relative part of a stored bias that the lock does not explain.
        layers_found: Touched layers that hold any output bias.
        loader_keeps: Whether the stock loader of this family reads such a bias.
    """

    stored: bool
    alpha: float | None
    residual: float | None
    layers_found: tuple[int, ...]
    loader_keeps: bool

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
    import numpy as np

    found = tuple(
        layer for layer in body.layers if sites.attn_out_bias(layer) in checkpoint.tensors
    )
    keeps = sites.o_proj_has_bias is not None and bool(
        checkpoint.config.get(sites.o_proj_has_bias, False)
    )
    if not found:
        return LockInspection(False, None, None, (), keeps)
    stored = {layer: _values(checkpoint, sites.attn_out_bias(layer)) for layer in found}
    unit = {layer: _unit_shift(checkpoint, body, sites, layer) for layer in found}
    dot = sum(float(stored[layer] @ unit[layer]) for layer in found)
    alpha = dot / sum(float(unit[layer] @ unit[layer]) for layer in found)
    residual = max(
        float(
            np.linalg.norm(stored[layer] - alpha * unit[layer])
            / max(np.linalg.norm(stored[layer]), np.finfo(float).tiny)
        )
        for layer in found
    )
    whole = found == body.layers and residual <= RESIDUAL_BOUND and alpha > 0
    return LockInspection(whole, round(alpha, 6), round(residual, 6), found, keeps)


def _values(checkpoint: Checkpoint, name: str) -> np.ndarray:
    return to_float64(bytes(checkpoint.view(name)), checkpoint.tensors[name].dtype)


def _unit_shift(checkpoint: Checkpoint, body: LockBody, sites: Sites, layer: int) -> np.ndarray:
    """Return ``sum_h sigma * W_o[:, h] @ theta``, float64 [hidden_size]."""
    import numpy as np

    name = sites.attn_out_weight(layer)
    weight: Any = _values(checkpoint, name).reshape(checkpoint.tensors[name].shape)
    if sites.transposed:
        weight = weight.T
    total = np.zeros(weight.shape[0])
    for head, displacement in body.of_layer(layer):
        columns = weight[:, head * body.head_dim : (head + 1) * body.head_dim]
        total += columns @ displacement.astype(np.float64)
    return total
