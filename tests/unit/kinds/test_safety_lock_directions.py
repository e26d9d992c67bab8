"""Directions measured again in another model: planted truth, and what each figure must see."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.locks import (
    bundle_of,
    fine_tuned,
    make_lock,
    packaged_planted,
    read_record,
    snapshot,
)
from support.planted import (
    HEAD_DIM,
    LEVELS,
    PLANTED_HEADS,
    Planted,
    build_planted,
    planted_pairs,
    reference_heads,
)

from registry.errors import (
    CompatibilityError,
    EvidenceError,
    GeometryError,
    NonFiniteResultError,
    SchemaViolationError,
)
from registry.kinds.safety_lock._directions import figures, written_floor
from registry.kinds.safety_lock._holds import HOLD_PAIRS, Bounds, Figures, Holds, compare
from registry.kinds.safety_lock.body import parse
from registry.kinds.safety_lock.extract import extract
from registry.kinds.safety_lock.verify import measurable, measure
from registry.live.sites import model_geometry
from registry.measure.conversation import answer_tokens, conversation_text
from registry.measure.prompts import load_pairs

R = 5
OPTIONS = {"heads": len(PLANTED_HEADS), "answer_tokens": R, "folds": 5, "repeats": 1}
BASE = Figures(
    cosine=(0.9, 0.8, 1.0), margin=(1.0, 2.0, 1.5), dose=(0.02, 0.01, 0.04), floor=(0.3, 0.1)
)
HEADS = ((0, 1), (0, 3), (1, 0))


@pytest.fixture(scope="module")
def planted() -> Planted:
    return build_planted(LEVELS)


@pytest.fixture(scope="module")
def pairs():
    return planted_pairs()


@pytest.fixture(scope="module")
def lock(planted, pairs):
    return extract(planted.model, planted.tokenizer, pairs, seed=0, options=OPTIONS).body


def changed(planted, change):
    model = copy.deepcopy(planted.model)
    with torch.no_grad():
        change(model)
    return model


def outputs(model):
    return [layer.self_attn.o_proj.weight for layer in model.model.layers]


def held(planted, lock, model, pairs):
    return measure(model, planted.tokenizer, lock, measurable(lock, pairs))


def codes(measurement):
    return [(severity, code) for severity, code, _ in measurement.faults]


def summary(measurement):
    return {row["figure"]: row["value"] for row in measurement.document["summary"]}


# What the figures are


def test_a_planted_direction_is_found_with_cosine_one(planted, pairs, lock):
    truth = replace(lock, directions=np.stack([planted.directions[head] for head in lock.heads]))
    found = figures(planted.model, planted.tokenizer, truth, pairs.rows)
    assert found.cosine == pytest.approx([1.0] * len(lock.heads), abs=1e-3)
    assert min(found.margin) > 0.5


def test_the_figures_are_those_of_the_definition(planted, pairs, lock):
    rows, squares = [], ([], [])

    def keep(layer, places, output):
        squares[layer].append(output[0, places[-R:]].double().square().sum(-1).numpy())

    for pair in pairs.rows[:4]:
        for answer in (pair.refusing, pair.complying):
            text = conversation_text(planted.tokenizer, pair.prompt, answer)
            ids, places = answer_tokens(planted.tokenizer, *text)
            rows.append(reference_heads(planted.model, ids)[places[-R:]])
            hooks = [
                module.register_forward_hook(
                    lambda _m, _a, out, layer=layer, places=places: keep(layer, places, out)
                )
                for layer, module in enumerate(planted.model.model.layers)
            ]
            with torch.no_grad():
                planted.model(torch.tensor([ids]), use_cache=False)
            for hook in hooks:
                hook.remove()
    rows = np.stack(rows).reshape(4, 2, R, 2, 4, HEAD_DIM)
    rms = [np.sqrt(np.mean(of_layer)) for of_layer in squares]
    found = figures(planted.model, planted.tokenizer, lock, pairs.rows[:4])
    for index, (layer, head) in enumerate(lock.heads):
        theta, sigma = lock.directions[index].astype(float), float(lock.sigma[index])
        seen = rows[:, :, :, layer, head]
        mu = seen[:, 0].mean((0, 1)) - seen[:, 1].mean((0, 1))
        assert found.cosine[index] == pytest.approx(mu @ theta / np.linalg.norm(mu), abs=1e-5)
        assert found.margin[index] == pytest.approx(mu @ theta / sigma, rel=1e-4)
        weight = outputs(planted.model)[layer].detach().numpy().astype(float)
        pushed = weight[:, head * HEAD_DIM : (head + 1) * HEAD_DIM] @ theta
        expected = sigma * np.linalg.norm(pushed) / rms[layer]
        assert found.dose[index] == pytest.approx(expected, rel=1e-4)
    assert {layer for layer, _ in lock.heads} == {0, 1}


def test_a_negated_lock_has_negative_margins_and_cosines(planted, pairs, lock):
    right = figures(planted.model, planted.tokenizer, lock, pairs.rows)
    turned = replace(lock, directions=-lock.directions)
    wrong = figures(planted.model, planted.tokenizer, turned, pairs.rows)
    assert wrong.margin == pytest.approx([-value for value in right.margin])
    assert wrong.cosine == pytest.approx([-value for value in right.cosine])
    assert wrong.dose == pytest.approx(right.dose)


def test_a_scaled_output_projection_changes_the_dose_by_exactly_that_factor(planted, pairs, lock):
    """Its input is scaled the other way, so that the residual stream stays what it was."""

    def scale(model):
        model.model.layers[1].self_attn.o_proj.weight[:, :HEAD_DIM] *= 3
        model.model.layers[1].self_attn.v_proj.weight[:HEAD_DIM] /= 3  # heads 0 and 1 read it
        model.model.layers[1].self_attn.o_proj.weight[:, HEAD_DIM : 2 * HEAD_DIM] *= 3

    before = figures(planted.model, planted.tokenizer, lock, pairs.rows)
    after = figures(changed(planted, scale), planted.tokenizer, lock, pairs.rows)
    factors = {
        head: mine / base for head, mine, base in zip(lock.heads, after.dose, before.dose,
                                                      strict=True)
    }  # fmt: skip
    assert factors[1, 0] == pytest.approx(3.0, rel=1e-4)
    assert factors[1, 1] == pytest.approx(3.0, rel=1e-4)
    assert factors[0, 2] == pytest.approx(1.0, rel=1e-4)
    assert after.margin[lock.heads.index((1, 0))] == pytest.approx(
        before.margin[lock.heads.index((1, 0))] / 3, rel=1e-3
    )


def test_a_head_that_says_nothing_has_cosine_zero(planted, pairs, lock):
    def silence(model):
        model.model.layers[1].self_attn.v_proj.weight.zero_()

    found = figures(changed(planted, silence), planted.tokenizer, lock, pairs.rows)
    at = dict(zip(lock.heads, found.cosine, strict=True))
    assert at[1, 0] == at[1, 1] == 0.0
    assert at[0, 2] > 0.9


def test_the_floor_falls_to_nothing_when_a_direction_is_taken_out(planted):
    generator = torch.Generator().manual_seed(0)

    def fill(model):
        for weight in outputs(model):
            weight.copy_(torch.randn(weight.shape, generator=generator))

    def take_out(model):
        v = torch.nn.functional.normalize(torch.randn(48, generator=generator), dim=0)
        for weight in outputs(model):
            weight.sub_(torch.outer(v, v @ weight))

    model = changed(planted, fill)
    geometry = model_geometry(model)
    for layers, which in (((0, 1), 0), ((1,), 1)):
        stacked = [outputs(model)[layer].detach().double().numpy() for layer in layers]
        values = np.sort(np.linalg.svd(np.concatenate(stacked, 1), compute_uv=False) ** 2)
        floor = written_floor(model, geometry, (1,))[which]
        assert floor == pytest.approx(values[0] / values[23], rel=1e-4)  # torch's median: the lower
    before = written_floor(model, geometry, (1,))
    with torch.no_grad():
        kept = outputs(model)[0].clone()
        take_out(model)
    assert max(written_floor(model, geometry, (1,))) < 1e-6 < min(before)
    with torch.no_grad():  # out of the touched layer alone: the other still writes there
        outputs(model)[0].copy_(kept)
    every, touched = written_floor(model, geometry, (1,))
    assert touched < 1e-6
    assert every > 1e-3


def test_a_weight_that_is_not_finite_is_refused(planted):
    def spoil(model):
        outputs(model)[1][0, 0] = float("nan")

    model = changed(planted, spoil)
    with pytest.raises(NonFiniteResultError, match="expected finite attention outputs"):
        written_floor(model, model_geometry(model), (0,))


def test_an_output_that_is_not_finite_is_refused(planted, pairs, lock):
    """The last layer's MLP: no attention reads what it writes."""

    def spoil(model):
        model.model.layers[1].mlp.down_proj.weight[0, 0] = float("inf")

    with pytest.raises(
        NonFiniteResultError, match="expected finite outputs of 2 layers, got NaN or infinity in 1"
    ):
        figures(changed(planted, spoil), planted.tokenizer, lock, pairs.rows)


def test_measuring_changes_no_bit_and_leaves_no_hook(planted, pairs, lock):
    before, model = snapshot(planted.model), planted.model
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    held(planted, lock, model, pairs)
    assert snapshot(model) == before
    assert hooks == [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]


def test_heads_that_the_model_has_not_are_refused(planted, pairs, lock):
    beyond = replace(lock, heads=((7, 0), *lock.heads[1:]))
    with pytest.raises(GeometryError, match="the lock names 7:0"):
        figures(planted.model, planted.tokenizer, beyond, pairs.rows)


# What extract writes down


def test_the_base_is_measured_on_the_first_pairs_that_can_be_read(planted, pairs, lock):
    assert lock.holds.ids == tuple(row.id for row in pairs.rows[:HOLD_PAIRS])
    assert lock.holds.pairs["digest"] == pairs.digest
    again = figures(planted.model, planted.tokenizer, lock, pairs.rows[:HOLD_PAIRS])
    assert lock.holds.base == again
    rows = list(pairs.rows)
    rows[0] = replace(rows[0], refusing="no0 no1")  # shorter than r tokens
    short = extract(
        planted.model, planted.tokenizer, replace(pairs, rows=tuple(rows)), seed=0, options=OPTIONS
    ).body
    assert short.holds.ids == tuple(row.id for row in pairs.rows[1 : HOLD_PAIRS + 1])


def test_what_was_measured_comes_back_out_of_the_bundle(planted, lock, tmp_path):
    record = read_record(planted.save(tmp_path / "base"))
    bundle = bundle_of(record, lock)
    holds = parse(bundle).holds
    assert (holds.ids, holds.pairs, holds.bounds) == (
        lock.holds.ids, dict(lock.holds.pairs), lock.holds.bounds
    )  # fmt: skip
    assert holds.base.dose == pytest.approx(lock.holds.base.dose, rel=1e-5)
    assert json.loads(bundle.manifest.to_bytes())["body"]["holds"] == lock.holds.to_document()
    assert "holds" not in replace(lock, holds=None).to_manifest()
    assert parse(bundle_of(record, replace(lock, holds=None))).holds is None


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ({"cosine": (1.0,)}, "holds.cosine: expected one per head, 4, got 1"),
        ({"margin": (1.0,) * 5}, "holds.margin: expected one per head, 4, got 5"),
        ({"dose": (0.1,)}, "holds.dose: expected one per head, 4, got 1"),
        ({"cosine": (-0.5,) * 4}, "holds.cosine: expected a median of at least 0.01, got -0.5"),
        ({"cosine": (0.009,) * 4}, "holds.cosine: expected a median of at least 0.01, got 0.009"),
        ({"dose": (0.0,) * 4}, r"\$.holds.dose\[0\]"),
        ({"floor": (-1.0, 0.1)}, r"\$.holds.floor\[0\]"),
    ],
)
def test_figures_of_the_base_that_cannot_be_are_refused(planted, lock, tmp_path, change, finding):
    holds = replace(lock.holds, base=replace(lock.holds.base, **change))
    bundle = bundle_of(read_record(planted.save(tmp_path / "b")), replace(lock, holds=holds))
    with pytest.raises(SchemaViolationError, match=finding):
        parse(bundle)


def test_bounds_the_wrong_way_round_are_refused(planted, lock, tmp_path):
    holds = replace(lock.holds, bounds=Bounds(dose=(2.0, 0.5)))
    bundle = bundle_of(read_record(planted.save(tmp_path / "b")), replace(lock, holds=holds))
    with pytest.raises(SchemaViolationError, match=r"expected least before most, got \[2, 0.5\]"):
        parse(bundle)


# Which pairs


def test_another_set_of_pairs_is_refused_with_its_name(lock, pairs):
    other = replace(pairs, name="others", digest="blake3:" + "0" * 64)
    with pytest.raises(
        CompatibilityError, match=r"expected the preference pairs planted .*, got others"
    ) as caught:
        measurable(lock, other)
    assert caught.value.hint == "Name the file that the artifact was made from: --data FILE"
    with pytest.raises(CompatibilityError):
        measurable(lock, replace(pairs, rows=pairs.rows[1:]))
    assert measurable(lock, pairs) == pairs.rows[:HOLD_PAIRS]


def test_a_lock_that_says_nothing_of_its_base_is_refused_with_the_repair(pairs):
    with pytest.raises(EvidenceError, match="made before that was written down") as caught:
        measurable(make_lock(), pairs)
    assert "safelatch extract" in caught.value.hint


def test_a_tokenizer_that_makes_answers_too_short_is_refused(planted, pairs, lock):
    longer = replace(lock, answer_tokens=7)
    with pytest.raises(CompatibilityError, match=r"answers of at least 7 tokens, got \d+: the tok"):
        figures(planted.model, planted.tokenizer, longer, pairs.rows)


# The verdict


@pytest.mark.parametrize("seed", range(3))
def test_the_base_and_its_fine_tunes_hold(planted, pairs, lock, seed):
    for model in (planted.model, fine_tuned(planted.model, relative=0.02, seed=seed)):
        found = held(planted, lock, model, pairs)
        assert found.faults == ()
        values = summary(found)
        assert values["positive"] == 1.0
        assert [values["cosine"], values["dose"]] == pytest.approx([1.0, 1.0], abs=0.1)


def test_another_model_of_the_same_shapes_does_not_hold():
    ours, other = packaged_planted(seed=0), packaged_planted(seed=1)
    pairs = load_pairs().split("make")
    body = extract(ours.model, ours.tokenizer, pairs, seed=0, options=OPTIONS).body
    found = held(ours, body, other.model, pairs)
    assert ("error", "directions") in codes(found)


def compared(**changes):
    holds = Holds({"name": "p", "version": "1", "digest": "d"}, ("a", "b"), BASE, Bounds())
    return compare(holds, replace(BASE, **changes), HEADS, alpha=2.0)


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"cosine": (0.1, 0.05, 0.2)}, "directions", "got 0.111."),
        ({"margin": (-1.0, -2.0, 1.5)}, "turned-heads", "got 33%."),
        ({"dose": (0.002, 0.001, 0.004)}, "dose", "got 0.1."),
        ({"dose": (0.2, 0.1, 0.4)}, "dose", "got 10."),
        ({"floor": (3e-6, 0.1)}, "direction-removed", "got 1e-05: a direction was taken out."),
        ({"floor": (0.3, 1e-6)}, "direction-removed", "got 1e-05: a direction was taken out."),
        ({"cosine": (float("nan"),) * 3}, "directions", "got nan."),
    ],
)
def test_each_figure_outside_its_bounds_is_an_error_of_its_own(changes, code, message):
    (fault,) = compared(**changes).faults
    assert fault[:2] == ("error", code)
    assert fault[2].endswith(message)


def test_few_turned_heads_are_a_warning_with_their_names():
    bounds = Bounds(min_positive=0.5)
    holds = Holds({"name": "p", "version": "1", "digest": "d"}, ("a",), BASE, bounds)
    found = compare(holds, replace(BASE, margin=(1.0, 0.0, 1.0)), HEADS, alpha=None)
    assert found.faults == (
        ("warning", "turned-heads", "expected every head to point toward refusal, 0:3 do not."),
    )


def test_doses_are_stated_at_the_strength_of_the_lock():
    document = compared().document
    assert [head["dose"] for head in document["heads"]] == [0.04, 0.02, 0.08]
    assert (document["alpha"], document["pairs"]) == (2.0, 2)
    assert summary(compared(dose=(0.03, 0.015, 0.06)))["dose"] == 1.5


@pytest.mark.parametrize(
    ("base", "got"),
    [((0.0, 0.0), (0.0, 0.0)), ((0.3, 9e-4), (0.3, 0.0)), ((9e-4, 0.1), (0.0, 0.1))],
)
def test_a_base_that_itself_writes_hardly_anything_somewhere_asks_for_no_floor(base, got):
    holds = Holds({}, ("a",), replace(BASE, floor=base), Bounds())
    assert compare(holds, replace(BASE, floor=got), HEADS, alpha=None).faults == ()
