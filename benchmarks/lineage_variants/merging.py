"""Merges of two fine-tunes, tensor by tensor, as the merging tools compute them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lineage_variants.weights import read_weights, write_weights

if TYPE_CHECKING:
    from pathlib import Path

    import torch

_PARALLEL = 1 - 1e-6


def merged(one: Path, two: Path, out: Path, *, weight: float, method: str) -> None:
    """Write ``weight`` of ``one`` with the rest of ``two`` in bf16.

    Args:
        one: Folder of the first fine-tune.
        two: Folder of the second.
        out: Folder to write.
        weight: Share of the first, 0..1.
        method: ``linear`` or ``slerp``.
    """
    ours, theirs = read_weights(one), read_weights(two)
    blend = {"linear": _linear, "slerp": _slerp}[method]
    tensors = {
        name: blend(ours[name].float(), theirs[name].float(), weight) for name in sorted(ours)
    }
    write_weights(tensors, out, one, dtype="bf16")


def _linear(one: torch.Tensor, two: torch.Tensor, weight: float) -> torch.Tensor:
    return weight * one + (1 - weight) * two


def _slerp(one: torch.Tensor, two: torch.Tensor, weight: float) -> torch.Tensor:
    import torch

    ours, theirs = one.double(), two.double()
    cosine = float((ours * theirs).sum() / (ours.norm() * theirs.norm()))
    if abs(cosine) > _PARALLEL:
        return _linear(one, two, weight)
    angle = torch.arccos(torch.tensor(cosine, dtype=torch.float64))
    left = float(torch.sin(weight * angle) / torch.sin(angle))
    right = float(torch.sin((1 - weight) * angle) / torch.sin(angle))
    return left * one + right * two
