"""Existence curves: the right numbers of the right outputs, and form is not taken for harm."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from support.families import family_model
from support.tiny_tokenizer import build_tokenizer

from registry.errors import NonFiniteResultError, TargetModuleMissingError, UsageError
from registry.kinds.safety_layers._curves import (
    Outputs,
    curves,
    form_gap,
    gap,
    initial_range,
    last_token_outputs,
    middle_third,
    unit_outputs,
)
from registry.kinds.safety_layers._curves import _angles as angles_of_pairs
from registry.kinds.safety_layers._curves import _means as means_of_pairs
from registry.live.layers import live_layers
from registry.measure.conversation import prompt_text, token_ids
from registry.measure.prompts import Prompt

WORDS = [f"w{i}" for i in range(80)]
PROMPTS = [" ".join(WORDS[i : i + 1 + 3 * (i % 7)]) for i in range(21)]


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "mixtral", "phi3", "gpt2"])
def test_outputs_are_the_layers_own_at_each_prompts_last_token(family):
    model, tokenizer = family_model(family), build_tokenizer(WORDS)
    found = last_token_outputs(model, tokenizer, PROMPTS, live_layers(model).modules)
    layers = model.config.num_hidden_layers
    assert found.dtype == torch.float32
    assert found.shape == (len(PROMPTS), layers, model.config.hidden_size)
    norm = model.transformer.ln_f if family == "gpt2" else model.model.norm
    for row, prompt in zip(found, PROMPTS, strict=True):
        ids = torch.tensor([token_ids(tokenizer, prompt_text(tokenizer, prompt))])
        with torch.no_grad():
            hidden = model(ids, output_hidden_states=True).hidden_states
            assert torch.allclose(row[:-1], torch.stack(hidden[1:-1])[:, 0, -1], atol=1e-4)
            # transformers' last one is behind the final norm; ours is not.
            assert torch.allclose(norm(row[-1]), hidden[-1][0, -1], atol=1e-4)
        assert not torch.allclose(row[-1], hidden[-1][0, -1], atol=0.1)


def test_nothing_is_left_on_the_model():
    model = family_model("llama").train()
    last_token_outputs(model, build_tokenizer(WORDS), PROMPTS[:2], live_layers(model).modules)
    assert model.training
    assert not any(layer._forward_hooks for layer in model.model.layers)


def test_progress_counts_prompts():
    model, seen = family_model("llama"), []
    last_token_outputs(
        model, build_tokenizer(WORDS), PROMPTS, live_layers(model).modules,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen == [(16, 21), (21, 21)]


def test_a_layer_that_does_not_run_is_said():
    model = family_model("llama")
    modules = [*live_layers(model).modules, torch.nn.Identity()]
    with pytest.raises(TargetModuleMissingError, match="layer 2: expected to run in a forward"):
        last_token_outputs(model, build_tokenizer(WORDS), PROMPTS, modules)


def test_outputs_that_are_not_finite_are_refused():
    model = family_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(NonFiniteResultError, match="got NaN or infinity in 21 of 21 prompts"):
        last_token_outputs(model, build_tokenizer(WORDS), PROMPTS, live_layers(model).modules)


# Statistics, each once more by loops over pairs

LAYERS, WIDTH = 3, 5


def outputs(vectors, forms):
    rows = [Prompt(str(i), "p", form, "t", "make") for i, form in enumerate(forms)]
    return unit_outputs(torch.tensor(np.array(vectors)), rows)


def drawn(count, seed, *, shift=0.0):
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((count, LAYERS, WIDTH)) + shift
    return outputs(vectors, ["question", "imperative"] * (count // 2))


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(
        sum(x * x for x in a) * sum(y * y for y in b)
    )


def angle(a, b):
    return math.degrees(math.acos(cosine(a, b)))


def pairs(a, b):
    return itertools.combinations(a, 2) if a is b else itertools.product(a, b)


def mean_angle(a, b):
    values = [angle(x, y) for x, y in pairs(a, b)]
    return sum(values) / len(values)


def test_curves_are_exact_means_and_spreads_over_all_pairs():
    harmless, harmful = drawn(6, 0), drawn(8, 1, shift=0.5)
    found = curves(harmless, harmful)
    for name, a, b in (
        ("harmless", harmless, harmless),
        ("harmful", harmful, harmful),
        ("between", harmless, harmful),
    ):
        for layer in range(LAYERS):
            left = list(a.units[:, layer])
            right = left if a is b else list(b.units[:, layer])
            values = [cosine(x, y) for x, y in pairs(left, right)]
            assert found[name]["mean"][layer] == pytest.approx(np.mean(values), abs=1e-6)
            assert found[name]["std"][layer] == pytest.approx(np.std(values), abs=1e-6)


def test_the_gap_is_the_energy_distance_within_one_form_and_the_papers_beside_it():
    a, b = drawn(6, 0), drawn(8, 1, shift=0.5)
    found = gap(a, b, seed=0)
    for layer in range(LAYERS):
        ours, paper = [], []
        for form in ("question", "imperative"):
            left, right = (list(side.rows(form)[:, layer]) for side in (a, b))
            between, within = mean_angle(left, right), mean_angle(left, left)
            ours.append(between - (within + mean_angle(right, right)) / 2)
            paper.append(between - within)
        assert found["degrees"][layer] == pytest.approx(np.mean(ours), abs=1e-5)
        assert found["paper"][layer] == pytest.approx(np.mean(paper), abs=1e-5)
        assert found["low"][layer] < found["degrees"][layer] < found["high"][layer]


def test_a_prompt_drawn_twice_makes_no_pair_with_itself():
    random = np.random.default_rng(0)
    a, b = random.uniform(0, 90, (1, 4, 4)), random.uniform(0, 90, (1, 4, 3))
    a = (a + a.transpose(0, 2, 1)) / 2
    a[0, range(4), range(4)] = 0.0
    draw_a, draw_b = [0, 0, 2, 3], [1, 1, 1]  # prompts, as drawn
    weights_a = np.array([[2.0, 0, 1, 1]])
    weights_b = np.array([[0.0, 3, 0]])
    within, between, alone = means_of_pairs([a, b, np.zeros((1, 3, 3))], weights_a, weights_b)
    others = [a[0, i, j] for i, j in itertools.combinations(draw_a, 2) if i != j]
    assert within[0, 0] == pytest.approx(np.mean(others))
    assert between[0, 0] == pytest.approx(np.mean([b[0, i, j] for i in draw_a for j in draw_b]))
    assert alone[0, 0] == 0


def test_a_prompt_is_at_no_angle_to_itself_even_if_its_output_is_nothing():
    units = outputs([[[3.0, 4.0]], [[0.0, 0.0]]], ["question"] * 2).units
    assert angles_of_pairs(units, units).tolist() == [[[0.0, 90.0], [90.0, 0.0]]]


def test_the_interval_is_seeded_and_narrows_with_more_prompts():
    few, many = (gap(drawn(n, 0), drawn(n, 1, shift=0.5), seed=3) for n in (8, 80))
    assert few == gap(drawn(8, 0), drawn(8, 1, shift=0.5), seed=3)
    assert few != gap(drawn(8, 0), drawn(8, 1, shift=0.5), seed=4)
    for layer in range(LAYERS):
        widths = [found["high"][layer] - found["low"][layer] for found in (few, many)]
        assert widths[1] < widths[0] / 2


def test_the_interval_holds_nothing_where_both_sets_are_of_one_kind():
    """The lower bound is above 0 in about one of forty such comparisons, not in most."""
    above = sum(
        low > 0
        for seed in range(40)
        for low in gap(drawn(30, 2 * seed), drawn(30, 2 * seed + 1), seed=seed)["low"]
    )
    assert above <= 12  # of 120


FORMS = ["question", "imperative"]


def test_what_only_form_does_is_no_gap_however_the_forms_are_mixed():
    """Harmful prompts are mostly imperatives here, and an imperative looks otherwise. No more."""
    random = np.random.default_rng(0)

    def of(questions, imperatives):
        forms = ["question"] * questions + ["imperative"] * imperatives
        vectors = random.standard_normal((len(forms), LAYERS, WIDTH))
        vectors[:questions, :, 1] += 6.0
        vectors[questions:, :, 0] += 6.0
        return outputs(vectors, forms)

    harmless, harmful, scary = of(40, 10), of(10, 40), of(30, 30)
    seen = curves(harmless, harmful)
    # Without regard to form this looks like the paper's figure of a model that knows harm.
    assert all(
        nn - nm > 0.1 for nn, nm in
        zip(seen["harmless"]["mean"], seen["between"]["mean"], strict=True)
    )  # fmt: skip
    form = form_gap(harmless, seed=0)
    harm = gap(harmless, harmful, seed=0)
    assert all(low > 20 for low in form["low"])
    assert all(abs(degrees) < 3 for degrees in harm["degrees"])
    assert initial_range(harm, gap(harmless, scary, seed=0)) is None


def test_a_form_without_two_prompts_on_both_sides_is_left_out():
    harmless, harmful = drawn(6, 0), drawn(8, 1)
    lone = Outputs(
        np.concatenate([harmful.rows("question"), harmful.rows("imperative")[:1]]),
        ("question",) * 4 + ("imperative",),
    )
    left = list(harmless.rows("question")[:, 0])
    right = list(harmful.rows("question")[:, 0])
    expected = mean_angle(left, right) - (mean_angle(left, left) + mean_angle(right, right)) / 2
    assert gap(harmless, lone, seed=0)["degrees"][0] == pytest.approx(expected, abs=1e-5)


def test_too_few_prompts_of_each_form_are_refused():
    with pytest.raises(UsageError) as caught:
        gap(drawn(2, 0), drawn(4, 1), seed=0)
    assert caught.value.message == (
        "expected at least 2 prompts of one form on both sides, got 1 against 2 of form question "
        "and 1 against 2 of form imperative."
    )
    with pytest.raises(UsageError, match="at least 2 harmless questions and imperatives, got 1"):
        form_gap(drawn(2, 0), seed=0)


# Where the search starts


def harm(degrees, low):
    return {"degrees": degrees, "low": low}


NONE = {"degrees": [0.0] * 6}


@pytest.mark.parametrize(
    ("degrees", "low", "expected"),
    [
        ([0, 1, 5, 9, 10, 10], [-1, -1, 3, 5, 6, 6], (2, 3)),  # 90 % of 10 at layer 3
        ([0, 5, 5, 9, 10, 10], [-1, 3, -1, 5, 6, 6], (3, 3)),  # one layer alone is not enough
        ([0, 1, 5, 9, 10, 10], [-1, 1, 2.4, 5, 6, 6], (3, 3)),  # there, but not yet 25 % of 10
        ([0, 0, 0, 0, 0, 8], [-1, -1, -1, -1, -1, 3], (5, 5)),  # none follows the top one
        ([10, 9, 8, 3, 2, 1], [3, 3, 3, 3, 3, 3], (0, 0)),
        ([10, 2, 6, 6, 6, 6], [-1, -1, 3, 3, 3, 3], (2, 5)),  # never 90 % of it again: to the top
        ([0, 1, 5, 9, 10, 10], [-1] * 6, None),
        ([-3, -2, -1, -1, -2, -3], [-0.5] * 6, None),
    ],
)
def test_the_initial_range_follows_the_rule(degrees, low, expected):
    assert initial_range(harm(degrees, low), NONE) == expected


def test_a_gap_that_scary_words_alone_make_is_no_start():
    found = harm([0, 4, 4, 6, 9, 9], [-1, 3, 3, 3, 3, 3])
    assert initial_range(found, NONE) == (1, 4)
    assert initial_range(found, {"degrees": [0, 5, 5, 5, 5, 5]}) == (3, 4)
    assert initial_range(found, {"degrees": [9] * 6}) is None


@pytest.mark.parametrize(
    ("layers", "expected"),
    [(1, (0, 0)), (2, (0, 0)), (3, (1, 1)), (10, (3, 5)), (24, (8, 15)), (32, (10, 20))],
)
def test_the_middle_third_is_where_the_search_starts_otherwise(layers, expected):
    assert middle_third(layers) == expected
