"""A small real Llama whose refusal is carried by a few known weights, and pairs that ask for it.

In coordinates of the residual stream (embeddings are written by hand):

    0     danger of the token's word
    1     one, for every token
    2..   noise, different for every word, and what everything else writes
    -1    the push toward refusing: only the planted neurons write it, and the head reads it

Three neurons of the middle layer's MLP carry it: their gate reads coordinate 0, their up projection
coordinate 1, and their down projection writes the last one. All else is random and small. Prompts
end with a word of danger and answers are one word, so no other token has to be understood.

``logical`` splits the parameters of a model into logical matrices by hand, family by family, and
``sorted_out`` is the definition of the mask: plain autograd of the mean, and one sort of all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from support.tiny_tokenizer import build_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from registry.digest import digest_bytes
from registry.measure.conversation import answer_tokens, conversation_text
from registry.measure.prompts import Pair, PromptSet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerFast

HIDDEN, WIDE, LAYERS = 32, 40, 3
PLANTED_LAYER, NEURONS = 1, (3, 17, 29)
REFUSING, COMPLYING = "No", "Sure"
DANGER = tuple(f"danger{i}" for i in range(8))
NEUTRAL = tuple(f"word{i}" for i in range(8))
SPACED = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
"""A template that ends with the prompt's last word, and a blank."""


@dataclass(frozen=True)
class Planted:
    """The model, its tokenizer, and the weights that carry refusal: (row, column) by matrix."""

    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast
    truth: dict[str, tuple[tuple[int, int], ...]]


def build_tokens() -> PreTrainedTokenizerFast:
    """Return a tokenizer of the planted world's words."""
    return build_tokenizer((*DANGER, *NEUTRAL, REFUSING, COMPLYING), chat_template=SPACED)


def build_planted_mask(*, seed: int = 0) -> Planted:
    """Return a model in fp32 whose refusal nine known weights carry."""
    tokenizer = build_tokens()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=HIDDEN, intermediate_size=WIDE,
        num_hidden_layers=LAYERS, num_attention_heads=2, num_key_value_heads=1, head_dim=16,
        max_position_embeddings=64, tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng():
        model = LlamaForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(seed)
    prefix = f"model.layers.{PLANTED_LAYER}.mlp."
    truth = {
        f"{prefix}gate_proj.weight": tuple((neuron, 0) for neuron in NEURONS),
        f"{prefix}up_proj.weight": tuple((neuron, 1) for neuron in NEURONS),
        f"{prefix}down_proj.weight": tuple((HIDDEN - 1, neuron) for neuron in NEURONS),
    }
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter[-1] = 0
        _embed(model, tokenizer, generator)
        for name, places in truth.items():
            for place in places:
                model.get_parameter(name)[place] = 0.3
        no, sure = tokenizer.convert_tokens_to_ids([REFUSING, COMPLYING])
        model.lm_head.weight[no, -1], model.lm_head.weight[sure, -1] = 0.2, -0.2
    return Planted(model, tokenizer, truth)


def _embed(model: Any, tokenizer: Any, generator: torch.Generator) -> None:
    table = 0.2 * torch.randn(len(tokenizer), HIDDEN, generator=generator)
    table[:, 0], table[:, 1], table[:, -1] = 0.0, 1.0, 0.0
    for index, word in enumerate(DANGER):
        table[tokenizer.convert_tokens_to_ids(word), 0] = 1 + index / len(DANGER)
    model.model.embed_tokens.weight.copy_(table)


def mask_pairs(count: int = 8, *, seed: int = 0) -> PromptSet[Pair]:
    """Return pairs of the planted world: prompts that end with a word of danger."""
    random = np.random.default_rng(seed)
    rows = tuple(
        Pair(
            id=f"pair-{i}",
            prompt=" ".join([*(NEUTRAL[j] for j in random.integers(0, 8, 3)), DANGER[i % 8]]),
            form="imperative", topic="planted", split="make",
            refusing=REFUSING, complying=COMPLYING,
        )
        for i in range(count)
    )  # fmt: skip
    return PromptSet("planted", "file", digest_bytes(repr(rows).encode()), rows)


# The definition, without any of our code but the form of a conversation


def mean_score(model: Any, tokenizer: Any, pairs: Sequence[Pair]) -> torch.Tensor:
    """Return the mean refusal log-odds as one graph, in the dtype of the model."""
    scores = []
    for pair in pairs:
        for answer, sign in ((pair.refusing, 1), (pair.complying, -1)):
            ids, places = answer_tokens(
                tokenizer, *conversation_text(tokenizer, pair.prompt, answer)
            )
            likely = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            scores.append(sign * sum(likely[p - 1, ids[p]] for p in places) / len(places))
    return sum(scores) / len(pairs)


def logical(model: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the logical matrices of ``tensors`` (parameters, or their gradients) by name."""
    found: dict[str, torch.Tensor] = {}
    config = model.config
    for name, value in tensors.items():
        if "layers." not in name and ".h." not in name and name != "lm_head.weight":
            continue
        if name.endswith("qkv_proj.weight"):
            query, key = config.num_attention_heads * 16, config.num_key_value_heads * 16
            parts = value.split([query, key, key])
            found |= {f"{name}#{label}": part for label, part in zip("qkv", parts, strict=True)}
        elif name.endswith("c_attn.weight"):
            parts = value.chunk(3, dim=1)
            found |= {f"{name}#{label}": part for label, part in zip("qkv", parts, strict=True)}
        elif name.endswith("gate_up_proj.weight"):
            found |= dict(zip((f"{name}#gate", f"{name}#up"), value.chunk(2), strict=True))
        elif value.ndim == 3:
            for expert, matrix in enumerate(value):
                found |= _expert(name, expert, matrix, config.model_type)
        elif value.ndim == 2 and not name.endswith("mlp.gate.weight"):
            found[name] = value
    return dict(sorted(found.items()))


def _expert(name: str, expert: int, matrix: torch.Tensor, family: str) -> dict[str, torch.Tensor]:
    gate, up, down = ("gate_proj", "up_proj", "down_proj")
    prefix = f"{name.rpartition('.')[0]}.{expert}."
    if family == "mixtral":
        prefix = prefix.replace("mlp.experts", "block_sparse_moe.experts")
        gate, up, down = "w1", "w3", "w2"
    if name.endswith("down_proj"):
        return {f"{prefix}{down}.weight": matrix}
    first, second = matrix.chunk(2)
    return {f"{prefix}{gate}.weight": first, f"{prefix}{up}.weight": second}


def sorted_out(model: Any, tokenizer: Any, pairs: Sequence[Pair], k: int) -> dict[str, list[int]]:
    """Return the flat indices of the k largest ``sigma * |gradient|`` of each logical matrix."""
    weights = logical(model, dict(model.named_parameters()))
    model.zero_grad()
    mean_score(model, tokenizer, pairs).backward()
    slopes = logical(
        model,
        {
            name: torch.zeros_like(value) if value.grad is None else value.grad
            for name, value in model.named_parameters()
        },
    )
    model.zero_grad()
    impact = {
        name: (value.std(correction=0) * slopes[name].abs()).detach().reshape(-1)
        for name, value in weights.items()
    }
    scores = torch.cat(list(impact.values()))
    best = torch.argsort(scores, descending=True, stable=True)[:k]
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    chosen[best] = True
    parts = chosen.split([value.numel() for value in impact.values()])
    return {
        name: part.nonzero().reshape(-1).tolist() for name, part in zip(impact, parts, strict=True)
    }
