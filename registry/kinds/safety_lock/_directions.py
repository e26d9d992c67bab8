"""Directions of heads: estimated from answers, and measured again in another model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.checkpoint.architecture import sites_for
from registry.errors import CompatibilityError, NonFiniteResultError, UsageError
from registry.kinds.safety_lock._activations import head_rows, residual_norms
from registry.kinds.safety_lock._holds import Figures
from registry.kinds.safety_lock.apply import require_fits
from registry.live.sites import attention_outputs, model_geometry, weight_columns

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from torch import Tensor, nn

    from registry.checkpoint.geometry import Geometry
    from registry.kinds.safety_lock.body import LockBody
    from registry.measure.prompts import Pair


def directions_and_scales(rows: Tensor, chosen: list[int]) -> tuple[Tensor, Tensor]:
    """Return unit mean-difference directions fp32 [K, head_dim] and scales fp32 [K].

    Source: SafetyLock: ``mu = mean(refusing) - mean(complying)``, ``theta = mu / ||mu||_2``, and
    sigma the population standard deviation of all rows' projections on theta, both classes.
    Means and deviations are taken in float64.

    Args:
        rows: [pairs, 2, r, layers, heads, head_dim], refusing first.
        chosen: Head indices, layer * heads + head.

    Raises:
        UsageError: a chosen head does not differ between the answers at all.
    """
    picked = _of_heads(rows, chosen)
    difference = _contrast(picked)
    lengths = difference.norm(dim=1)
    if not bool((lengths > 0).all()):
        raise UsageError(
            f"expected {len(chosen)} heads that tell the answers apart, "
            f"got {int((lengths > 0).sum())}.",
            hint="Lower --heads, or give pairs whose answers differ.",
        )
    directions = difference / lengths[:, None]
    everything = picked.flatten(0, 2)  # [rows of both classes, K, head_dim]
    projections = (everything * directions).sum(-1)
    sigma = projections.std(0, unbiased=False)
    return directions.float(), sigma.float()


def figures(
    model: nn.Module,
    tokenizer: Any,
    body: LockBody,
    pairs: Sequence[Pair],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Figures:
    """Return how the directions of ``body`` stand in ``model``, which carries no lock.

    Source: SafetyLock, transfer of directions to fine-tunes. A direction is estimated anew as when
    a lock is made; the dose goes through this model's own W_o.

    Args:
        model: A live model, read only.
        tokenizer: Its fast tokenizer.
        body: The lock.
        pairs: Preference pairs; every one is read.
        progress: Called with (conversations done, all).

    Raises:
        GeometryError: the lock's heads do not exist in this model.
        CompatibilityError: the tokenizer makes answers too short to be read.
        NonFiniteResultError: an activation or a weight is NaN or infinite.
    """
    import torch

    geometry = model_geometry(model)
    require_fits(body, geometry)
    r = body.answer_window
    rows, used = head_rows(model, tokenizer, pairs, geometry, answer_tokens=r, progress=progress)
    if len(used) != len(pairs):
        raise CompatibilityError(
            f"expected {len(pairs)} pairs with answers of at least {r} tokens, got {len(used)}: "
            "the tokenizer is not the base's.",
            hint="Restore the tokenizer.json that was published with this model.",
        )
    picked = _of_heads(rows, [layer * geometry.heads + head for layer, head in body.heads])
    theta = torch.tensor(body.directions).double()  # [K, head_dim]
    sigma = torch.tensor(body.sigma).double()  # [K]
    contrast = _contrast(picked)
    along, lengths = (contrast * theta).sum(-1), contrast.norm(dim=1) * theta.norm(dim=1)
    cosine = torch.where(lengths > 0, along / lengths.clamp_min(1e-300), 0.0)
    norms = residual_norms(model, tokenizer, pairs, geometry, answer_tokens=r)
    behind = norms[[layer for layer, _ in body.heads]]
    return Figures(
        cosine=tuple(cosine.tolist()),
        margin=tuple((along / sigma).tolist()),
        dose=tuple((_shift_norms(model, body, geometry) / behind).tolist()),
        floor=written_floor(model, geometry, body.layers),
    )


def written_floor(
    model: nn.Module, geometry: Geometry, layers: Collection[int]
) -> tuple[float, float]:
    """Return the smallest over the median eigenvalue of ``sum_l W_o W_o^T``, dimensionless.

    Abliteration takes one direction of the residual stream out of everything that is written into
    it, ``W <- W - v v^T W``; then v is an eigenvector of this sum, of eigenvalue 0. Which v it was
    need not be known.

    Returns:
        The figure over all layers, and over ``layers`` alone.

    Raises:
        NonFiniteResultError: a weight is NaN or infinite.
    """
    import torch

    transposed = sites_for(geometry.family).transposed
    every: Any = 0.0
    touched: Any = 0.0
    for layer, module in enumerate(attention_outputs(model, geometry)):
        weight = weight_columns(module, transposed=transposed).detach().float()
        written = (weight @ weight.T).double().cpu()
        every = every + written
        touched = touched + written if layer in layers else touched
    if not torch.isfinite(every).all():
        raise NonFiniteResultError(
            "expected finite attention outputs, got NaN or infinity in W_o.",
            hint="Check the weights for NaN, or load in another dtype.",
        )
    return _floor(every), _floor(touched)


def _floor(written: Tensor) -> float:
    import torch

    values = torch.linalg.eigvalsh(written)
    middle = float(values.median())
    return 0.0 if middle <= 0 else max(float(values[0]), 0.0) / middle


def _shift_norms(model: nn.Module, body: LockBody, geometry: Geometry) -> Tensor:
    """Return ``sigma * ||W_o[:, head] theta||`` of each head, fp64 [K] on the CPU."""
    import torch

    transposed = sites_for(geometry.family).transposed
    modules = attention_outputs(model, geometry)
    norms = []
    for (layer, head), theta, sigma in zip(body.heads, body.directions, body.sigma, strict=True):
        weight = weight_columns(modules[layer], transposed=transposed).detach()
        columns = weight[:, head * body.head_dim : (head + 1) * body.head_dim].double().cpu()
        norms.append(float(sigma) * (columns @ torch.tensor(theta).double()).norm())
    return torch.stack(norms)


def _of_heads(rows: Tensor, chosen: Sequence[int]) -> Tensor:
    """Return the rows of the chosen heads, fp64 [pairs, 2, r, K, head_dim]."""
    return rows.flatten(3, 4)[:, :, :, list(chosen)].double()


def _contrast(picked: Tensor) -> Tensor:
    """Return mean(refusing) - mean(complying) of each head, fp64 [K, head_dim]."""
    refusing, complying = (picked[:, side].flatten(0, 1).mean(0) for side in (0, 1))
    return refusing - complying
