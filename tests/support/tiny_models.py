"""Tiny seeded checkpoints on disk: two-layer Llama and Qwen2 with grouped heads, under 1 MB.

``make_tensors`` and ``write_checkpoint`` need numpy alone and take milliseconds;
``save_with_transformers`` writes the same architecture with the real library. ``FAMILIES`` has a
tiny config of every family in the table of sites; ``support.families`` makes models of them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Tensor:
    """The raw bytes of one tensor."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    @property
    def values(self) -> np.ndarray:
        if self.dtype == "BF16":
            wide = np.frombuffer(self.data, "<u2").astype(np.uint32) << 16
            return wide.view(np.float32).reshape(self.shape)
        kind = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I8": "i1"}[self.dtype]
        return np.frombuffer(self.data, kind).reshape(self.shape)

    def flip_bit(self, byte: int = 0) -> Tensor:
        data = bytearray(self.data)
        data[byte] ^= 1
        return replace(self, data=bytes(data))


def tensor(values: np.ndarray, dtype: str = "F32") -> Tensor:
    """Return ``values`` as a tensor; BF16 to nearest, ties to even."""
    if dtype == "BF16":
        wide = np.ascontiguousarray(values, "<f4").view(np.uint32)
        bits = ((wide + 0x7FFF + ((wide >> 16) & 1)) >> 16).astype("<u2")
        return Tensor(dtype, values.shape, bits.tobytes())
    kind = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I8": "i1"}[dtype]
    return Tensor(dtype, values.shape, values.astype(kind).tobytes())


def llama_config(**changes: Any) -> dict[str, Any]:
    """Return a config.json whose heads * head_dim (64) is not its hidden_size (48)."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": 96,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-05,
        "max_position_embeddings": 128,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "tie_word_embeddings": True,
    } | changes


def qwen2_config(**changes: Any) -> dict[str, Any]:
    """Return a config.json whose heads * head_dim is its hidden_size (64)."""
    config = llama_config() | {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": 64,
    }
    del config["head_dim"]
    return config | changes


_SMALL: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_QWEN: dict[str, Any] = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
_GEMMA: dict[str, Any] = {"query_pre_attn_scalar": 24, "sliding_window": 8}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": _SMALL,
    "mistral": _SMALL | {"sliding_window": 8},
    "mixtral": _SMALL | {"sliding_window": 8, "num_local_experts": 3},
    "qwen2": _SMALL | _QWEN,
    "qwen3": _SMALL | _QWEN,
    "qwen3_moe": _SMALL | {
        "use_sliding_window": True, "sliding_window": 8, "moe_intermediate_size": 24,
        "num_experts": 3, "num_experts_per_tok": 2,
    },
    "gemma": _SMALL,
    "gemma2": _SMALL | _GEMMA | {"final_logit_softcapping": 4.0},
    "gemma3_text": _SMALL | _GEMMA | {"num_hidden_layers": 3, "sliding_window_pattern": 2},
    "phi3": _SMALL | {"sliding_window": 8, "partial_rotary_factor": 0.5},
    "gpt2": {
        "vocab_size": 96, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128,
        "bos_token_id": 1, "eos_token_id": 2,
    },
}  # fmt: skip
"""Config fields of a tiny model of every family: grouped heads whose widths do not make up
``hidden_size``, and windows shorter than a test's prompt, wherever the family allows them."""


def tensor_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the parameters that transformers gives a model of this config."""
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or hidden // heads
    queries, keys = heads * head_dim, config["num_key_value_heads"] * head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
    }
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        block = {
            "input_layernorm.weight": (hidden,),
            "post_attention_layernorm.weight": (hidden,),
            "self_attn.q_proj.weight": (queries, hidden),
            "self_attn.k_proj.weight": (keys, hidden),
            "self_attn.v_proj.weight": (keys, hidden),
            "self_attn.o_proj.weight": (hidden, queries),
            "mlp.gate_proj.weight": (wide, hidden),
            "mlp.up_proj.weight": (wide, hidden),
            "mlp.down_proj.weight": (hidden, wide),
        }
        if config["model_type"] == "qwen2":
            block |= {
                "self_attn.q_proj.bias": (queries,),
                "self_attn.k_proj.bias": (keys,),
                "self_attn.v_proj.bias": (keys,),
            }
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in block.items()}
    return shapes


def make_tensors(config: dict[str, Any], *, seed: int = 0, dtype: str = "F32") -> dict[str, Tensor]:
    """Return random weights: matrices of deviation 0.02, norms about one."""
    random = np.random.default_rng(seed)
    made = {}
    for name, shape in sorted(tensor_shapes(config).items()):
        values = 0.02 * random.standard_normal(shape)
        made[name] = tensor(1 + values if "norm" in name else values, dtype)
    return made


def fine_tune(tensors: dict[str, Tensor], relative: float, *, seed: int = 1) -> dict[str, Tensor]:
    """Return ``tensors`` with noise of this relative Frobenius norm in each."""
    random = np.random.default_rng(seed)
    tuned = {}
    for name, item in sorted(tensors.items()):
        values = item.values.astype(np.float64)
        noise = random.standard_normal(item.shape)
        noise *= relative * np.linalg.norm(values) / np.linalg.norm(noise)
        tuned[name] = tensor(values + noise, item.dtype)
    return tuned


def write_file(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write ``tensors`` as a safetensors file; the library's low-level writer has no stable form."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    position = 0
    for name, item in tensors.items():
        offsets = [position, position + len(item.data)]
        header[name] = {"dtype": item.dtype, "shape": item.shape, "data_offsets": offsets}
        position = offsets[1]
    text = json.dumps(header).encode()
    data = b"".join(item.data for item in tensors.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def write_checkpoint(
    folder: Path,
    config: dict[str, Any],
    tensors: dict[str, Tensor] | None = None,
    *,
    file: str = "model.safetensors",
    metadata: dict[str, str] | None = None,
) -> Path:
    """Write a checkpoint of one file and return its folder; seed 0 when no tensors are given."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    write_file(folder / file, make_tensors(config) if tensors is None else tensors, metadata)
    return folder


def save_sharded(
    folder: Path,
    config: dict[str, Any],
    tensors: dict[str, Tensor] | None = None,
    *,
    shards: int = 3,
) -> Path:
    """Write a checkpoint of several files with an index and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tensors = make_tensors(config) if tensors is None else tensors
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        names = sorted(tensors)[shard::shards]
        write_file(folder / file, {name: tensors[name] for name in names})
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def save_with_transformers(
    folder: Path, config: dict[str, Any], *, seed: int = 0, dtype: str = "float32"
) -> Path:
    """Write a seeded model of this config with transformers and return its folder."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = {name: value for name, value in config.items() if name != "model_type"}
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(config["model_type"], **fields), dtype=getattr(torch, dtype)
        )
    finally:
        torch.random.set_rng_state(state)
    model.save_pretrained(folder)
    return folder
