"""A base, a fine-tune of it and a stranger on disk, with a file of preference pairs."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch
from support.tiny_chat_model import build_chat_model
from support.tiny_tokenizer import build_tokenizer
from transformers.utils import logging

from registry.measure.prompts import load_pairs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    from registry.measure.prompts import Pair

PAIRS = 8
"""Pairs of split ``make`` in the file; it holds some of another split too."""
SMALL = ("--heads", 3, "--repeats", 1, "--answer-tokens", 3)
MEASURE = ("--limit", 2, "--max-new-tokens", 3, "--budget", 1, "--nll-budget", 100)
"""Options that make ``extract`` and ``calibrate`` quick, and every strength affordable."""
FEW = ("--answer-tokens", 4, "--limit", 60, "--alpha", 1.3)
"""Options that make the search for layers quick, in the model of ``layered``."""


@dataclass(frozen=True)
class World:
    """Folders of models, and a file of preference pairs."""

    folder: Path
    base: Path
    tuned: Path
    stranger: Path
    pairs: Path


def build_world(folder: Path) -> World:
    """Write the models and the pairs below ``folder``."""
    made = World(
        folder,
        base=folder / "models/base",
        tuned=folder / "models/tuned",
        stranger=folder / "models/stranger",
        pairs=folder / "pairs.jsonl",
    )
    rows = load_pairs().rows
    tokenizer = build_tokenizer(text for row in rows for text in (row.refusing, row.complying))
    logging.disable_progress_bar()
    model = _leaning(build_chat_model(tokenizer), tokenizer, rows)
    _save(model, tokenizer, made.base)
    _shake(model, 0.01)
    _save(model, tokenizer, made.tuned)
    _save(build_chat_model(tokenizer, seed=7), tokenizer, made.stranger)
    logging.enable_progress_bar()
    chosen = [row for row in rows if row.split == "make"][:PAIRS]
    chosen += [row for row in rows if row.split != "make"][:3]
    made.pairs.write_text("".join(f"{json.dumps(asdict(row))}\n" for row in chosen), "utf-8")
    return made


def _leaning(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, rows: Sequence[Pair]
) -> LlamaForCausalLM:
    """Return ``model`` with the words of refusals on one side of a plane, the others beyond."""
    refusing = Counter(word for row in rows for word in row.refusing.split())
    complying = Counter(word for row in rows for word in row.complying.split())
    embeddings = model.get_input_embeddings().weight
    side = torch.randn(embeddings.shape[1], generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        for word in refusing.keys() | complying.keys():
            lean = (refusing[word] - complying[word]) / (refusing[word] + complying[word])
            embeddings[tokenizer.convert_tokens_to_ids(word)] += lean * side
    return model


def _shake(model: LlamaForCausalLM, relative: float) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(relative * parameter.std() * noise)


def _save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
