"""Abliteration: a measured direction is removed from what writes to the residual stream.

The direction is the mean difference of the residual stream at the last token between packaged
harmful and harmless prompts, as the tools that do this measure it.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from lineage_variants.training import load_model, load_tokenizer
from lineage_variants.weights import read_weights, write_weights
from registry.measure.prompts import load_prompts

if TYPE_CHECKING:
    from pathlib import Path

    import torch

_PROMPTS = 32
_WRITERS = ("self_attn.o_proj.weight", "mlp.down_proj.weight")


def abliterated(
    base: Path,
    out: Path,
    seed: int,
    *,
    start: dict[str, torch.Tensor] | None = None,
    measured_on: Path | None = None,
    factor: float = 1.0,
    only_attention: bool = False,
    per_layer: bool = False,
) -> dict[str, Any]:
    """Write a copy in bf16 with the direction removed.

    Args:
        base: Folder of the base.
        out: Folder to write.
        seed: Of the prompts, the layer measured, and whether the embedding is changed too.
        start: Weights to change, the base's by default.
        measured_on: Folder of the model whose direction it is, the base by default.
        factor: How much of the direction is removed.
        only_attention: Whether only ``o_proj`` is changed.
        per_layer: Whether each layer has a direction and a factor of its own, as heretic does.
    """
    rng = random.Random(seed)
    directions = _directions(base, measured_on or base, rng)
    layers = len(directions) - 1
    middle = round(layers * rng.uniform(0.4, 0.7))
    with_embeddings = not only_attention and not per_layer and rng.random() < 0.4
    factors = _kernel(layers, rng) if per_layer else [factor] * layers
    writers = _WRITERS[:1] if only_attention else _WRITERS
    tensors = start if start is not None else read_weights(base)
    for index, weight in enumerate(factors):
        along = directions[index + 1] if per_layer else directions[middle]
        for writer in writers:
            name = f"model.layers.{index}.{writer}"
            if weight:
                tensors[name] = _removed(tensors[name], along, weight)
    if with_embeddings:
        name = "model.embed_tokens.weight"
        tensors[name] = _removed(tensors[name].T, directions[middle], factor).T
    write_weights(tensors, out, base, dtype="bf16")
    return {
        "measured_at": "each layer" if per_layer else middle,
        "factors": [round(value, 3) for value in factors] if per_layer else factor,
        "embeddings": with_embeddings,
        "writers": list(writers),
    }


def _kernel(layers: int, rng: random.Random) -> list[float]:
    """Return heretic's weights: largest at one layer, falling linearly, none beyond a distance."""
    highest, lowest = rng.uniform(0.8, 1.5), rng.uniform(0.0, 1.0)
    centre, reach = rng.uniform(0.6, 1.0) * (layers - 1), rng.uniform(0.3, 0.6) * (layers - 1)
    found = []
    for index in range(layers):
        far = abs(index - centre) / reach
        found.append(0.0 if far > 1 else highest * (1 - far * (1 - lowest)))
    return found


def _removed(matrix: torch.Tensor, along: torch.Tensor, factor: float) -> torch.Tensor:
    """Return ``W - factor v v^T W`` in W's dtype; computed in fp32."""
    wide = matrix.float()
    return (wide - factor * along[:, None] * (along @ wide)[None, :]).to(matrix.dtype)


def _directions(base: Path, folder: Path, rng: random.Random) -> list[torch.Tensor]:
    """Return one unit vector for the residual stream before and after each layer."""
    import torch

    chosen = {
        name: rng.sample(list(load_prompts(name).split("make").texts), _PROMPTS)
        for name in ("harmful", "harmless")
    }
    seen = _SEEN if folder == base else {}
    _look(base, folder, [*chosen["harmful"], *chosen["harmless"]], seen)
    means = {
        name: torch.stack([seen[folder, prompt] for prompt in prompts]).mean(0)
        for name, prompts in chosen.items()
    }
    return [row / row.norm() for row in means["harmful"] - means["harmless"]]


_SEEN: dict[tuple[Path, str], torch.Tensor] = {}
"""The base's residual stream at the last token, [layers + 1, width], by folder and prompt."""


def _look(
    base: Path, folder: Path, prompts: list[str], seen: dict[tuple[Path, str], torch.Tensor]
) -> None:
    """Run the model on the prompts that it has not seen."""
    import torch

    missing = [prompt for prompt in prompts if (folder, prompt) not in seen]
    if not missing:
        return
    tokenizer, model = load_tokenizer(base), load_model(folder, "float32").eval()
    for prompt in missing:
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        with torch.no_grad():
            states = model(**ids, output_hidden_states=True).hidden_states
        seen[folder, prompt] = torch.stack([state[0, -1] for state in states])
