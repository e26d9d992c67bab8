"""Planted truth: what ``extract`` must find in a model whose refusal was put there by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.locks import snapshot
from support.planted import LEVELS, PLANTED_HEADS, build_planted, planted_pairs, reference_heads

from registry.errors import NonFiniteResultError, UsageError
from registry.kinds.safety_lock._activations import head_rows
from registry.kinds.safety_lock._directions import directions_and_scales
from registry.kinds.safety_lock._probe import ProbeScores, score_heads
from registry.kinds.safety_lock.extract import extract
from registry.live.sites import model_geometry
from registry.measure.conversation import answer_tokens, conversation_text

R = 5
OPTIONS = {"heads": len(PLANTED_HEADS), "answer_tokens": R, "folds": 5, "repeats": 2}


@pytest.fixture(scope="module")
def planted():
    return build_planted(LEVELS)


@pytest.fixture(scope="module")
def pairs():
    return planted_pairs()


@pytest.fixture(scope="module")
def extraction(planted, pairs):
    return extract(planted.model, planted.tokenizer, pairs, seed=3, options=OPTIONS)


@pytest.fixture(scope="module")
def reference(planted, pairs):
    """The rows by the definition: numpy, float64 [pairs, 2, r, layers, heads, head_dim]."""
    rows = []
    for pair in pairs.rows:
        for answer in (pair.refusing, pair.complying):
            text = conversation_text(planted.tokenizer, pair.prompt, answer)
            ids, places = answer_tokens(planted.tokenizer, *text)
            # the words of the answer are its tokens: nothing of the template is read
            words = planted.tokenizer.convert_ids_to_tokens([ids[place] for place in places])
            assert words == answer.split()
            rows.append(reference_heads(planted.model, ids)[places[-R:]])
    return np.stack(rows).reshape(len(pairs), 2, R, 2, 4, 16)


def test_the_planted_heads_are_chosen_and_no_other(extraction):
    assert sorted(extraction.body.heads) == sorted(PLANTED_HEADS)
    assert min(extraction.body.probe["accuracy"]) == 1.0
    assert extraction.body.probe["median_accuracy"] < 0.75


def test_another_seed_of_the_folds_finds_the_same_heads(planted, pairs, extraction):
    other = extract(planted.model, planted.tokenizer, pairs, seed=99, options=OPTIONS)
    assert sorted(other.body.heads) == sorted(PLANTED_HEADS)
    by_head = dict(zip(other.body.heads, other.body.directions, strict=True))
    for head, direction in zip(extraction.body.heads, extraction.body.directions, strict=True):
        assert by_head[head].tobytes() == direction.tobytes()


def test_the_same_seed_gives_the_same_bytes(planted, pairs, extraction):
    again = extract(planted.model, planted.tokenizer, pairs, seed=3, options=OPTIONS)
    assert again.body.to_manifest() == extraction.body.to_manifest()
    for name, array in extraction.body.to_tensors().items():
        assert again.body.to_tensors()[name].tobytes() == array.tobytes()


def test_directions_are_the_planted_ones_with_their_sign(planted, extraction):
    for head, direction in zip(extraction.body.heads, extraction.body.directions, strict=True):
        assert float(direction @ planted.directions[head]) > 0.999
        assert abs(float(np.linalg.norm(direction)) - 1) < 1e-6


def test_the_activations_are_those_of_the_definition(planted, pairs, reference):
    geometry = model_geometry(planted.model)
    rows, used = head_rows(planted.model, planted.tokenizer, pairs.rows, geometry, answer_tokens=R)
    assert used == [pair.id for pair in pairs.rows]
    assert float(np.abs(rows.numpy() - reference).max()) < 1e-5


def test_sigma_is_the_population_deviation_of_both_classes_together(extraction, reference):
    for (layer, head), direction, sigma in zip(
        extraction.body.heads, extraction.body.directions, extraction.body.sigma, strict=True
    ):
        rows = reference[:, :, :, layer, head]
        theta = rows[:, 0].mean((0, 1)) - rows[:, 1].mean((0, 1))
        theta /= np.linalg.norm(theta)
        projections = (rows @ theta).reshape(-1)
        assert len(projections) == 24 * 2 * R
        expected = np.sqrt(((projections - projections.mean()) ** 2).mean())
        assert float(sigma) == pytest.approx(expected, rel=1e-4)
        assert float(direction @ theta) > 1 - 1e-6


def test_a_base_in_bf16_gives_the_same_heads_and_directions_within_its_precision(planted, pairs):
    half = build_planted(LEVELS).model.to(torch.bfloat16)
    body = extract(half, planted.tokenizer, pairs, seed=3, options=OPTIONS).body
    assert sorted(body.heads) == sorted(PLANTED_HEADS)
    for head, direction in zip(body.heads, body.directions, strict=True):
        assert float(direction @ planted.directions[head]) > 0.999


def test_extraction_leaves_the_model_as_it_was(planted, pairs):
    planted.model.train()
    planted.model.model.layers[1].eval()
    before = snapshot(planted.model)
    extract(planted.model, planted.tokenizer, pairs, seed=3, options=OPTIONS)
    assert snapshot(planted.model) == before
    assert planted.model.training
    assert not planted.model.model.layers[1].training
    assert not any(
        layer.self_attn.o_proj._forward_pre_hooks for layer in planted.model.model.layers
    )
    planted.model.eval()


def test_pairs_with_an_answer_that_is_too_short_are_left_out_and_counted(planted, pairs):
    short = replace(pairs.rows[0], id="short", refusing="no1 no2")
    mixed = replace(pairs, rows=(short, *pairs.rows[1:]))
    made = extract(planted.model, planted.tokenizer, mixed, seed=0, options=OPTIONS)
    assert (made.receipt["pairs_used"], made.receipt["pairs_given"]) == (23, 24)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"heads": 9}, "at most 8 heads"),
        ({"answer_tokens": 50}, "at least 50 tokens, got none in 24"),
        ({"folds": 25}, "at least 25 usable pairs, got 24 of 24"),
    ],
    ids=["heads", "answer_tokens", "folds"],
)
def test_options_that_the_data_cannot_serve_are_refused(planted, pairs, change, text):
    with pytest.raises(UsageError, match=text):
        extract(planted.model, planted.tokenizer, pairs, seed=0, options=OPTIONS | change)


def test_a_head_that_knows_each_pair_by_heart_scores_no_better_than_chance():
    """Only pairs that were not trained on count, and tokens of one answer stay together."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(12, 2, 1, 1, 6, 64, generator=generator).repeat(1, 1, R, 1, 1, 1)
    rows += 0.01 * torch.randn(rows.shape, generator=generator)
    scores = score_heads(rows, folds=4, repeats=3, seed=0)
    assert float((scores.accuracy - 0.5).abs().max()) < 0.3
    assert float(scores.likelihood.max()) < -0.5


def test_held_out_accuracy_and_likelihood_rank_the_heads_and_ties_go_by_place():
    accuracy, likelihood = torch.tensor([0.5, 1, 1, 1]), torch.tensor([0.0, -2, -1, -1])
    assert ProbeScores(accuracy, accuracy, likelihood).ranking() == [2, 3, 1, 0]


def test_a_head_that_does_not_differ_has_no_direction():
    rows = torch.zeros(4, 2, R, 1, 2, 16)
    rows[:, 0, :, 0, 0] = 1.0
    with pytest.raises(UsageError, match="expected 2 heads that tell the answers apart, got 1"):
        directions_and_scales(rows, [0, 1])


def test_a_base_with_nan_weights_is_refused(pairs):
    broken = build_planted(LEVELS)
    with torch.no_grad():
        broken.model.model.layers[0].self_attn.v_proj.weight[0, 1] = float("nan")
    with pytest.raises(NonFiniteResultError):
        extract(broken.model, broken.tokenizer, pairs, seed=0, options=OPTIONS)
