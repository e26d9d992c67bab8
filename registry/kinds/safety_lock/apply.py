"""Put a safety lock onto a live model, as additive frozen biases of the output projections.

The shift is folded through the fine-tune's *own* W_o, and only the chosen heads' columns are read.
All modules or none; undo gives every tensor back bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.checkpoint.architecture import sites_for
from registry.digest import Digest, digest_bytes
from registry.errors import CompatibilityError, GeometryError, NonFiniteResultError
from registry.live.attach import WIDER, attach, detach
from registry.live.sites import attention_outputs, model_geometry, weight_columns
from registry.wording import listed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from registry.checkpoint.geometry import Geometry
    from registry.kinds.contract import BaseTensors
    from registry.kinds.safety_lock.body import LockBody

_FOREIGN = "See which base this model descends from: safelatch lineage MODEL"
DOSE_FACTOR = 2.0
"""Most that the length of a shift may differ from the base's, either way."""


@dataclass(frozen=True, slots=True)
class LockApplication:
    """A lock that is on a model.

    Attributes:
        owner: Identity under which it was attached (the artifact's digest or label).
        alpha: Strength that was applied.
        geometry: Geometry of the model at that time.
        weight_digests: Digest of each touched output projection's bits at that time.
    """

    owner: str
    alpha: float
    geometry: Geometry
    weight_digests: Mapping[str, Digest]


def apply(
    model: nn.Module,
    body: LockBody,
    *,
    base: BaseTensors | None = None,  # noqa: ARG001 -- the contract's: a lock brings all it needs
    owner: str,
    alpha: float | None = None,
    allow_unsafe: bool = False,
) -> LockApplication:
    """Apply ``body`` to ``model`` and return what was done.

    Args:
        model: A transformers model with plain weights.
        body: The lock.
        base: Not asked.
        owner: Identity under which it is attached; applying one owner twice is refused.
        alpha: Strength, dimensionless; the calibrated one by default.
        allow_unsafe: Accept a strength outside the measured range.

    Raises:
        GeometryError: the lock's heads do not exist in this model.
        ConfirmationRequiredError: see ``LockBody.strength``.
        CompatibilityError: see ``require_dose``.
        AlreadyAppliedError, ApplyError, NonFiniteResultError: the model is as it was.
    """
    strength = body.strength(alpha, allow_unsafe=allow_unsafe)
    geometry = model_geometry(model)
    require_fits(body, geometry)
    shifts = output_shifts(model, body, geometry, alpha=strength)
    require_dose(body, list(shifts.values()), alpha=strength)
    digests = {name: weight_digest(model.get_submodule(name)) for name in shifts}
    attach(model, owner, shifts)
    return LockApplication(owner, strength, geometry, digests)


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
            f"expected head_dim {body.head_dim} as in the lock, the model has {geometry.head_dim}.",
            hint=_FOREIGN,
        )
    beyond = [
        f"{layer}:{head}"
        for layer, head in body.heads
        if layer >= geometry.layers or head >= geometry.heads
    ]
    if beyond:
        raise GeometryError(
            f"expected heads within {geometry.layers} layers x {geometry.heads} heads, "
            f"the lock names {', '.join(beyond)}.",
            hint=_FOREIGN,
        )


def require_dose(body: LockBody, shifts: Sequence[Tensor], *, alpha: float) -> None:
    """Check that the lock moves each output about as far as it did in the base.

    The shift goes through the fine-tune's own W_o. A fine-tune changes W_o a little; one from which
    these directions were taken out would let the lock through without any effect.

    Args:
        body: The lock; without ``shift_norms`` there is nothing to compare with.
        shifts: One bias per touched layer, ascending.
        alpha: Strength they were computed at.

    Raises:
        CompatibilityError: a layer is moved by less than half or more than twice as far.
    """
    if body.shift_norms is None or alpha == 0:
        return
    findings = []
    for layer, shift, expected in zip(body.layers, shifts, body.shift_norms, strict=True):
        got = float(shift.norm()) / abs(alpha)
        if not expected / DOSE_FACTOR <= got <= expected * DOSE_FACTOR:
            findings.append(f"layer {layer}: expected {expected:.4g}, got {got:.4g}")
    if findings:
        raise CompatibilityError(
            "expected the lock to move the attention outputs about as far as in its base, within "
            f"a factor of {DOSE_FACTOR:g}:{listed(findings)}",
            hint="The attention outputs of this model were edited; the lock is not for it.",
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
        name = sites.attn_out_module(layer)
        weight = weight_columns(modules[layer], transposed=sites.transposed)
        total = torch.zeros(weight.shape[0], dtype=torch.float32, device=weight.device)
        for head, displacement in body.of_layer(layer):
            columns = weight[:, head * body.head_dim : (head + 1) * body.head_dim]
            vector = torch.tensor(displacement, dtype=torch.float32, device=weight.device)
            total += columns.detach().float() @ (alpha * vector)
        if not torch.isfinite(total).all():
            raise NonFiniteResultError(
                f"{name}: expected a finite shift, W_o @ direction has NaN or infinity; "
                "nothing was changed.",
                hint=WIDER,
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


def weight_digest(module: nn.Module) -> Digest:
    """Return the digest of a module's weight bits, the same on every device."""
    import torch

    weight: Any = module.weight
    bits = weight.detach().contiguous().cpu().view(torch.uint8).numpy()
    return digest_bytes(memoryview(bits).cast("B"))
