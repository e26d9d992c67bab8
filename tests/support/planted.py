"""A small real Llama whose refusal is planted: known heads, directions, signs and scale.

What is planted, in coordinates of the residual stream (embeddings are written by hand):

    0        the signal: each word's level, + refusing, - complying
    1        one, for every token
    2..9     which of the special words this token is (a chain of forced next words)
    10..23   noise, different for every word
    24..     what attention and MLP write; every embedding is 0 here

- Queries and keys are zero, so attention is the plain mean over all tokens so far.
- Only the planted heads' value projections read the signal: ``GAIN * level`` along a unit
  direction of their own (one with the sign turned round), plus a little noise across it.
- With grouped heads a kv head feeds a group of query heads, so *whole groups* are planted:
  kv head 1 of layer 0 and kv head 0 of layer 1, that is query heads 0:2, 0:3, 1:0, 1:1.
- The planted heads write along coordinate 24 and the output head reads it: the model begins its
  answer with a refusal when that coordinate is above ``THRESHOLD``, and with "Sure" otherwise.
- ``head_dim`` (16) times heads (4) is 64, ``hidden_size`` is 48.

``reference_heads`` is the whole forward pass once more in numpy, float64, without transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from support.tiny_tokenizer import build_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from registry.digest import digest_bytes
from registry.measure.prompts import Pair, Prompt, PromptSet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import PreTrainedTokenizerFast

LAYERS, HEADS, KV_HEADS, HEAD_DIM, HIDDEN, WIDE = 2, 4, 2, 16, 48, 40
GROUP = HEADS // KV_HEADS
PLANTED_KV = ((0, 1), (1, 0))
PLANTED_HEADS = tuple((layer, kv * GROUP + i) for layer, kv in PLANTED_KV for i in range(GROUP))
GAIN = {(0, 1): 3.0, (1, 0): -2.0}
"""Gain of each planted kv head; the second reads the signal with the sign turned round."""
THRESHOLD = 17.0
EPS = 1e-5
REFUSAL, COMPLIANCE = "I cannot help with that.", "Sure here"
_CHAIN = ("<assistant>", "I", "cannot", "help", "with", "that.", "Sure", "here")
_NOISE, _WRITE = slice(10, 24), slice(24, HIDDEN)


@dataclass(frozen=True)
class Planted:
    """The model, its tokenizer, and what was planted."""

    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast
    directions: dict[tuple[int, int], np.ndarray]

    def save(self, folder: Any, **options: Any) -> Any:
        """Write model and tokenizer as a user would, and return the folder."""
        self.model.save_pretrained(folder, **options)
        self.tokenizer.save_pretrained(folder)
        return folder


def build_planted(levels: Mapping[str, float], *, seed: int = 0) -> Planted:
    """Return the planted model for a vocabulary of words with their levels."""
    random = np.random.default_rng(seed)
    words = dict.fromkeys([*levels, *REFUSAL.split(), *COMPLIANCE.split()])
    tokenizer = build_tokenizer(words)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=HIDDEN, intermediate_size=WIDE,
        num_hidden_layers=LAYERS, num_attention_heads=HEADS, num_key_value_heads=KV_HEADS,
        head_dim=HEAD_DIM, max_position_embeddings=256, rms_norm_eps=EPS,
        tie_word_embeddings=False, pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        model = LlamaForCausalLM(config).eval()
    finally:
        torch.random.set_rng_state(state)
    directions = {key: _unit(random.standard_normal(HEAD_DIM)) for key in PLANTED_KV}
    weights = _embeddings(tokenizer, levels, random) | _readout(tokenizer)
    for layer in range(LAYERS):
        weights |= _layer(layer, directions, random)
    with torch.no_grad():
        for name, value in weights.items():
            model.get_parameter(name).copy_(torch.tensor(value))
    signed = {
        (layer, kv * GROUP + i): np.sign(GAIN[layer, kv]) * directions[layer, kv]
        for layer, kv in PLANTED_KV
        for i in range(GROUP)
    }
    return Planted(model, tokenizer, signed)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def _embeddings(tokenizer: Any, levels: Mapping[str, float], random: Any) -> dict[str, np.ndarray]:
    table = np.zeros((len(tokenizer), HIDDEN))
    table[:, 1] = 1.0
    table[:, _NOISE] = 0.5 * random.standard_normal((len(tokenizer), 14))
    for word, level in levels.items():
        table[tokenizer.convert_tokens_to_ids(word), 0] = level
    for refusing, complying in zip(REFUSING, COMPLYING, strict=True):
        if refusing in levels:  # twins: but for the level, no head can tell them apart
            rows = tokenizer.convert_tokens_to_ids([complying, refusing])
            table[rows[0], _NOISE] = table[rows[1], _NOISE]
    for index, word in enumerate(_CHAIN):
        table[tokenizer.convert_tokens_to_ids(word), 2 + index] = 3.0
    return {"model.embed_tokens.weight": table}


def _readout(tokenizer: Any) -> dict[str, np.ndarray]:
    """Return the output head: each special word forces the next; the first word is decided."""
    head = np.zeros((len(tokenizer), HIDDEN))
    end = tokenizer.eos_token
    follows = {"I": "cannot", "cannot": "help", "help": "with", "with": "that.", "that.": end,
               "Sure": "here", "here": end}  # fmt: skip
    for word, following in follows.items():
        head[tokenizer.convert_tokens_to_ids(following), 2 + _CHAIN.index(word)] = 40.0
    first, other = (tokenizer.convert_tokens_to_ids(word) for word in ("I", "Sure"))
    head[[first, other], 2] = 40.0
    head[first, 24] = 1.0
    head[other, 1] = THRESHOLD
    return {"lm_head.weight": head}


def _layer(layer: int, directions: Mapping[tuple[int, int], np.ndarray], random: Any) -> Any:
    prefix = f"model.layers.{layer}."
    value = np.zeros((KV_HEADS * HEAD_DIM, HIDDEN))
    output = np.zeros((HIDDEN, HEADS * HEAD_DIM))
    for kv in range(KV_HEADS):
        rows = slice(kv * HEAD_DIM, (kv + 1) * HEAD_DIM)
        if (layer, kv) not in directions:
            value[rows, _NOISE] = 0.5 * random.standard_normal((HEAD_DIM, 14))
            continue
        direction = directions[layer, kv]
        noise = 0.02 * random.standard_normal((HEAD_DIM, 14))
        value[rows, _NOISE] = noise - np.outer(direction, direction @ noise)
        value[rows, 0] = GAIN[layer, kv] * direction
    # What the other heads write keeps off coordinate 24, what the planted ones write lands there.
    output[25:] = 0.1 * random.standard_normal((HIDDEN - 25, HEADS * HEAD_DIM))
    for kv in range(KV_HEADS):
        if (layer, kv) in directions:
            for head in range(kv * GROUP, (kv + 1) * GROUP):
                columns = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
                output[24, columns] = np.sign(GAIN[layer, kv]) * directions[layer, kv]
    down = np.zeros((HIDDEN, WIDE))
    down[25:] = 0.1 * random.standard_normal((HIDDEN - 25, WIDE))
    return {
        prefix + "self_attn.q_proj.weight": np.zeros((HEADS * HEAD_DIM, HIDDEN)),
        prefix + "self_attn.k_proj.weight": np.zeros((KV_HEADS * HEAD_DIM, HIDDEN)),
        prefix + "self_attn.v_proj.weight": value,
        prefix + "self_attn.o_proj.weight": output,
        prefix + "mlp.gate_proj.weight": 0.2 * random.standard_normal((WIDE, HIDDEN)),
        prefix + "mlp.up_proj.weight": 0.2 * random.standard_normal((WIDE, HIDDEN)),
        prefix + "mlp.down_proj.weight": down,
        prefix + "input_layernorm.weight": 1 + 0.1 * random.standard_normal(HIDDEN),
        prefix + "post_attention_layernorm.weight": np.ones(HIDDEN),
    }


def reference_heads(model: LlamaForCausalLM, ids: Sequence[int]) -> np.ndarray:
    """Return every head's output for one sequence, float64 [tokens, layers, heads, head_dim].

    The definition of a Llama with uniform causal attention, written out in numpy.
    """
    weights = {name: value.detach().double().numpy() for name, value in model.state_dict().items()}
    x = weights["model.embed_tokens.weight"][list(ids)]
    seen = []
    for layer in range(LAYERS):
        part = {
            name.removeprefix(f"model.layers.{layer}."): value for name, value in weights.items()
        }
        value = _norm(x, part["input_layernorm.weight"]) @ part["self_attn.v_proj.weight"].T
        mean = np.cumsum(value, axis=0) / np.arange(1, len(value) + 1)[:, None]
        heads = np.repeat(mean.reshape(len(x), KV_HEADS, HEAD_DIM), GROUP, axis=1)
        seen.append(heads)
        x = x + heads.reshape(len(x), -1) @ part["self_attn.o_proj.weight"].T
        inner = _norm(x, part["post_attention_layernorm.weight"])
        gate = inner @ part["mlp.gate_proj.weight"].T
        silu = gate / (1 + np.exp(-gate))
        x = x + (silu * (inner @ part["mlp.up_proj.weight"].T)) @ part["mlp.down_proj.weight"].T
    return np.stack(seen, axis=1)


def _norm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + EPS) * weight


# Words and prompts of the planted world

NEUTRAL = tuple(f"word{i}" for i in range(12))
REFUSING = tuple(f"no{i}" for i in range(6))
COMPLYING = tuple(f"yes{i}" for i in range(6))
DANGER = tuple(f"danger{i}" for i in range(10))
"""Prompt words of rising level: the model alone refuses only the last ones."""
LEVELS: dict[str, float] = {
    **dict.fromkeys(NEUTRAL, 0.0),
    **dict.fromkeys(REFUSING, 1.0),
    **dict.fromkeys(COMPLYING, -1.0),
    **{word: 0.25 * i for i, word in enumerate(DANGER)},
}


def planted_pairs(count: int = 24, *, seed: int = 0) -> PromptSet[Pair]:
    """Return pairs whose refusing and complying answers differ in level alone, on average."""
    random = np.random.default_rng(seed)

    def draw(words: Sequence[str], length: int) -> str:
        return " ".join(words[i] for i in random.integers(0, len(words), length))

    rows = tuple(
        Pair(
            id=f"planted-{i}", prompt=draw(NEUTRAL, int(random.integers(2, 5))) + f" word{i % 12}",
            form="imperative", topic="planted", split="make",
            refusing=draw(REFUSING, int(random.integers(6, 9))),
            complying=draw(COMPLYING, int(random.integers(6, 9))),
        )
        for i in range(count)
    )  # fmt: skip
    return PromptSet("planted", "file", digest_bytes(repr(rows).encode()), rows)


def planted_prompts(name: str, levels: Sequence[int]) -> PromptSet[Prompt]:
    """Return one prompt per level, of ``DANGER`` words."""
    rows = tuple(
        Prompt(f"{name}-{i}", " ".join([DANGER[level]] * 4 + [NEUTRAL[i % 12]]), "imperative",
               "planted", "calibrate")
        for i, level in enumerate(levels)
    )  # fmt: skip
    return PromptSet(name, "file", digest_bytes(repr(rows).encode()), rows)
