"""The whole search on small real models with a planted truth, and on models that have none."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from support.planted_layers import build_planted_layers

from registry.errors import LocalizationError, UnsupportedArchitectureError, UsageError
from registry.kinds.safety_layers import _scaling
from registry.kinds.safety_layers._curves import RULE, initial_range
from registry.kinds.safety_layers._measured import measured_findings
from registry.kinds.safety_layers._search import GIVEN, GRID, chosen
from registry.kinds.safety_layers._search import RULE as SEARCH_RULE
from registry.kinds.safety_layers.extract import extract
from registry.measure.generate import answers
from registry.measure.prompts import load_prompts
from registry.measure.scorer import SCORER, is_refusal

OPTIONS = {
    "alpha": 0.0, "answer_tokens": 4, "limit": 0, "attention_output": False, "norms": "frozen",
}  # fmt: skip


class Notes:
    """Notes in memory, with what was kept in order."""

    def __init__(self):
        self.held = {}

    def recall(self, key):
        return self.held.get(key)

    def keep(self, key, value):
        assert key not in self.held
        self.held[key] = value


@cache
def planted(first, last, **options):
    return build_planted_layers(range(first, last + 1), **options)


def located(model, *, notes=None, progress=None, seed=0, **options):
    return extract(
        model.model, model.tokenizer, model.scary, seed=seed, options=OPTIONS | options,
        notes=notes or Notes(), progress=progress,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("first", "last", "alpha"),
    [(0, 2, 0.0), (5, 5, 0.0), (3, 7, 0.0), (6, 9, 0.0), (1, 3, 0.7), (6, 9, 0.7)],
)
def test_a_planted_block_is_found_within_one_layer_at_both_ends(first, last, alpha):
    model = planted(first, last)
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    body = located(model, alpha=alpha).body
    assert abs(body.first - first) <= 1
    assert abs(body.last - last) <= 1
    effect = body.measurement["effect"]
    assert effect["p"] < 0.05
    assert effect["control_p"] < 0.05
    if alpha:
        assert body.measurement["scaling"]["alpha"] == 0.7
        assert effect["range"] < effect["control"]["refused"]
    else:
        assert body.measurement["scaling"]["alpha"] in GRID
        assert effect["range"] > effect["control"]["refused"]
    assert all(torch.equal(value, before[name]) for name, value in model.model.state_dict().items())


def test_a_planted_block_is_found_at_another_depth_in_other_noise():
    body = located(planted(3, 5, layers=8, seed=1)).body
    assert abs(body.first - 3) <= 1
    assert abs(body.last - 5) <= 1


# Models without one


def test_refusal_that_no_layer_carries_is_not_located():
    """The head reads the last word itself; baseline and every scaled count are the same."""
    model = planted(0, -1, from_embedding=True)
    assert sum(is_refusal(a) for a in answers(model.model, model.tokenizer, model.scary.texts)) > 20
    with pytest.raises(LocalizationError, match="where the search starts, to change the 29 of 72"):
        located(model)
    with pytest.raises(LocalizationError, match=r"scaled by 1\.3 to change the 29 of 72"):
        located(model, alpha=1.3)


def test_a_model_that_never_refuses_has_no_range():
    with pytest.raises(LocalizationError, match="to change the 0 of 72 prompts"):
        located(planted(4, 6, refused=0.0))


@pytest.mark.parametrize("alpha", [0.0, 0.7])
def test_refusal_that_all_layers_carry_alike_is_not_located(alpha):
    with pytest.raises(LocalizationError):
        located(planted(0, 9), alpha=alpha)


def test_a_model_whose_scaling_does_nothing_has_no_range(monkeypatch):
    """What is found comes from scaling, not from the curves: without it nothing is."""
    monkeypatch.setattr(_scaling, "_times", lambda value, _alpha: value.clone())
    with pytest.raises(LocalizationError):
        located(planted(4, 6))


def test_form_alone_does_not_pass_for_safety_in_the_curves():
    """The block pushes on imperatives, harmful or not."""
    notes = Notes()
    with pytest.raises(LocalizationError, match="than an equally wide range elsewhere"):
        located(planted(4, 6, by_form=True), notes=notes, alpha=0.7)
    seen = notes.held["curves"]
    assert min(seen["controls"]["form"]["low"][5:]) > 1
    assert max(abs(degrees) for degrees in seen["gap"]["degrees"]) < 0.1
    assert initial_range(seen["gap"], seen["controls"]["scary"]) is None
    # Where the curves name no layer, the search starts in the middle third.
    assert "refused 3 5 0.7" in notes.held


# What is written down


NOTES, PROGRESS = Notes(), []


@cache
def found():
    return located(planted(4, 6), seed=5, notes=NOTES, progress=lambda *what: PROGRESS.append(what))


def test_the_measurement_follows_from_its_flags_and_says_what_it_was_made_with():
    body = found().body
    measured = body.measurement
    assert measured_findings(body.to_manifest(), body.refused) == []
    assert chosen(measured["points"]) == (body.first, body.last)
    assert (body.layers, body.family, body.norms, body.origin) == (
        10,
        "llama",
        "frozen",
        "measured",
    )
    assert body.refused.dtype == np.uint8
    assert body.refused.shape == (len(measured["points"]), 72)
    assert measured["template"]["name"] == "chat template"
    assert measured["template"]["digest"].startswith("blake3:")
    assert measured["scorer"] == SCORER
    assert (measured["max_new_tokens"], measured["n"], measured["seed"]) == (4, 72, 5)
    assert measured["prompts"] == {
        "harmful": load_prompts("harmful").split("make").describe(),
        "harmless": load_prompts("harmless").split("make").describe(),
        "scary": load_prompts("scary").split("make", "calibrate").describe(),
    }
    start = initial_range(measured["gap"], measured["controls"]["scary"])
    assert start in {(4, 6), (5, 6)}
    assert measured["initial"] == {
        "first": start[0], "last": start[1], "rule": RULE, "from_curves": True,
    }  # fmt: skip
    assert measured["scaling"] == {
        "mode": "weights", "alpha": 1.3, "attention_output": False, "rule": SEARCH_RULE,
    }  # fmt: skip
    assert len(measured["gap"]["degrees"]) == 10
    assert found().data == list(measured["prompts"].values())
    assert found().receipt["scaled"] == dict.fromkeys(
        ["mlp.down_proj", "mlp.gate_proj", "mlp.up_proj", "self_attn.k_proj", "self_attn.q_proj",
         "self_attn.v_proj"], "weights",
    )  # fmt: skip
    assert found().receipt["refused"]["baseline"]["successes"] == measured["effect"]["baseline"]
    assert found().receipt["refused"]["range"]["successes"] == measured["effect"]["range"]


def test_the_flags_are_those_of_the_model_asked_by_hand():
    model, body = planted(4, 6), found().body
    control = next(p for p in body.measurement["points"] if p["step"] == "control")
    for point in (body.measurement["points"][0], control):
        row = body.measurement["points"].index(point)
        with torch.no_grad():
            twin = build_planted_layers(range(4, 7)).model
            if point["first"] is not None:
                for layer in range(point["first"], point["last"] + 1):
                    for name in found().receipt["scaled"]:
                        twin.model.layers[layer].get_submodule(name).weight.mul_(point["alpha"])
        given = answers(twin, model.tokenizer, model.scary.texts, max_new_tokens=4, batch_size=32)
        assert [is_refusal(answer) for answer in given] == body.refused[row].astype(bool).tolist()


def test_options_are_written_down_and_obeyed():
    body = located(
        planted(4, 6), alpha=0.7, attention_output=True, norms="trainable", limit=60
    ).body
    assert body.norms == "trainable"
    assert body.measurement["n"] == 60
    assert {rows["rows"] for rows in body.measurement["prompts"].values()} == {60}
    assert body.measurement["scaling"] == {
        "mode": "weights", "alpha": 0.7, "attention_output": True, "rule": GIVEN,
    }  # fmt: skip


# Resuming, progress, refusals


def test_an_interrupted_search_goes_on_behind_what_it_kept():
    class Interrupted(Notes):
        left = 9

        def keep(self, key, value):
            super().keep(key, value)
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt

    model, notes = planted(4, 6), Interrupted()
    with pytest.raises(KeyboardInterrupt):
        located(model, notes=notes, seed=5)
    kept, asked = dict(notes.held), []
    assert len(kept) == 9
    resumed = located(  # of the same seed: the same to the last digit
        model, notes=notes, seed=5, progress=lambda stage, done, total: asked.append(stage)
    )
    assert resumed.body.to_manifest() == found().body.to_manifest()
    assert {key: notes.held[key] for key in kept} == kept
    assert not any("outputs of" in stage for stage in asked)
    assert len(set(asked)) == len(notes.held) - 9


def test_a_range_is_asked_once_even_if_several_steps_name_it():
    points = found().body.measurement["points"]
    ranges = {(p["first"], p["last"], p["alpha"]) for p in points}
    assert len(NOTES.held) == len(ranges) + 1  # and the curves
    assert len(points) > len(ranges)


def test_progress_names_what_is_measured():
    start = found().body.measurement["initial"]
    stages = list(dict.fromkeys(stage for stage, _, _ in PROGRESS))
    assert stages[:5] == [
        "outputs of harmful prompts", "outputs of harmless prompts", "outputs of scary prompts",
        "as it is", f"layers {start['first']} to {start['last']} by 0.7",
    ]  # fmt: skip
    assert ("as it is", 72, 72) in PROGRESS


def test_more_prompts_than_the_exact_test_can_take_are_refused_before_anything_is_measured():
    model, notes = planted(5, 5), Notes()
    many = replace(model.scary, rows=model.scary.rows[:1] * 10_001)
    with pytest.raises(UsageError, match=r"expected at most 10,000 prompts in .*, got 10,001"):
        extract(model.model, model.tokenizer, many, seed=0, options=OPTIONS, notes=notes)
    assert notes.held == {}


def test_an_alpha_of_1_scales_nothing():
    with pytest.raises(UsageError) as caught:
        located(planted(4, 6), alpha=1.0)
    assert caught.value.message == (
        "expected an alpha other than 1, which scales nothing, or 0 for the rule's; got 1."
    )


def test_too_few_prompts_are_refused_before_anything_is_asked():
    notes = Notes()
    with pytest.raises(UsageError, match="at least 2 prompts of one form"):
        located(planted(4, 6), limit=2, notes=notes)
    assert notes.held == {}


def test_an_unknown_family_is_refused_before_anything_is_asked():
    model, seen = build_planted_layers(range(4, 7)), []
    model.model.config.model_type = "newmodel"
    with pytest.raises(UnsupportedArchitectureError):
        located(model, progress=lambda *what: seen.append(what))
    assert seen == []
