"""Quantised copies put back into ordinary floats, by the libraries people use for it.

int8 and nf4 by bitsandbytes on the CPU, GGUF's block formats by the gguf package.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from lineage_variants.weights import DTYPES, linears, matrices, read_weights, write_weights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch

_BLOCK = 64
GGUF = ("Q8_0", "Q4_0", "Q5_0", "Q4_1", "Q5_1")


def quantised(base: Path, out: Path, seed: int, scheme: str, stored: str) -> dict[str, Any]:
    """Write a copy whose linear layers went through ``scheme``; embeddings by the seed.

    Args:
        base: Folder of the base.
        out: Folder to write.
        seed: Decides whether the embedding is quantised too, and nf4's nested scales.
        scheme: ``int8``, ``nf4`` or one of ``GGUF``.
        stored: dtype of the files.
    """
    import torch

    rng = random.Random(seed)
    with_embeddings, nested = rng.random() < 0.5, rng.random() < 0.5
    through: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "int8": _int8,
        "nf4": lambda value: _nf4(value, nested=nested),
    }
    change = through.get(scheme) or (lambda value: _gguf(value, scheme))
    tensors = read_weights(base)
    names = matrices(tensors) if with_embeddings else linears(tensors)
    changed = 0
    for name in names:
        made = change(tensors[name]).to(getattr(torch, DTYPES[stored]))
        changed += not bool((made == tensors[name]).all())
        tensors[name] = made
    write_weights(tensors, out, base, dtype=stored)
    facts: dict[str, Any] = {
        "scheme": scheme,
        "stored": stored,
        "embeddings": with_embeddings,
        "matrices": len(names),
        "matrices_changed": changed,
    }
    if scheme == "nf4":
        facts["nested"] = nested
    return facts


def _int8(value: torch.Tensor) -> torch.Tensor:
    from bitsandbytes import functional

    codes, scales, _ = functional.int8_vectorwise_quant(value.half())
    return functional.int8_vectorwise_dequant(codes, scales)


def _nf4(value: torch.Tensor, *, nested: bool) -> torch.Tensor:
    from bitsandbytes import functional

    codes, state = functional.quantize_4bit(
        value, blocksize=_BLOCK, quant_type="nf4", compress_statistics=nested
    )
    return functional.dequantize_4bit(codes, state)


def _gguf(value: torch.Tensor, scheme: str) -> torch.Tensor:
    import gguf
    import torch

    kind = gguf.GGMLQuantizationType[scheme]
    codes = gguf.quants.quantize(value.float().numpy(), kind)
    return torch.from_numpy(gguf.quants.dequantize(codes, kind).copy())
