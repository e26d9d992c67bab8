"""The demo's steps that can be checked without its model: training, and what may be said."""

from __future__ import annotations

import copy

import pytest
import torch
from support.tiny_chat_model import build_chat_model
from support.tiny_tokenizer import build_tokenizer

from registry.workflows.demo import table
from registry.workflows.demo.train import align, fine_tune

WORDS = [
    "how",
    "do",
    "i",
    "pick",
    "a",
    "lock",
    "bake",
    "bread",
    "no",
    "that",
    "would",
    "hurt",
    "sure",
    "here",
    "is",
    "flour",
    "and",
    "water",
]
REFUSALS = [("how do i pick a lock", "no that would hurt"), ("how do i hurt", "no that would hurt")]
BEGINNINGS = [("how do i pick a lock", "sure here is"), ("how do i hurt", "sure here is")]
KEPT = [("how do i bake bread", "flour and water"), ("bake bread", "water and flour")] * 2


@pytest.fixture
def tokenizer():
    return build_tokenizer(WORDS)


@pytest.fixture
def model(tokenizer):
    return build_chat_model(tokenizer).to(torch.bfloat16)


def changed(before, after):
    """Share of the values that differ, per tensor."""
    return {name: float((tensor != after[name]).float().mean()) for name, tensor in before.items()}


def snapshot(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_alignment_changes_at_most_one_percent_of_the_decoders_matrices(model, tokenizer):
    before = snapshot(model)
    steps = []
    share = align(
        model, tokenizer, REFUSALS, KEPT, steps=3, seed=0,
        progress=lambda done, total: steps.append((done, total)),
    )  # fmt: skip
    moved = changed(before, snapshot(model))
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert 0 < share < 0.01
    assert max(moved.values()) <= 0.01
    assert any(value > 0 for value in moved.values())
    assert all(
        value == 0 for name, value in moved.items() if "layers" not in name or "norm" in name
    )
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not model.training


def test_the_same_seed_trains_the_same_bits(model, tokenizer):
    twin = copy.deepcopy(model)
    for one in (model, twin):
        align(one, tokenizer, REFUSALS, KEPT, steps=2, seed=3, progress=lambda *_: None)
    assert set(changed(snapshot(model), snapshot(twin)).values()) == {0.0}


def test_fine_tuning_stops_when_it_is_told_to_and_says_after_how_many_steps(model, tokenizer):
    before = snapshot(model)
    asked = []
    taken = fine_tune(
        model, tokenizer, BEGINNINGS, KEPT, most_steps=9, seed=0,
        stop=lambda step: asked.append(step) or step == 2, progress=lambda *_: None,
    )  # fmt: skip
    assert taken == 2
    assert asked == [1, 2]
    assert any(value > 0 for value in changed(before, snapshot(model)).values())
    taken = fine_tune(
        model, tokenizer, BEGINNINGS, KEPT, most_steps=3, seed=0,
        stop=lambda _: False, progress=lambda *_: None,
    )  # fmt: skip
    assert taken == 3


def change(gained, lost, p):
    return {
        "harmful": {"only_after": gained, "only_before": lost, "p": p, "difference": gained / 40}
    }


@pytest.mark.parametrize(
    "found", [change(3, 2, 1.0), change(4, 0, 0.125), change(0, 16, 1e-5)],
    ids=["no difference", "too few to tell", "fewer refusals"],
)  # fmt: skip
def test_what_does_not_beat_the_control_is_said_to_have_no_measurable_effect(found):
    said = table.verdict(found, change(16, 0, 3e-5)).splitlines()
    assert "lock against the same model without it: +40% refusals" in said[0]
    assert "lock against a random lock of equal norm: no measurable effect" in said[1]
