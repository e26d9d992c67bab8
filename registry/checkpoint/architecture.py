"""Which tensor is what: the table of sites, one row per model family.

Owns the names of a family's modules and the config fields that change its computation. Refuses
families without a row. Families are rows, not classes: adding one is a row here and one tiny model
in the tests. Defaults are those of the family's config class in transformers.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from registry.checkpoint.sites import Regrouped, Sites, Windows, grouped_experts
from registry.errors import UnsupportedArchitectureError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["SITES", "Sites", "model_names", "sites_for"]

_LLAMA_LIKE: dict[str, Any] = {
    "layer": "model.layers.{layer}",
    "attn_out": "self_attn.o_proj",
    "mlp_out": "mlp.down_proj",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "embedding": "model.embed_tokens.weight",
    "head": "lm_head.weight",
    "transposed": False,
    "recomputed": (".self_attn.rotary_emb.inv_freq",),
}
_HEAD_NORMS = ("self_attn.q_norm", "self_attn.k_norm")
_POST_NORMS = ("post_attention_layernorm", "post_feedforward_layernorm")
_QWEN_WINDOWS = Windows(per_layer=True, switch="use_sliding_window", first="max_window_layers")
_QWEN_DEFAULTS: dict[str, Any] = {
    "hidden_act": "silu",
    "max_position_embeddings": 32_768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "sliding_window": 4096,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": 151_936,
}
_QWEN_DENSE = {"intermediate_size": 22016, "max_window_layers": 28, "num_key_value_heads": 32}
_GEMMA_DEFAULTS: dict[str, Any] = {
    "attention_bias": False,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "intermediate_size": 9216,
    "num_key_value_heads": 4,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-6,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
    "use_bidirectional_attention": False,
}

_ROWS = (
    Sites(
        family="llama",
        o_proj_has_bias="attention_bias",
        defaults={
            "attention_bias": False,
            "head_dim": None,
            "hidden_act": "silu",
            "intermediate_size": 11008,
            "max_position_embeddings": 2048,
            "mlp_bias": False,
            "num_key_value_heads": None,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10_000.0,
            "tie_word_embeddings": False,
            "vocab_size": 32_000,
        },
        **_LLAMA_LIKE,
    ),
    Sites(
        family="mistral",
        o_proj_has_bias=False,
        defaults={
            "head_dim": None,
            "hidden_act": "silu",
            "intermediate_size": 14336,
            "max_position_embeddings": 131_072,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10_000.0,
            "sliding_window": 4096,
            "tie_word_embeddings": False,
            "vocab_size": 32_000,
        },
        windows=Windows(),
        **_LLAMA_LIKE,
    ),
    Sites(
        family="mixtral",
        o_proj_has_bias=False,
        defaults={
            "head_dim": None,
            "hidden_act": "silu",
            "intermediate_size": 14336,
            "max_position_embeddings": 131_072,
            "num_experts_per_tok": 2,
            "num_key_value_heads": 8,
            "num_local_experts": 8,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1_000_000.0,
            "sliding_window": None,
            "tie_word_embeddings": False,
            "vocab_size": 32_000,
        },
        windows=Windows(),
        routers=("mlp.gate",),
        aliases=(("num_experts", "num_local_experts"),),
        regrouped=(
            Regrouped("block_sparse_moe.gate.weight", "mlp.gate.weight"),
            *grouped_experts("block_sparse_moe.experts", "w1", "w3", "w2"),
        ),
        **_LLAMA_LIKE | {"mlp_out": "block_sparse_moe.experts.{index}.w2"},
    ),
    Sites(
        family="qwen2",
        o_proj_has_bias=False,
        defaults=_QWEN_DEFAULTS | _QWEN_DENSE,
        windows=_QWEN_WINDOWS,
        **_LLAMA_LIKE,
    ),
    Sites(
        family="qwen3",
        o_proj_has_bias="attention_bias",
        defaults=_QWEN_DEFAULTS | _QWEN_DENSE | {"attention_bias": False, "head_dim": 128},
        windows=_QWEN_WINDOWS,
        head_norms=_HEAD_NORMS,
        **_LLAMA_LIKE,
    ),
    Sites(
        family="qwen3_moe",
        o_proj_has_bias="attention_bias",
        defaults=_QWEN_DEFAULTS
        | {
            "attention_bias": False,
            "decoder_sparse_step": 1,
            "intermediate_size": 6144,
            "mlp_only_layers": [],
            "moe_intermediate_size": 768,
            "norm_topk_prob": False,
            "num_experts_per_tok": 8,
            "num_key_value_heads": 4,
            "num_local_experts": 128,
        },
        windows=Windows(switch="use_sliding_window"),
        head_norms=_HEAD_NORMS,
        routers=("mlp.gate",),
        aliases=(("num_experts", "num_local_experts"),),
        regrouped=grouped_experts("mlp.experts", "gate_proj", "up_proj", "down_proj"),
        **_LLAMA_LIKE | {"mlp_out": "mlp.experts.{index}.down_proj"},
    ),
    Sites(
        family="gemma",
        o_proj_has_bias="attention_bias",
        defaults={
            "attention_bias": False,
            "head_dim": 256,
            "hidden_act": "gelu_pytorch_tanh",
            "intermediate_size": 24576,
            "max_position_embeddings": 8192,
            "num_key_value_heads": 16,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10_000.0,
            "tie_word_embeddings": True,
            "use_bidirectional_attention": False,
            "vocab_size": 256_000,
        },
        read_as=(("hidden_act", "gelu", "gelu_pytorch_tanh"),),
        **_LLAMA_LIKE,
    ),
    Sites(
        family="gemma2",
        o_proj_has_bias="attention_bias",
        defaults=_GEMMA_DEFAULTS
        | {
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
            "max_position_embeddings": 8192,
            "rope_theta": 10_000.0,
            "vocab_size": 256_000,
        },
        windows=Windows(per_layer=True, full_every=2),
        post_norms=_POST_NORMS,
        **_LLAMA_LIKE,
    ),
    Sites(
        family="gemma3_text",
        o_proj_has_bias="attention_bias",
        defaults=_GEMMA_DEFAULTS
        | {
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "max_position_embeddings": 131_072,
            "rope_local_base_freq": 10_000.0,
            "rope_theta": 1_000_000.0,
            "sliding_window_pattern": 6,
            "vocab_size": 262_208,
        },
        windows=Windows(per_layer=True, full_every="sliding_window_pattern"),
        head_norms=_HEAD_NORMS,
        post_norms=_POST_NORMS,
        **_LLAMA_LIKE,
    ),
    Sites(
        family="phi3",
        o_proj_has_bias=False,
        defaults={
            "hidden_act": "silu",
            "intermediate_size": 8192,
            "max_position_embeddings": 4096,
            "num_key_value_heads": None,
            "original_max_position_embeddings": 4096,
            "partial_rotary_factor": 1.0,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10_000.0,
            "sliding_window": None,
            "tie_word_embeddings": False,
            "vocab_size": 32_064,
        },
        windows=Windows(),
        fused=(("mlp.gate_up_proj", ("gate", "up")),),
        rope_types=(("su", "longrope"), ("yarn", "longrope")),
        **_LLAMA_LIKE | dict.fromkeys(("query", "key", "value"), "self_attn.qkv_proj"),
    ),
    Sites(
        family="gpt2",
        layer="transformer.h.{layer}",
        attn_out="attn.c_proj",
        mlp_out="mlp.c_proj",
        query="attn.c_attn",
        key="attn.c_attn",
        value="attn.c_attn",
        embedding="transformer.wte.weight",
        head="lm_head.weight",
        o_proj_has_bias=True,
        transposed=True,
        recomputed=(".attn.bias", ".attn.masked_bias"),
        defaults={
            "activation_function": "gelu_new",
            "add_cross_attention": False,
            "layer_norm_epsilon": 1e-5,
            "max_position_embeddings": 1024,
            "n_inner": None,
            "reorder_and_upcast_attn": False,
            "scale_attn_by_inverse_layer_idx": False,
            "scale_attn_weights": True,
            "tie_word_embeddings": True,
            "vocab_size": 50_257,
        },
        aliases=(
            ("n_embd", "hidden_size"),
            ("n_head", "num_attention_heads"),
            ("n_layer", "num_hidden_layers"),
            ("n_positions", "max_position_embeddings"),
        ),
        bare_prefix="transformer.",
    ),
)
SITES: Mapping[str, Sites] = MappingProxyType({row.family: row for row in _ROWS})
"""The table, by ``model_type``."""
_TEXT_MODELS = {"gemma3": "gemma3_text"}
"""Families of text and images, with the row of their text model."""


def sites_for(model_type: str | None) -> Sites:
    """Return the row of a model family.

    Raises:
        UnsupportedArchitectureError: the table has no such row.
    """
    row = SITES.get(model_type) if isinstance(model_type, str) else None
    if row is None:
        got = "no model_type" if model_type is None else f"model_type {str(model_type)[:80]!r}"
        hint = "To support a family, add a row in registry/checkpoint/architecture.py."
        text = _TEXT_MODELS.get(model_type) if isinstance(model_type, str) else None
        if text is not None:
            hint = f"Only text models are supported: save its text model by itself, as {text}."
        raise UnsupportedArchitectureError(
            f"expected one of {', '.join(sorted(SITES))}, got {got}.", hint=hint
        )
    return row


def model_names(stored: Iterable[str], model_type: Any) -> dict[str, str]:
    """Return ``Sites.model_names`` of a family's row; without a row, names are as they are stored.

    Raises:
        UnsafeFormatError: two stored names are one name in the model.
    """
    row = SITES.get(model_type) if isinstance(model_type, str) else None
    return {name: name for name in sorted(stored)} if row is None else row.model_names(stored)
