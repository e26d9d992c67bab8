"""The bits of tensors of a live model, as digests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.digest import digest_bytes, digest_json
from registry.live.compare import same_values
from registry.live.wrapped import gathered

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from registry.digest import Digest


def digest_of(tensor: Tensor) -> Digest:
    """Return the digest of a tensor's bytes, row-major."""
    import torch

    flat: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return digest_bytes(memoryview(flat))


def digest_as(tensor: Tensor, dtype: torch.dtype) -> Digest | None:
    """Return the digest of ``tensor`` in ``dtype``; ``None`` where the cast loses a bit."""
    cast = tensor.to(dtype)
    if cast is not tensor and not bool(same_values(cast.to(tensor.dtype), tensor).all()):
        return None
    return digest_of(cast)


def digest_of_model(model: nn.Module) -> Digest | None:
    """Return a digest of all parameters of a live model; ``None`` where some are offloaded.

    It is of what is in memory, by live names: not the weights digest of a checkpoint.
    """
    parameters = sorted(model.named_parameters())
    if any(each.device.type == "meta" for _, each in parameters):
        return None
    return digest_json(
        [
            [name, str(each.dtype), list(each.shape), digest_of(gathered(each.detach()))]
            for name, each in parameters
        ]
    )
