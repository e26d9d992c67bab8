"""LoRA folders written by hand, as PEFT writes them; numpy alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from support.tiny_models import Tensor, tensor, write_file

if TYPE_CHECKING:
    from pathlib import Path

PREFIX = "base_model.model."
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
Q0 = "model.layers.0.self_attn.q_proj"
DOWN1 = "model.layers.1.mlp.down_proj"
EMBEDDING = "model.embed_tokens"


def lora_config(**changes: Any) -> dict[str, Any]:
    """Return an ``adapter_config.json`` of rank 2 and scale 2, with what PEFT leaves off."""
    return {
        "alora_invocation_tokens": None,
        "alpha_pattern": {},
        "base_model_name_or_path": "acme/tiny",
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "layer_replication": None,
        "loftq_config": {},
        "lora_alpha": 4,
        "lora_bias": False,
        "megatron_core": "megatron.core",
        "modules_to_save": None,
        "peft_type": "LORA",
        "peft_version": "0.21.2",
        "qalora_group_size": 16,
        "r": 2,
        "rank_pattern": {},
        "revision": None,
        "target_modules": ["down_proj", "embed_tokens", "lm_head", "o_proj", "q_proj"],
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    } | changes


def factors(
    module: str, outputs: int, inputs: int, *, rank: int = 2, seed: int = 0, size: float = 0.05
) -> dict[str, Tensor]:
    """Return seeded factors B and A of a linear module, under their stored names."""
    random = np.random.default_rng(seed)
    return {
        f"{PREFIX}{module}.lora_A.weight": tensor(size * random.standard_normal((rank, inputs))),
        f"{PREFIX}{module}.lora_B.weight": tensor(size * random.standard_normal((outputs, rank))),
    }


def product(tensors: dict[str, Tensor], module: str) -> np.ndarray:
    """Return B @ A of a linear module in float64, not scaled."""
    b, a = (tensors[f"{PREFIX}{module}.lora_{letter}.weight"].values for letter in "BA")
    return b.astype(np.float64) @ a.astype(np.float64)


def write_adapter(
    folder: Path, tensors: dict[str, Tensor], config: dict[str, Any] | None = None
) -> Path:
    """Write an adapter and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(lora_config() if config is None else config))
    write_file(folder / WEIGHTS, dict(sorted(tensors.items())), {"format": "pt"})
    return folder
