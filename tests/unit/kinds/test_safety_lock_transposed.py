"""Extraction on a GPT-2 with known heads: one projection for all three, weights stored transposed.

Coordinate 0 of an embedding is the word's level, + refusing and - complying. Queries and keys are
zero, so that attention is a plain mean. Only the planted heads' values read the level, along a
direction of their own; the twins of every refusing word differ from it in the level alone.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.families import HEAD_DIM, HEADS, family_model
from support.planted import COMPLYING, LEVELS, REFUSING, planted_pairs
from support.tiny_tokenizer import build_tokenizer

from registry.kinds.safety_lock.extract import extract

HIDDEN = HEADS * HEAD_DIM
PLANTED = {(0, 2): 3.0, (1, 0): -2.0, (1, 3): 1.5}
"""Layer and head, with the gain and sign at which it reads the level."""


@pytest.fixture(scope="module")
def planted():
    random = np.random.default_rng(0)
    tokenizer = build_tokenizer(LEVELS)
    model = family_model("gpt2", vocab_size=len(tokenizer), n_positions=256)
    table = random.standard_normal((len(tokenizer), HIDDEN))
    table[:, 0] = 0.0
    for refusing, complying in zip(REFUSING, COMPLYING, strict=True):
        rows = tokenizer.convert_tokens_to_ids([refusing, complying])
        table[rows[1]] = table[rows[0]]
        table[rows, 0] = (1.0, -1.0)
    weights = {"transformer.wte.weight": table, "transformer.wpe.weight": np.zeros((256, HIDDEN))}
    directions = {}
    for layer in (0, 1):
        fused = np.zeros((HIDDEN, 3 * HIDDEN))  # [in_features, queries | keys | values]
        for head in range(HEADS):
            columns = slice(2 * HIDDEN + head * HEAD_DIM, 2 * HIDDEN + (head + 1) * HEAD_DIM)
            fused[1:, columns] = 0.1 * random.standard_normal((HIDDEN - 1, HEAD_DIM))
            if (layer, head) in PLANTED:
                direction = random.standard_normal(HEAD_DIM)
                direction /= np.linalg.norm(direction)
                directions[layer, head] = np.sign(PLANTED[layer, head]) * direction
                fused[0, columns] = PLANTED[layer, head] * direction
                fused[1:, columns] *= 0.1
        prefix = f"transformer.h.{layer}."
        output = 0.01 * random.standard_normal((HIDDEN, HIDDEN))
        weights |= {
            f"{prefix}attn.c_attn.weight": fused,
            f"{prefix}attn.c_attn.bias": np.zeros(3 * HIDDEN),
            f"{prefix}attn.c_proj.weight": output,
            f"{prefix}mlp.c_proj.weight": np.zeros((4 * HIDDEN, HIDDEN)),
        }
        for norm in ("ln_1", "ln_2"):
            weights |= {f"{prefix}{norm}.weight": np.ones(HIDDEN)}
            weights |= {f"{prefix}{norm}.bias": np.zeros(HIDDEN)}
    with torch.no_grad():
        for name, value in weights.items():
            model.get_parameter(name).copy_(torch.tensor(value))
    return model, tokenizer, directions


def test_the_planted_heads_directions_and_signs_are_found(planted):
    model, tokenizer, directions = planted
    options = {"heads": 3, "answer_tokens": 5, "folds": 3, "repeats": 1}
    body = extract(model, tokenizer, planted_pairs(), seed=0, options=options).body
    assert set(body.heads) == set(PLANTED)
    for head, direction in zip(body.heads, body.directions, strict=True):
        assert float(direction @ directions[head]) > 0.99
    for layer, norm in zip(body.layers, body.shift_norms, strict=True):
        weight = model.transformer.h[layer].attn.c_proj.weight.detach().double().numpy()
        shift = sum(
            float(sigma) * direction.astype(float) @ weight[head * HEAD_DIM : (head + 1) * HEAD_DIM]
            for (at, head), direction, sigma in zip(
                body.heads, body.directions, body.sigma, strict=True
            )
            if at == layer
        )
        assert norm == pytest.approx(float(np.linalg.norm(shift)), rel=1e-5)
