"""Which tensor is what: the table of sites, one row per model family.

Owns the names of a family's modules and the config fields that change its computation. Refuses
families without a row. Families are rows, not classes: adding one is a row here and one tiny-model
test.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from registry.errors import UnsupportedArchitectureError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Sites:
    """The sites of one model family.

    Attributes:
        family: ``model_type`` of the config.
        layer: Name of decoder layer ``{layer}``, 0-based.
        attn_out: Output projection of attention, under the layer.
        query: Query projection, under the layer.
        key: Key projection, under the layer.
        value: Value projection, under the layer.
        embedding: Tensor of the input embedding.
        head: Tensor of the output head; absent from the file when tied.
        o_proj_has_bias: Config field that switches a bias of ``attn_out`` on in transformers, or
            ``None`` where the class never has one.
        transposed: Whether weights are stored [in_features, out_features] (Conv1D).
        recomputed: Endings of tensor names that old files store and every loader recomputes.
        defaults: Config fields that change the computation, with their value when absent.
            ``sliding_window`` among them says that the family has windows.
    """

    family: str
    layer: str
    attn_out: str
    query: str
    key: str
    value: str
    embedding: str
    head: str
    o_proj_has_bias: str | None
    transposed: bool
    recomputed: tuple[str, ...]
    defaults: Mapping[str, Any]

    def layer_prefix(self, layer: int) -> str:
        """Return the module name of decoder layer ``layer``."""
        return self.layer.format(layer=layer)

    def attn_out_module(self, layer: int) -> str:
        """Return the module name of the attention output projection of ``layer``."""
        return f"{self.layer_prefix(layer)}.{self.attn_out}"

    def attn_out_weight(self, layer: int) -> str:
        """Return the tensor name of the output projection's weight of ``layer``."""
        return f"{self.attn_out_module(layer)}.weight"

    def attn_out_bias(self, layer: int) -> str:
        """Return the tensor name of the output projection's bias of ``layer``."""
        return f"{self.attn_out_module(layer)}.bias"

    def layer_of(self, tensor_name: str) -> int | None:
        """Return the 0-based decoder layer of a tensor or module, ``None`` outside the layers."""
        before, after = self.layer.split("{layer}")
        match = re.match(rf"{re.escape(before)}(0|[1-9]\d{{0,4}}){re.escape(after)}\.", tensor_name)
        return None if match is None else int(match[1])

    def in_features(self, shape: tuple[int, ...]) -> int:
        """Return the input width of a weight of this ``shape``."""
        return shape[0 if self.transposed else 1]

    def out_features(self, shape: tuple[int, ...]) -> int:
        """Return the output width of a weight of this ``shape``."""
        return shape[1 if self.transposed else 0]


_LLAMA_LIKE: dict[str, Any] = {
    "layer": "model.layers.{layer}",
    "attn_out": "self_attn.o_proj",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "embedding": "model.embed_tokens.weight",
    "head": "lm_head.weight",
    "transposed": False,
    "recomputed": (".self_attn.rotary_emb.inv_freq",),
}

_ROWS = (
    Sites(
        family="llama",
        o_proj_has_bias="attention_bias",
        defaults=MappingProxyType(
            {
                "attention_bias": False,
                "hidden_act": "silu",
                "intermediate_size": 11008,
                "max_position_embeddings": 2048,
                "mlp_bias": False,
                "rms_norm_eps": 1e-6,
                "rope_theta": 10_000.0,
                "tie_word_embeddings": False,
                "vocab_size": 32_000,
            }
        ),
        **_LLAMA_LIKE,
    ),
    Sites(
        family="qwen2",
        o_proj_has_bias=None,
        defaults=MappingProxyType(
            {
                "hidden_act": "silu",
                "intermediate_size": 22016,
                "max_position_embeddings": 32_768,
                "max_window_layers": 28,
                "rms_norm_eps": 1e-6,
                "rope_theta": 10_000.0,
                "sliding_window": 4096,
                "tie_word_embeddings": False,
                "use_sliding_window": False,
                "vocab_size": 151_936,
            }
        ),
        **_LLAMA_LIKE,
    ),
)
SITES: Mapping[str, Sites] = MappingProxyType({row.family: row for row in _ROWS})
"""The table, by ``model_type``."""


def sites_for(model_type: str | None) -> Sites:
    """Return the row of a model family.

    Raises:
        UnsupportedArchitectureError: the table has no such row.
    """
    row = SITES.get(model_type) if isinstance(model_type, str) else None
    if row is None:
        got = "no model_type" if model_type is None else f"model_type {str(model_type)[:80]!r}"
        raise UnsupportedArchitectureError(
            f"expected one of {', '.join(sorted(SITES))}, got {got}.",
            hint="To support a family, add a row in registry/checkpoint/architecture.py.",
        )
    return row
