"""Tiny live models of every family in the table of sites, and where their sites are, by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from support.tiny_models import FAMILIES
from transformers import AutoConfig, AutoModelForCausalLM

if TYPE_CHECKING:
    from torch import nn

HEADS, HEAD_DIM = 4, 16
PATHS = {"gpt2": "transformer.h.{layer}.attn.c_proj"}
"""Attention output projections, where they are not Llama's; written down here once more, so that a
wrong row in the table does not test itself."""


def family_config(family: str, **changes: Any) -> Any:
    """Return the transformers config of a tiny model."""
    return AutoConfig.for_model(family, **FAMILIES[family] | changes)


def family_model(family: str, *, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """Return a seeded model of the family's own class in eval mode, every parameter random.

    Weights are large, so that every effect shows; norms and biases are not what the class makes
    them, since a bias of zero shows nothing.
    """
    model = AutoModelForCausalLM.from_config(family_config(family, **changes)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = 0.2 * torch.randn(parameter.shape, generator=generator)
            is_scale = parameter.ndim == 1 and not name.endswith("bias")
            parameter.copy_(parameter + noise if is_scale else noise)
    return model.to(dtype)


def output_projection(model: nn.Module, family: str, layer: int) -> Any:
    """Return the attention output projection of ``layer``."""
    path = PATHS.get(family, "model.layers.{layer}.self_attn.o_proj")
    return model.get_submodule(path.format(layer=layer))
