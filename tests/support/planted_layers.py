"""Small real Llamas whose refusal is carried by a known block of layers.

The prompts are the packaged ones, so the words are; what each word's danger is was solved for: the
mean danger of a prompt's tokens is about 1 for a harmful prompt, 0 for a harmless one, and spread
evenly over ``SPREAD`` for those that only sound harmful. In coordinates of the residual stream:

    0        danger of the token's word
    1        one, for every token
    2..5     which word of the answer this token is (each forces the next)
    6..29    noise, different for every word
    30       fills every embedding up to one length, so that norms weigh words alike
    31       what the block writes: the push toward refusing
    32..     what the other layers write, from the noise

- Queries and keys are zero: attention is the mean over the tokens so far. Each layer of the block
  adds an equal share of (mean danger) to coordinate 31 of the last token, so a prompt's push grows
  with the layers of the block that it went through.
- The model begins with "I cannot help" where coordinate 31 is above a threshold and with "Sure"
  otherwise. The threshold is measured on the finished model: ``REFUSED`` of the prompts that only
  sound harmful are above it.
- All attention and all MLPs write noise too, none of it into coordinate 31.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from support.tiny_tokenizer import SPECIALS, TEMPLATE, build_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from registry.measure.conversation import prompt_text, token_ids
from registry.measure.prompts import load_prompts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from registry.measure.prompts import Prompt, PromptSet

HIDDEN, WIDE, HEADS, HEAD_DIM = 64, 32, 2, 16
SPREAD = (0.4, 1.0)
REFUSED = 0.4
BARE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
"""A template that ends with the prompt's last word: nothing has to be carried to be known there."""
_CHAIN = ("I", "cannot", "help", "Sure")
_NOISE, _FILL, _PUSH, _WRITE = slice(6, 30), 30, 31, slice(32, HIDDEN)
_LENGTH = 8.0


@dataclass(frozen=True)
class Planted:
    """The model, its tokenizer, and the over-rejection prompts."""

    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast
    scary: PromptSet[Prompt]


def build_planted_layers(
    block: range,
    *,
    layers: int = 10,
    refused: float = REFUSED,
    from_embedding: bool = False,
    by_form: bool = False,
    seed: int = 0,
) -> Planted:
    """Return a model whose layers of ``block``, and no others, push toward refusing.

    Args:
        block: The layers; empty for a model in which none does.
        layers: Number of decoder layers.
        refused: Share of the scary prompts that are refused; 0 for a model that never refuses.
        from_embedding: The head reads the danger of the last word itself.
        by_form: Danger is the prompt's form alone: 1 for an imperative, 0 for a question.
        seed: Seed of all noise.
    """
    random = np.random.default_rng(seed)
    tokenizer = _tokenizer(BARE if from_embedding else TEMPLATE)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=HIDDEN, intermediate_size=WIDE,
        num_hidden_layers=layers, num_attention_heads=HEADS, num_key_value_heads=HEADS,
        head_dim=HEAD_DIM, max_position_embeddings=256, tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng():
        model = LlamaForCausalLM(config).eval()
    levels = random.uniform(-1, 1, len(tokenizer)) if from_embedding else _levels(by_form)
    weights = _embeddings(tokenizer, levels, random)
    for layer in range(layers):
        width = len(block) if layer in block else None
        weights |= _layer(f"model.layers.{layer}.", width, random)
    with torch.no_grad():
        for name, value in weights.items():
            model.get_parameter(name).copy_(torch.tensor(value))
    scary = load_prompts("scary").split("make", "calibrate")
    read = 0 if from_embedding else _PUSH
    with torch.no_grad():
        model.lm_head.weight.copy_(torch.tensor(_readout(tokenizer, read, 0.0)))
        threshold = _threshold(model, tokenizer, scary, read, refused)
        model.lm_head.weight.copy_(torch.tensor(_readout(tokenizer, read, threshold)))
    return Planted(model, tokenizer, scary)


@cache
def _words() -> tuple[str, ...]:
    sets = [load_prompts(name) for name in ("harmful", "harmless", "scary")]
    return tuple(dict.fromkeys(w for rows in sets for text in rows.texts for w in text.split()))


def _tokenizer(template: str) -> PreTrainedTokenizerFast:
    return build_tokenizer([*_CHAIN, *_words()], chat_template=template)


@cache
def _levels(by_form: bool) -> np.ndarray:
    """Return each token's danger: the smallest that gives every prompt its mean danger."""
    tokenizer = _tokenizer(TEMPLATE)
    random = np.random.default_rng(7)
    rows, wanted = [], []
    for name in ("harmful", "harmless", "scary"):
        prompts = load_prompts(name).rows
        means = random.permutation(np.linspace(*SPREAD, len(prompts)))
        if name != "scary":
            means = float(name == "harmful") + 0.1 * random.standard_normal(len(prompts))
        if by_form:
            means = [float(prompt.form == "imperative") for prompt in prompts]
        for prompt, mean in zip(prompts, means, strict=True):
            ids = token_ids(tokenizer, prompt_text(tokenizer, prompt.prompt))
            rows.append(np.bincount(ids, minlength=len(tokenizer)) / len(ids))
            wanted.append(mean)
    matrix = np.array(rows)
    matrix[:, : len(SPECIALS)] = 0.0
    ridge = 1e-6 * np.eye(len(matrix))
    found: np.ndarray = matrix.T @ np.linalg.solve(matrix @ matrix.T + ridge, np.array(wanted))
    return 4 * found / np.abs(found).max()


def _embeddings(tokenizer: Any, levels: np.ndarray, random: Any) -> dict[str, np.ndarray]:
    table = np.zeros((len(tokenizer), HIDDEN))
    table[:, 0] = levels
    table[:, 1] = 1.0
    table[:, _NOISE] = 0.5 * random.standard_normal((len(tokenizer), 24))
    for index, word in enumerate(_CHAIN):
        row = tokenizer.convert_tokens_to_ids(word)
        table[row, 0] = 0.0
        table[row, 2 + index] = 4.0
    table[:, _FILL] = np.sqrt(_LENGTH**2 - (table**2).sum(1))
    return {"model.embed_tokens.weight": table}


def _layer(prefix: str, width: int | None, random: Any) -> dict[str, np.ndarray]:
    """Return the weights of a layer: one of ``width`` that push, or one that does not."""
    value = np.zeros((HEADS * HEAD_DIM, HIDDEN))
    output = np.zeros((HIDDEN, HEADS * HEAD_DIM))
    value[1:, _NOISE] = 0.3 * random.standard_normal((HEADS * HEAD_DIM - 1, 24))
    output[_WRITE, 1:] = 0.05 * random.standard_normal((HIDDEN - 32, HEADS * HEAD_DIM - 1))
    if width is not None:
        value[0, 0] = 2.0 / width
        output[_PUSH, 0] = 1.0
    down = np.zeros((HIDDEN, WIDE))
    down[_WRITE] = 0.015 * random.standard_normal((HIDDEN - 32, WIDE))
    zero = np.zeros((HEADS * HEAD_DIM, HIDDEN))
    return {
        prefix + "self_attn.q_proj.weight": zero,
        prefix + "self_attn.k_proj.weight": zero,
        prefix + "self_attn.v_proj.weight": value,
        prefix + "self_attn.o_proj.weight": output,
        prefix + "mlp.gate_proj.weight": 0.2 * random.standard_normal((WIDE, HIDDEN)),
        prefix + "mlp.up_proj.weight": 0.2 * random.standard_normal((WIDE, HIDDEN)),
        prefix + "mlp.down_proj.weight": down,
        prefix + "input_layernorm.weight": np.ones(HIDDEN),
        prefix + "post_attention_layernorm.weight": np.ones(HIDDEN),
    }


def _readout(tokenizer: Any, read: int, threshold: float) -> np.ndarray:
    """Return the output head: which word begins is decided, each of the chain forces the next."""
    head = np.zeros((len(tokenizer), HIDDEN))
    ids = dict(zip(_CHAIN, tokenizer.convert_tokens_to_ids(list(_CHAIN)), strict=True))
    end = tokenizer.eos_token_id
    follows = {"I": ids["cannot"], "cannot": ids["help"], "help": end, "Sure": end}
    for word, following in follows.items():
        head[following, 2 + _CHAIN.index(word)] = 100.0
    head[[ids["I"], ids["Sure"]], 1] = 50.0  # before any other word
    head[ids["I"], read] = 10.0
    head[ids["Sure"], 1] += 10.0 * threshold
    return head


def _threshold(model: Any, tokenizer: Any, scary: Any, read: int, refused: float) -> float:
    """Return what coordinate ``read`` over coordinate 1 is above for that share of prompts."""
    if refused == 0:
        return 1e3
    values = []
    for prompt in scary.texts:
        ids = torch.tensor([token_ids(tokenizer, prompt_text(tokenizer, prompt))])
        last = model.model(ids).last_hidden_state[0, -1]
        values.append(float(last[read] / last[1]))
    return float(np.quantile(values, 1 - refused))
