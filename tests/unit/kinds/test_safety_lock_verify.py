"""After ``apply``: every way in which the lock can go missing must be found and named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.locks import make_lock, packaged_planted, tiny_model

from registry.errors import NegatedDirectionsError, VerificationError
from registry.kinds.safety_lock.apply import apply, undo
from registry.kinds.safety_lock.body import LockBody
from registry.kinds.safety_lock.extract import extract
from registry.kinds.safety_lock.verify import precondition, verify
from registry.measure.prompts import load_pairs

SHAPES = ("grouped", "narrow", "biased", "qwen2")
SITE = "model.layers.0.self_attn.o_proj"


def locked(shape, dtype=torch.float32, lock=None):
    model, lock = tiny_model(shape, dtype=dtype), lock or make_lock()
    return model, lock, apply(model, lock, owner="lock")


def change(model, attack):  # noqa: C901 -- one case per attack
    """Do one thing to the first touched module."""
    attention = model.model.layers[0].self_attn
    module = attention.o_proj
    with torch.no_grad():
        match attack:
            case "bias removed":
                module.bias = None
            case "bias zeroed":
                module.bias.zero_()
            case "one value of the bias changed":
                module.bias[7] += 0.05 * module.bias.abs().max()
            case "smallest value of the bias doubled":
                module.bias[module.bias.abs().argmin()] *= 2
            case "sign of the bias turned":
                module.bias.neg_()
            case "W_o changed in a chosen column":
                module.weight[3, 1 * 16 + 2] += 0.5
            case "W_o changed in another column":
                module.weight[3, 0 * 16 + 2] += 0.5
            case "W_o scaled":
                module.weight.mul_(1.01)
            case "module replaced by a plain one":
                plain = torch.nn.Linear(module.in_features, module.out_features, bias=False)
                attention.o_proj = plain.to(module.weight.dtype)
            case "module replaced by another class":
                attention.o_proj = torch.nn.Identity()
            case "module deleted":
                del attention.o_proj
            case "output hooked away":
                bias = module.bias.detach().clone()
                module.register_forward_hook(lambda _m, _a, out: out - bias)


ATTACKS = (
    ("bias removed", "the module has no bias"),
    ("bias zeroed", r"expected the shift recomputed from W_o"),
    ("one value of the bias changed", r"expected the shift recomputed from W_o"),
    ("smallest value of the bias doubled", r"expected the shift recomputed from W_o"),
    ("sign of the bias turned", r"expected the shift recomputed from W_o"),
    ("W_o changed in a chosen column", "its bits have changed"),
    ("W_o changed in another column", "its bits have changed"),
    ("W_o scaled", "its bits have changed"),
    ("module replaced by a plain one", "the module has no bias"),
    ("module replaced by another class", "expected a matrix, got nothing"),
    ("module deleted", "expected a matrix, got nothing"),
    ("output hooked away", "expected the output to move"),
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_an_applied_lock_is_read_back(shape, dtype):
    model, lock, application = locked(shape, dtype)
    evidence = verify(model, lock, application)
    assert evidence.modules == 2
    assert evidence.bias_error == 0.0
    assert evidence.canary_error < (1e-4 if dtype == torch.float32 else 0.1)


@pytest.mark.parametrize("shape", ["narrow", "biased"])
@pytest.mark.parametrize(("attack", "text"), ATTACKS, ids=[name for name, _ in ATTACKS])
def test_a_lock_that_is_no_longer_whole_is_found(shape, attack, text):
    model, lock, application = locked(shape)
    verify(model, lock, application)
    change(model, attack)
    with pytest.raises(VerificationError, match=text) as caught:
        verify(model, lock, application)
    assert SITE in caught.value.message
    assert "unprotect" in caught.value.hint


@pytest.mark.parametrize(
    "attack", ["bias zeroed", "smallest value of the bias doubled", "W_o changed in another column"]
)
def test_a_lock_in_bf16_that_is_no_longer_whole_is_found(attack):
    model, lock, application = locked("biased", torch.bfloat16)
    change(model, attack)
    with pytest.raises(VerificationError, match=r"layers\.0\.self_attn\.o_proj"):
        verify(model, lock, application)


def test_every_changed_module_is_listed():
    model, lock, application = locked("narrow")
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.bias.zero_()
            layer.self_attn.o_proj.weight[0, 0] += 1
    with pytest.raises(VerificationError) as caught:
        verify(model, lock, application)
    assert caught.value.message.count("bits have changed") == 2
    assert caught.value.message.count("recomputed from W_o") == 2


def test_an_adapter_put_on_after_the_lock_is_found():
    model, lock, application = locked("narrow")
    model.peft_config = {"default": object()}  # what peft leaves on a model it has wrapped
    with pytest.raises(VerificationError, match="adapter"):
        verify(model, lock, application)


def test_a_layer_that_is_skipped_in_the_forward_pass_is_found():
    model, lock, application = locked("narrow")
    layer = model.model.layers[1]
    layer.self_attn.forward = lambda hidden_states, **_: (torch.zeros_like(hidden_states), None)
    with pytest.raises(VerificationError, match=r"layers\.1.*expected to run in a forward pass"):
        verify(model, lock, application)


@pytest.mark.parametrize("shape", ["narrow", "biased"])
def test_a_lock_of_strength_zero_is_not_verified(shape):
    model, lock = tiny_model(shape), make_lock()
    application = apply(model, lock, owner="lock", alpha=0.0)
    with pytest.raises(VerificationError, match="moves nothing"):
        verify(model, lock, application)


def test_a_small_lock_that_is_hooked_away_is_found_beside_a_large_bias_of_the_model():
    model, lock = tiny_model("biased"), make_lock(((0, 1),), alpha=0.3)
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.bias.mul_(50)
    application = apply(model, lock, owner="lock")
    verify(model, lock, application)
    module = model.model.layers[0].self_attn.o_proj
    shift = module.bias.detach() - module.state_dict()["bias"]
    module.register_forward_hook(lambda _m, _a, out: out - shift)
    with pytest.raises(VerificationError, match="expected the output to move"):
        verify(model, lock, application)


def test_two_locks_are_each_read_back_and_each_missed():
    model = tiny_model("biased")
    locks = [make_lock(seed=1), make_lock(((1, 0), (1, 2)), seed=2)]
    done = [apply(model, lock, owner=f"lock {i}") for i, lock in enumerate(locks)]
    for lock, application in zip(locks, done, strict=True):
        assert verify(model, lock, application).canary_error < 1e-4
    undo(model, done[1])
    verify(model, locks[0], done[0])
    with pytest.raises(VerificationError, match=r"layers\.1"):
        verify(model, locks[1], done[1])


def test_a_cast_after_apply_is_found():
    model, lock, application = locked("narrow")
    model.to(torch.bfloat16)
    with pytest.raises(VerificationError, match="bits have changed"):
        verify(model, lock, application)


# The sign of the directions


@pytest.fixture(scope="module")
def world():
    planted = packaged_planted()
    options = {"heads": 4, "answer_tokens": 5, "folds": 4, "repeats": 1}
    made = extract(
        planted.model, planted.tokenizer, load_pairs().split("make"), seed=0, options=options
    )
    return planted, made.body


def check_sign(world, **changes):
    planted, body = world
    return precondition(planted.model, lambda: planted.tokenizer, replace(body, **changes))


def test_an_honest_lock_points_toward_refusal(world):
    found = check_sign(world)
    assert found["heads_positive"] == found["heads"] == 4
    assert found["mean_contrast_sigma"] > 0.3
    assert found["pairs"] == 8


def test_a_negated_lock_is_refused(world):
    with pytest.raises(NegatedDirectionsError, match="got 0 heads and a mean contrast of -"):
        check_sign(world, directions=-world[1].directions)


def test_a_lock_with_half_its_heads_negated_is_refused(world):
    directions = world[1].directions.copy()
    directions[:2] *= -1
    with pytest.raises(NegatedDirectionsError, match="got 2 heads"):
        check_sign(world, directions=directions)


def test_one_negated_head_that_does_most_of_the_pushing_is_refused(world):
    # In units of its own, inflated sigma the negated head looks harmless; its push is what counts.
    directions, sigma = world[1].directions.copy(), world[1].sigma.copy()
    directions[0] *= -1
    sigma[0] *= 1000
    with pytest.raises(NegatedDirectionsError, match="push"):
        check_sign(world, directions=directions, sigma=sigma)


def test_random_directions_are_not_toward_refusal_in_every_draw(world):
    refused = 0
    for seed in range(8):
        drawn = np.random.default_rng(seed).standard_normal(world[1].directions.shape)
        unit = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
        try:
            check_sign(world, directions=unit)
        except NegatedDirectionsError:
            refused += 1
    assert 1 <= refused <= 7


def test_the_body_is_a_value_that_apply_does_not_change():
    lock = make_lock()
    before = (lock.directions.tobytes(), lock.sigma.tobytes())
    apply(tiny_model("narrow"), lock, owner="lock")
    assert isinstance(lock, LockBody)
    assert (lock.directions.tobytes(), lock.sigma.tobytes()) == before
