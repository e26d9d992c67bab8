"""Masks of small real models: a planted truth, the definition by one sort, layouts, experts."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.families import family_config, family_model
from support.planted_mask import (
    build_planted_mask,
    build_tokens,
    logical,
    mask_pairs,
    mean_score,
    sorted_out,
)
from support.tiny_chat_model import build_chat_model
from support.tiny_tokenizer import build_tokenizer
from transformers import AutoModelForCausalLM

from registry.artifact.schema import validate
from registry.checkpoint.record import Entry
from registry.errors import ApplyError, UsageError
from registry.kinds import parse_body
from registry.kinds.esi_mask._impact import agreement, spread
from registry.kinds.esi_mask._topk import random_like
from registry.kinds.esi_mask.extract import GuardLogOdds, extract, find_mask, require_base
from registry.live.sites import model_geometry
from registry.settings import Settings
from registry.workflows import make
from registry.workflows.identify import identify

OPTIONS = {"rho": 0.01, "limit": 0, "with_values": False, "halves": False}


def masked(model, *, pairs=None, seed=0, progress=None, **options):
    return extract(
        model, build_tokens(), pairs or mask_pairs(), seed=seed, options=OPTIONS | options,
        notes=None, progress=progress,
    )  # fmt: skip


def exact(model):
    """Return the model in fp64, so that no two scores are close; grouped kernels have no such."""
    model.double().set_experts_implementation("eager")
    return model


def chosen(body):
    return {matrix.name: body.indices(matrix.name).tolist() for matrix in body.matrices}


@cache
def planted():
    return build_planted_mask()


@cache
def found():
    return masked(planted().model, rho=0.002, with_values=True, halves=True)


# The truth


def test_the_planted_weights_are_found_far_above_chance():
    """All nine, among the 43 of 21,504 that are selected: chance finds one in 500."""
    body = found().body
    assert (body.selected, body.weights) == (43, 21_504)
    for name, places in planted().truth.items():
        columns = planted().model.get_parameter(name).shape[1]
        assert {row * columns + column for row, column in places} <= set(chosen(body)[name])


def test_without_the_selected_weights_refusal_is_gone_and_without_others_it_is_not():
    """As many of each matrix, drawn at random, are the control."""
    body, pairs = found().body, mask_pairs()
    layers = {name: rows for name, rows in chosen(body).items() if name != "lm_head.weight"}
    numels = {matrix.name: matrix.numel for matrix in body.matrices}
    drawn = random_like({name: len(rows) for name, rows in layers.items()}, numels, seed=1)

    def score(zeroed):
        planted = build_planted_mask()
        with torch.no_grad():
            for name, rows in zeroed.items():
                planted.model.get_parameter(name).view(-1)[torch.tensor(rows).long()] = 0
            return float(mean_score(planted.model, planted.tokenizer, pairs.rows))

    whole = score({})
    assert whole > 0.5
    assert abs(score(layers)) < 0.1 * whole
    assert score({name: rows.tolist() for name, rows in drawn.items()}) > 0.9 * whole


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3", "mixtral", "qwen3_moe", "gemma2"])
def test_the_mask_is_what_one_sort_of_sigma_times_gradient_gives(family):
    """By plain autograd of the mean, with the logical matrices split by hand."""
    model = exact(family_model(family))
    body = masked(model, rho=0.02).body
    expected = sorted_out(model, build_tokens(), mask_pairs().rows, body.selected)
    assert chosen(body) == expected
    assert sum(bool(rows) for rows in expected.values()) > 4


# Layouts


def split_and_fused():
    """Return a Llama and a Phi-3 with the same weights in other tensors."""
    fused = family_model("phi3", dtype=torch.float64, partial_rotary_factor=1.0)
    config = family_config("llama", rms_norm_eps=fused.config.rms_norm_eps)
    split = AutoModelForCausalLM.from_config(config).double().eval()
    weights = {}
    for name, value in fused.state_dict().items():
        if name.endswith("qkv_proj.weight"):
            parts = zip("qkv", value.split([64, 32, 32]), strict=True)
            weights |= {name.replace("qkv", label): part for label, part in parts}
        elif name.endswith("gate_up_proj.weight"):
            parts = zip(("gate", "up"), value.chunk(2), strict=True)
            weights |= {name.replace("gate_up", label): part for label, part in parts}
        else:
            weights[name] = value
    split.load_state_dict(weights)
    return split, fused


def test_fused_and_split_layouts_give_one_mask():
    split, fused = (chosen(masked(model, rho=0.02).body) for model in split_and_fused())
    labels = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "gate": "gate_proj", "up": "up_proj"}

    def as_split(name):
        tensor, _, label = name.partition("#")
        whole = "qkv_proj" if label in "qkv" else "gate_up_proj"
        return tensor.replace(whole, labels[label]) if label else name

    assert {as_split(name): rows for name, rows in fused.items()} == split
    assert sum("#" in name for name in fused) == 10


def starved(family, expert):
    """Return a mixture whose routers never choose ``expert``: its logit is always the lowest."""
    model = family_model(family)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 8.0
        for layer in model.model.layers:
            layer.post_attention_layernorm.weight[0] = 1.0
            layer.mlp.gate.weight.mul_(0.1)
            layer.mlp.gate.weight[:, 0] = 1.0
            layer.mlp.gate.weight[expert, 0] = -5.0
    return model


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_an_expert_that_is_never_used_shifts_nothing(family):
    model = starved(family, 1)
    for extraction in (masked(model, rho=0.02), masked(exact(model), rho=0.02)):  # as loaded, fp64
        body = extraction.body
        idle = [name for name in chosen(body) if ".experts.1." in name]
        assert len(idle) == 2 * 3
        assert extraction.receipt["without_gradient"] == {"matrices": 6, "first": idle}
        assert all(body.counts[name] == 0 for name in idle)
        assert any(body.counts[name] for name in body.counts if ".experts.2." in name)
        asked = [
            f"{pair.prompt} {answer}" for pair in mask_pairs().rows for answer in ("No", "Sure")
        ]
        tokens = sum(len(text.split()) for text in asked)
        assert body.coverage == tuple(  # each token goes to the two others
            {"layer": layer, "tokens": [tokens, 0, tokens]} for layer in range(2)
        )
    assert chosen(body) == sorted_out(model, build_tokens(), mask_pairs().rows, body.selected)


def test_a_model_without_experts_has_no_coverage():
    assert found().body.coverage is None


# What is written down


def test_the_same_seed_and_data_give_the_same_bytes():
    again = masked(build_planted_mask().model, rho=0.002, with_values=True, halves=True)
    assert again.body.to_manifest() == found().body.to_manifest()
    assert again.receipt == found().receipt
    tensors = found().body.to_tensors()
    assert {name: array.tobytes() for name, array in again.body.to_tensors().items()} == {
        name: array.tobytes() for name, array in tensors.items()
    }
    assert set(tensors) == {"table", "frames", "digests", "values"}


def test_the_values_are_the_models_own_bits_at_the_selected_places():
    planted = build_planted_mask()
    model = planted.model.bfloat16()
    body = masked(model, rho=0.01, with_values=True).body
    values, live = body.base_values(), logical(model, dict(model.named_parameters()))
    for name, rows in chosen(body).items():
        expected = live[name].detach().reshape(-1)[torch.tensor(rows).long()]
        assert values[name].tobytes() == expected.view(torch.uint8).numpy().tobytes()
    assert body.values.size == 2 * body.selected


def test_values_are_left_out_unless_they_are_asked_for_and_their_digests_are_not():
    body = masked(planted().model, rho=0.002).body
    assert body.values is None
    assert np.array_equal(body.digests, found().body.digests)
    assert body.stability is None


def test_the_mass_is_the_sum_of_scores_by_layer_and_component():
    model, body = planted().model, found().body
    model.zero_grad()
    mean_score(model, planted().tokenizer, mask_pairs().rows).backward()
    assert [(row["layer"], row["component"]) for row in body.mass][:2] == [
        (None, "lm_head"), (0, "mlp.down_proj"),
    ]  # fmt: skip
    assert len(body.mass) == 1 + 3 * 7
    for row in body.mass:
        layer = "" if row["layer"] is None else f"model.layers.{row['layer']}."
        name = f"{layer}{row['component']}.weight"
        weight = model.get_parameter(name)
        impact = (weight.std(correction=0) * weight.grad.abs()).detach().reshape(-1)
        picked = impact[torch.tensor(chosen(body)[name]).long()]
        assert row["weights"] == weight.numel()
        assert row["selected"] == len(picked)
        assert row["sum"] == pytest.approx(impact.sum().item(), rel=1e-3)
        assert row["selected_sum"] == pytest.approx(picked.sum().item(), rel=1e-3)
    model.zero_grad()


def test_the_score_and_the_pairs_are_written_down():
    body, pairs = found().body, mask_pairs()
    with torch.no_grad():
        mean = mean_score(planted().model, planted().tokenizer, pairs.rows).item()
    assert body.score["mean"] == pytest.approx(mean, rel=1e-5)
    assert (body.score["name"], body.score["pairs"], body.score["seed"]) == (
        "refusal-log-odds", 8, 0,
    )  # fmt: skip
    assert found().data == [pairs.describe()]
    assert found().receipt["pairs"] == pairs.describe()
    limited = masked(planted().model, limit=3)
    assert limited.body.score["pairs"] == 3
    assert limited.data == [pairs.first(3).describe()]


def test_a_mask_by_a_guard_says_which_guard_and_fits_the_schema():
    template = "{% for message in messages %}{{ message['content'] }} {% endfor %}verdict "
    words = [*build_tokens().get_vocab(), "verdict", "safe", "unsafe"]
    asked = build_tokenizer(words, chat_template=template)
    score = GuardLogOdds(build_tokens(), build_chat_model(asked), asked, "a guard")
    made = find_mask(planted().model, score, mask_pairs(), seed=0, options=OPTIONS)
    document = made.body.to_manifest()
    validate(document, "esi_mask.v1", what="body")
    assert document["score"]["judge"] == score.describe()["judge"] == made.receipt["score"]["judge"]
    assert document["score"]["judge"]["name"] == "a guard"
    assert document["mask"] != masked(planted().model).body.to_manifest()["mask"]


# Stability


def test_halves_that_are_the_same_pairs_agree_fully():
    twice = replace(mask_pairs(1), rows=mask_pairs(1).rows * 2)
    stability = masked(planted().model, pairs=twice, rho=0.002, halves=True).body.stability
    assert stability["jaccard"] == 1.0
    assert stability["pairs"] == [1, 1]


def test_the_halves_agree_more_than_chance():
    stability = found().body.stability
    assert stability["pairs"] == [4, 4]
    assert stability["chance"] < 0.1 < stability["jaccard"] <= 1


def test_agreement_and_chance_by_hand():
    first = {"a": np.array([0, 1, 2], np.uint32), "b": np.array([5], np.uint32)}
    second = {"a": np.array([1, 2], np.uint32), "b": np.array([4, 5], np.uint32)}
    jaccard, chance = agreement(first, second, {"a": 4, "b": 8})
    assert jaccard == pytest.approx(3 / 5)
    expected = 3 * 2 / 4 + 1 * 2 / 8
    assert chance == pytest.approx(expected / (8 - expected))


def test_sigma_of_weights_far_from_zero_is_summed_in_fp64():
    weights = 4096 + torch.randn(300, 300, generator=torch.Generator().manual_seed(0))
    assert spread(weights) == pytest.approx(
        float(weights.numpy().astype(np.float64).std()), rel=1e-12
    )


# Refusals and progress


@pytest.mark.parametrize("rho", [0.0, 1.5, float("nan")])
def test_a_rho_that_is_no_share_is_refused(rho):
    with pytest.raises(UsageError, match="rho: expected a share above 0 and up to 1, got"):
        masked(planted().model, rho=rho)


def test_a_rho_that_selects_nothing_is_refused_before_anything_is_asked():
    seen = []
    with pytest.raises(UsageError, match="rho: expected a share of at least one weight, got 1e-06"):
        masked(planted().model, rho=1e-6, progress=lambda *what: seen.append(what))
    assert seen == []


def test_a_model_that_was_rounded_while_loading_is_refused():
    """Its values are not the base's: digests of them would be of another model."""
    planted = build_planted_mask()
    weights = {name: value.shape for name, value in planted.model.named_parameters()}
    entries = [Entry(name, "F32", tuple(shape), "") for name, shape in weights.items()]
    record = SimpleNamespace(entries=entries, geometry=model_geometry(planted.model))
    require_base(planted.model, record)
    with pytest.raises(ApplyError) as caught:
        require_base(planted.model.bfloat16(), record)
    assert caught.value.message.startswith(
        "expected the matrices of the base as its files have them, got 22 others:\n"
        "  lm_head.weight: expected F32 [24, 32], got BF16 [24, 32]\n"
    )


@pytest.mark.parametrize("family", ["mixtral", "phi3", "gpt2"])
def test_what_is_made_from_a_saved_model_is_read_back(family, tmp_path):
    """Its files name experts one by one; the live model holds them in one tensor."""
    family_model(family).save_pretrained(tmp_path)
    build_tokens().save_pretrained(tmp_path)
    base = identify(str(tmp_path), settings=Settings.load())
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    options = OPTIONS | {"with_values": True, "halves": True}
    bundle = make.extract(
        "esi-mask", base, model, build_tokens(), base_name="tiny", seed=0, options=options,
        data=mask_pairs(),
    )  # fmt: skip
    body = parse_body(bundle)
    assert chosen(body) == chosen(masked(model, **options).body)
    assert body.values.size == 4 * body.selected
    assert (body.coverage is None) == (family != "mixtral")
    with pytest.raises(ApplyError, match="expected F32"):
        make.extract(
            "esi-mask", base, model.bfloat16(), build_tokens(), base_name="tiny", seed=0,
            options=options, data=mask_pairs(),
        )  # fmt: skip


def test_progress_names_what_is_done():
    stages = {}
    masked(planted().model, halves=True, progress=lambda stage, *done: stages.update({stage: done}))
    assert stages == {
        "differentiating the score": (8, 8),
        "selecting weights": (66, 66),
        "selecting weights by half 1": (66, 66),
        "selecting weights by half 2": (66, 66),
    }


def test_a_head_that_is_tied_or_equal_to_the_embedding_is_no_candidate():
    planted = build_planted_mask()
    with torch.no_grad():
        planted.model.lm_head.weight.copy_(planted.model.model.embed_tokens.weight)
    assert "lm_head.weight" not in masked(planted.model).body.counts
