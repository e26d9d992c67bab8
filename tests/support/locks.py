"""Locks, bundles and tiny live models for tests: everything real, nothing extracted by default."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from support.planted import Planted, build_planted
from transformers import AutoConfig, AutoModelForCausalLM

from registry.artifact.bundle import Bundle, make_bundle
from registry.artifact.manifest import BaseIdentity, Manifest
from registry.checkpoint.fingerprint import fingerprint
from registry.checkpoint.reader import Checkpoint
from registry.kinds import parse_body
from registry.kinds.safety_lock.body import LockBody
from registry.measure.prompts import load_pairs

if TYPE_CHECKING:
    from pathlib import Path

    from registry.checkpoint.record import BaseRecord

CREATED = "2030-01-01T00:00:00Z"
SHAPES: dict[str, dict[str, Any]] = {
    # heads * head_dim = 64 = hidden_size; two query heads per kv head
    "grouped": {"model_type": "llama", "hidden_size": 64},
    # heads * head_dim = 64, hidden_size 48, as in Mistral Nemo
    "narrow": {"model_type": "llama", "hidden_size": 48, "head_dim": 16},
    # every projection has a bias of its own, o_proj too
    "biased": {"model_type": "llama", "hidden_size": 48, "head_dim": 16, "attention_bias": True},
    "qwen2": {"model_type": "qwen2", "hidden_size": 64},
}
"""Tiny models of two layers, four query heads and two kv heads."""


def tiny_model(shape: str, *, dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
    """Return a seeded model whose weights are large enough for every effect to be seen."""
    fields = {
        "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 96, "max_position_embeddings": 128,
        "initializer_range": 0.2, "tie_word_embeddings": False, **SHAPES[shape],
    }  # fmt: skip
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):  # made zero by the library: a bias of 0 shows nothing
                    parameter.copy_(0.3 * torch.randn_like(parameter))
    finally:
        torch.random.set_rng_state(state)
    return model


def make_lock(
    heads: tuple[tuple[int, int], ...] = ((0, 1), (0, 3), (1, 0)),
    *,
    head_dim: int = 16,
    alpha: float | None = 2.0,
    seed: int = 0,
) -> LockBody:
    """Return a lock of random unit directions with scales of about one."""
    random = np.random.default_rng(seed)
    directions = random.standard_normal((len(heads), head_dim))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return LockBody(
        heads=heads,
        directions=directions.astype(np.float32),
        sigma=(0.5 + random.random(len(heads))).astype(np.float32),
        head_dim=head_dim,
        alpha=alpha,
        alpha_range=None if alpha is None else (0.0, alpha),
        answer_tokens=5,
        probe={
            "method": "none", "folds": 1, "repeats": 1, "accuracy": [], "standard_error": [],
            "median_accuracy": 0.5,
        },
    )  # fmt: skip


def read_record(folder: Path) -> BaseRecord:
    """Return what a checkpoint folder is."""
    with Checkpoint.open(folder) as checkpoint:
        return fingerprint(checkpoint)


def draft_manifest(record: BaseRecord, lock: LockBody, **changes: Any) -> Manifest:
    """Return the manifest of a draft for the base of ``record``."""
    manifest = Manifest(
        kind="safety-lock",
        created=CREATED,
        base=BaseIdentity(
            name="tiny-base", weights=record.weights, config=record.config_digest,
            tokenizer=record.tokenizer, chat_template=record.chat_template,
        ),
        geometry=record.geometry.to_dict(),
        body=lock.to_manifest(),
        files={},
        provenance={"tool": {"safelatch": "test"}, "seed": 0, "data": []},
    )  # fmt: skip
    return replace(manifest, **changes)


def bundle_of(record: BaseRecord, lock: LockBody, **changes: Any) -> Bundle:
    """Return a self-consistent draft bundle, digests fresh."""
    manifest = draft_manifest(record, lock, **changes)
    return make_bundle(manifest, lock.to_tensors(), record.to_tensors())


def edited(bundle: Bundle, **changes: Any) -> Bundle:
    """Return a bundle with these fields of its body changed, digests fresh."""
    body = replace(parse_body(bundle), **changes)
    manifest = replace(bundle.manifest, body=body.to_manifest())
    return make_bundle(manifest, body.to_tensors(), bundle.base_tensors())


def fine_tuned(model: Any, *, relative: float = 0.01, seed: int = 7) -> Any:
    """Return a copy of ``model`` with noise of this relative norm in every matrix."""
    tuned = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.ndim < 2 or not parameter.any():
                continue
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise * (relative * parameter.norm() / noise.norm()))
    return tuned


def packaged_planted(*, seed: int = 0) -> Planted:
    """Return a planted model that speaks the words of the packaged preference pairs."""
    counts: dict[str, Counter[str]] = {"refusing": Counter(), "complying": Counter()}
    words: dict[str, float] = {}
    for pair in load_pairs().rows:
        words |= dict.fromkeys(pair.prompt.split(), 0.0)
        for side, counter in counts.items():
            counter.update(getattr(pair, side).split())
    for word in [*counts["refusing"], *counts["complying"]]:
        refusing, complying = counts["refusing"][word], counts["complying"][word]
        words[word] = (refusing - complying) / (refusing + complying)
    return build_planted(words, seed=seed)


def snapshot(model: Any) -> dict[str, bytes]:
    """Return the bytes of every parameter and buffer, those that ``state_dict`` hides included."""
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    return {
        name: value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()
        for name, value in tensors.items()
    }
