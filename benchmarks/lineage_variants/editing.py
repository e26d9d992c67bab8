"""Edits without training: copies, casts, sparse and single edits, new tokens, other models."""

from __future__ import annotations

import random
import shutil
from typing import TYPE_CHECKING, Any

from lineage_variants.training import load_model
from lineage_variants.weights import (
    linears,
    matrices,
    read_config,
    read_weights,
    write_weights,
)

if TYPE_CHECKING:
    from pathlib import Path

    import torch


def copied(base: Path, out: Path) -> dict[str, Any]:
    """Copy weights and config byte by byte."""
    out.mkdir(parents=True)
    for path in (*base.glob("*.safetensors*"), base / "config.json"):
        shutil.copyfile(path, out / path.name)
    return {}


def resharded(base: Path, out: Path) -> dict[str, Any]:
    """Write the same tensors in three files."""
    write_weights(read_weights(base), out, base, shards=3)
    return {"shards": 3}


def cast(base: Path, out: Path, dtype: str) -> dict[str, Any]:
    """Write the same values in another dtype."""
    write_weights(read_weights(base), out, base, dtype=dtype)
    return {"stored": dtype}


def sparse(base: Path, out: Path, seed: int, share: float) -> dict[str, Any]:
    """Change ``share`` of the weights of all matrices by about one standard deviation each."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    tensors = read_weights(base)
    for name in matrices(tensors):
        value = tensors[name].float().reshape(-1)
        chosen = torch.rand(value.shape, generator=generator) < share
        step = torch.randn(int(chosen.sum()), generator=generator) * value.std()
        value[chosen] += step
        tensors[name] = value.reshape(tensors[name].shape).to(tensors[name].dtype)
    write_weights(tensors, out, base)
    return {"share": share}


def rank_one(base: Path, out: Path, seed: int) -> tuple[dict[str, Any], str]:
    """Edit one ``down_proj`` by a rank-one update as ROME does; return its name too."""
    import torch

    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    tensors = read_weights(base)
    name = rng.choice([name for name in linears(tensors) if name.endswith("down_proj.weight")])
    value = tensors[name].float()
    key = torch.randn(value.shape[1], generator=generator)
    change = torch.randn(value.shape[0], generator=generator)
    size = rng.uniform(0.02, 0.3)  # of the tensor's norm
    update = change[:, None] * key[None, :] / (change.norm() * key.norm())
    tensors[name] = (value + size * value.norm() * update).to(tensors[name].dtype)
    write_weights(tensors, out, base)
    return {"tensor": name, "size": size}, name


def one_bit(base: Path, out: Path, seed: int) -> tuple[dict[str, Any], str]:
    """Flip one bit of one element of one tensor; return its name too."""
    import torch

    rng = random.Random(seed)
    tensors = read_weights(base)
    name = rng.choice(sorted(tensors))
    whole = {2: torch.int16, 4: torch.int32}[tensors[name].element_size()]
    flat = tensors[name].view(whole).reshape(-1).numpy()  # the same memory
    element, bit = rng.randrange(len(flat)), rng.randrange(8 * flat.itemsize)
    before = float(tensors[name].reshape(-1)[element])
    flat.view(f"u{flat.itemsize}")[element] ^= 1 << bit
    after = float(tensors[name].reshape(-1)[element])
    write_weights(tensors, out, base)
    facts = {"tensor": name, "element": element, "bit": bit, "values": [before, after]}
    return facts, name


def extended(base: Path, out: Path, seed: int, tokens: str) -> dict[str, Any]:
    """Add tokens with ``resize_token_embeddings`` and save; nothing else is changed.

    Args:
        base: Folder of the base.
        out: Folder to write.
        seed: Decides about ``mean_resizing`` and, for ``pad``, how many tokens are added.
        tokens: ``1``, ``64`` or ``pad`` (to a multiple of 128).
    """
    import torch

    rng = random.Random(seed)
    torch.manual_seed(seed)
    model = load_model(base, "bfloat16")
    before, mean = model.config.vocab_size, rng.random() < 0.5
    added = rng.randint(2, 100) if tokens == "pad" else int(tokens)
    model.resize_token_embeddings(
        before + added,
        pad_to_multiple_of=128 if tokens == "pad" else None,
        mean_resizing=mean,
    )
    model.save_pretrained(out)
    return {
        "asked": added,
        "vocabulary": [before, model.get_input_embeddings().weight.shape[0]],
        "mean_resizing": mean,
    }


def redrawn(base: Path, out: Path, seed: int) -> dict[str, Any]:
    """Write a model of the same shapes: normal values of each tensor's own mean and spread."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    tensors = read_weights(base)
    for name, value in tensors.items():
        wide = value.float()
        spread = wide.std() if wide.numel() > 1 else 0.0
        drawn = torch.randn(wide.shape, generator=generator) * spread + wide.mean()
        tensors[name] = drawn.to(value.dtype)
    write_weights(tensors, out, base)
    return {}


def reordered(base: Path, out: Path) -> dict[str, Any]:
    """Write the base's own layers in reverse order."""
    last = int(read_config(base)["num_hidden_layers"]) - 1
    tensors = read_weights(base)
    turned: dict[str, torch.Tensor] = {}
    for name, value in tensors.items():
        head, _, rest = name.partition(".layers.")
        index, _, tail = rest.partition(".")
        turned[f"{head}.layers.{last - int(index)}.{tail}" if rest else name] = value
    write_weights(turned, out, base)
    return {}
