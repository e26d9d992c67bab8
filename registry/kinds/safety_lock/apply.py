"""Put a safety lock onto a live model, as additive frozen biases of the output projections.

The shift is folded through the fine-tune's *own* W_o, and only the chosen heads' columns are read.
All modules or none; undo gives every tensor back bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.checkpoint.architecture import sites_for
from registry.errors import GeometryError, NonFiniteResultError
from registry.live.attach import attach, detach
from registry.live.sites import attention_outputs, model_geometry, weight_columns

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from registry.checkpoint.geometry import Geometry
    from registry.kinds.safety_lock.body import LockBody


@dataclass(frozen=True, slots=True)
class LockApplication:
    """A lock that is on a model.

    Attributes:
        owner: Identity under which it was attached (the artifact's digest or label).
        alpha: Strength that was applied.
        geometry: Geometry of the model at that time.
        weight_sums: Integer checksum of each touched output projection at that time.
    """

    owner: str
    alpha: float
    geometry: Geometry
    weight_sums: Mapping[str, int]


def apply(
    model: nn.Module,
    body: LockBody,
    *,
    owner: str,
    alpha: float | None = None,
    allow_unsafe: bool = False,
) -> LockApplication:
    """Apply ``body`` to ``model`` and return what was done.

    Args:
        model: A transformers model with plain weights.
        body: The lock.
        owner: Identity under which it is attached; applying one owner twice is refused.
        alpha: Strength, dimensionless; the calibrated one by default.
        allow_unsafe: Accept a strength outside the measured range.

    Raises:
        GeometryError: the lock's heads do not exist in this model.
        ConfirmationRequiredError: see ``LockBody.strength``.
        AlreadyAppliedError, ApplyError, NonFiniteResultError: the model is as it was.
    """
    strength = body.strength(alpha, allow_unsafe=allow_unsafe)
    geometry = model_geometry(model)
    require_fits(body, geometry)
    shifts = output_shifts(model, body, geometry, alpha=strength)
    sums = {name: weight_checksum(model.get_submodule(name)) for name in shifts}
    attach(model, owner, shifts)
    return LockApplication(owner, strength, geometry, sums)


def undo(model: nn.Module, application: LockApplication) -> None:
    """Take the lock off; every tensor is again what it was, bit for bit."""
    detach(model, application.owner)


def require_fits(body: LockBody, geometry: Geometry) -> None:
    """Check that every head of the lock exists in ``geometry``.

    Raises:
        GeometryError: with both values.
    """
    if body.head_dim != geometry.head_dim:
        raise GeometryError(
            f"expected head_dim {body.head_dim} as in the lock, the model has {geometry.head_dim}."
        )
    beyond = [
        f"{layer}:{head}"
        for layer, head in body.heads
        if layer >= geometry.layers or head >= geometry.heads
    ]
    if beyond:
        raise GeometryError(
            f"expected heads within {geometry.layers} layers x {geometry.heads} heads, "
            f"the lock names {', '.join(beyond)}."
        )


def output_shifts(
    model: nn.Module, body: LockBody, geometry: Geometry, *, alpha: float
) -> dict[str, Tensor]:
    """Return each touched module's bias: module name to fp32 [hidden_size] on its device.

    Source: SafetyLock, offline form: ``b_l = sum_h alpha * sigma * W_o[:, h] @ theta``, where
    ``W_o[:, h]`` are the ``head_dim`` columns of query head h. Head width is
    ``W_o.in_features / heads``, never ``hidden_size / heads``.

    Raises:
        NonFiniteResultError: a product is NaN or infinite.
    """
    import torch

    sites = sites_for(geometry.family)
    modules = attention_outputs(model, geometry)
    shifts = {}
    for layer in body.layers:
        name = sites.attn_out_weight(layer).removesuffix(".weight")
        weight = weight_columns(modules[layer], transposed=sites.transposed)
        total = torch.zeros(weight.shape[0], dtype=torch.float32, device=weight.device)
        for head, displacement in body.of_layer(layer):
            columns = weight[:, head * body.head_dim : (head + 1) * body.head_dim]
            vector = torch.tensor(displacement, dtype=torch.float32, device=weight.device)
            total += columns.detach().float() @ (alpha * vector)
        if not torch.isfinite(total).all():
            raise NonFiniteResultError(
                f"{name}: expected a finite shift, W_o @ direction has NaN or infinity; "
                "nothing was changed."
            )
        shifts[name] = total
    return shifts


def input_shifts(
    model: nn.Module, body: LockBody, geometry: Geometry, *, alpha: float
) -> dict[nn.Module, Tensor]:
    """Return the hook form: module to what is added to its input, fp32 [heads * head_dim]."""
    import torch

    modules = attention_outputs(model, geometry)
    shifts: dict[Any, Tensor] = {}
    for layer in body.layers:
        device = next(modules[layer].parameters()).device
        shift = torch.zeros(geometry.heads * body.head_dim, dtype=torch.float32, device=device)
        for head, displacement in body.of_layer(layer):
            vector = torch.tensor(displacement, dtype=torch.float32, device=device)
            shift[head * body.head_dim : (head + 1) * body.head_dim] = alpha * vector
        shifts[modules[layer]] = shift
    return shifts


def weight_checksum(module: nn.Module) -> int:
    """Return an integer checksum of a module's weight bits, the same on every device.

    Sum over rows of (row number + 1) * (sum over columns of bits * (column number + 1)), in
    wrapping 64-bit integers. It finds accidental changes after apply; it is not cryptographic.
    """
    import torch

    weight: Any = module.weight
    width = {2: torch.int16, 4: torch.int32, 8: torch.int64}[weight.element_size()]
    bits = weight.detach().contiguous().view(width)
    columns = torch.arange(1, bits.shape[1] + 1, dtype=torch.int64, device=bits.device)
    total = 0
    for start in range(0, bits.shape[0], 256):
        block = bits[start : start + 256].long()
        rows = torch.arange(start + 1, start + 1 + len(block), device=bits.device)
        total += int(((block * columns).sum(dim=1) * rows).sum())
    return total % (1 << 64)
