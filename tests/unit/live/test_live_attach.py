from __future__ import annotations

import copy
import pickle

import pytest
import torch
from support.locks import make_lock, snapshot, tiny_model
from transformers import AutoModelForCausalLM

from registry.errors import (
    AlreadyAppliedError,
    ApplyError,
    ConfirmationRequiredError,
    GeometryError,
    NonFiniteResultError,
    TargetModuleMissingError,
)
from registry.kinds.safety_lock.apply import apply, input_shifts, output_shifts, undo
from registry.live.attach import attach, attached_shifts, detach, owners
from registry.live.capture import shifted_inputs
from registry.live.sites import attention_outputs, model_geometry

IDS = torch.arange(1, 25).reshape(2, 12) * 3 % 96
SHAPES = ("grouped", "narrow", "biased", "qwen2")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


def biases(model):
    return [layer.self_attn.o_proj.bias for layer in model.model.layers]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_bias_form_equals_the_hook_form_and_moves_the_logits(shape):
    model, lock = tiny_model(shape), make_lock()
    geometry = model_geometry(model)
    before = logits(model)
    with shifted_inputs(input_shifts(model, lock, geometry, alpha=2.0)):
        hooked = logits(model)
    apply(model, lock, owner="lock")
    biased = logits(model)
    assert float((biased - hooked).abs().max()) < 1e-5 * float(hooked.abs().max())
    assert float((biased - before).abs().mean()) > 0.05 * float(before.abs().mean())


@pytest.mark.parametrize("shape", SHAPES)
def test_the_shift_is_that_of_the_definition_computed_by_hand(shape):
    model, lock = tiny_model(shape), make_lock()
    got = output_shifts(model, lock, model_geometry(model), alpha=1.5)
    for layer in (0, 1):
        weight = model.model.layers[layer].self_attn.o_proj.weight.detach().double()
        expected = torch.zeros(weight.shape[0], dtype=torch.float64)
        for (at, head), direction, sigma in zip(
            lock.heads, lock.directions, lock.sigma, strict=True
        ):
            if at == layer:
                columns = weight[:, 16 * head : 16 * head + 16]
                expected += 1.5 * float(sigma) * (columns @ torch.tensor(direction).double())
        name = f"model.layers.{layer}.self_attn.o_proj"
        torch.testing.assert_close(got[name].double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_undo_restores_every_bit_and_the_very_bias_object(shape, dtype):
    model, lock = tiny_model(shape, dtype=dtype), make_lock()
    before, own, output = snapshot(model), biases(model), logits(model)
    application = apply(model, lock, owner="lock")
    assert snapshot(model) != before
    assert all(bias is not None and not bias.requires_grad for bias in biases(model))
    undo(model, application)
    assert snapshot(model) == before
    assert all(now is then for now, then in zip(biases(model), own, strict=True))
    assert torch.equal(logits(model), output)
    assert owners(model) == []


def test_a_bias_the_model_has_of_its_own_is_added_to_and_not_replaced():
    model, lock = tiny_model("biased"), make_lock(((1, 2),))
    own = model.model.layers[1].self_attn.o_proj.bias.detach().clone()
    shift = output_shifts(model, lock, model_geometry(model), alpha=2.0)
    apply(model, lock, owner="lock")
    bias = model.model.layers[1].self_attn.o_proj.bias.detach()
    assert float(own.abs().min()) > 0
    torch.testing.assert_close(bias, own + shift["model.layers.1.self_attn.o_proj"])


@pytest.mark.parametrize("shape", ["narrow", "biased"])
def test_applying_twice_is_refused_and_leaves_the_model_as_it_was(shape):
    model, lock = tiny_model(shape), make_lock()
    application = apply(model, lock, owner="lock")
    once, objects = snapshot(model), biases(model)
    with pytest.raises(AlreadyAppliedError, match="lock is on this model already"):
        apply(model, make_lock(seed=5), owner="lock")
    assert snapshot(model) == once
    assert all(now is then for now, then in zip(biases(model), objects, strict=True))
    undo(model, application)
    assert owners(model) == []


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", ["narrow", "biased"])
@pytest.mark.parametrize("first_out", [0, 1])
def test_two_locks_compose_and_come_off_in_either_order(shape, dtype, first_out):
    model = tiny_model(shape, dtype=dtype)
    locks = [make_lock(seed=1), make_lock(((1, 0), (1, 2)), seed=2, alpha=1.0)]
    before, own = snapshot(model), biases(model)
    alone = []
    for index, lock in enumerate(locks):
        application = apply(model, lock, owner=f"lock {index}")
        alone.append(snapshot(model))
        undo(model, application)
    both = [apply(model, lock, owner=f"lock {index}") for index, lock in enumerate(locks)]
    assert owners(model) == ["lock 0", "lock 1"]
    assert snapshot(model) not in alone
    undo(model, both[first_out])
    assert snapshot(model) == alone[1 - first_out]
    undo(model, both[1 - first_out])
    assert snapshot(model) == before
    assert all(now is then for now, then in zip(biases(model), own, strict=True))


@pytest.mark.parametrize("shape", ["narrow", "biased"])
def test_a_shift_that_overflows_fp16_is_refused_with_nothing_changed(shape):
    model, lock = tiny_model(shape, dtype=torch.float16), make_lock()
    before, own = snapshot(model), biases(model)
    with pytest.raises(NonFiniteResultError, match="nothing was changed"):
        apply(model, lock, owner="lock", alpha=1e7, allow_unsafe=True)
    assert snapshot(model) == before
    assert all(now is then for now, then in zip(biases(model), own, strict=True))
    assert owners(model) == []


@pytest.mark.parametrize("alpha", [float("nan"), float("inf")])
def test_a_strength_that_is_no_number_is_refused_even_when_confirmed(alpha):
    model = tiny_model("narrow")
    before = snapshot(model)
    with pytest.raises(NonFiniteResultError):
        apply(model, make_lock(), owner="lock", alpha=alpha, allow_unsafe=True)
    assert snapshot(model) == before


@pytest.mark.parametrize("alpha", [-0.01, -6.0, 2.0001, 6.0, float("nan")])
def test_a_strength_outside_the_measured_range_needs_confirmation(alpha):
    model = tiny_model("narrow")
    before = snapshot(model)
    with pytest.raises(ConfirmationRequiredError, match=r"range \[0, 2\]"):
        apply(model, make_lock(), owner="lock", alpha=alpha)
    assert snapshot(model) == before


def test_a_lock_that_was_never_calibrated_needs_confirmation():
    with pytest.raises(ConfirmationRequiredError, match="calibrate"):
        apply(tiny_model("narrow"), make_lock(alpha=None), owner="lock")


@pytest.mark.parametrize(
    ("lock", "text"),
    [
        (make_lock(((2, 0),)), "2:0"),
        (make_lock(((1, 4),)), "1:4"),
        (make_lock(head_dim=8), "head_dim 8"),
    ],
    ids=["layer", "head", "head_dim"],
)
def test_a_lock_of_another_geometry_is_refused(lock, text):
    model = tiny_model("narrow")
    before = snapshot(model)
    with pytest.raises(GeometryError, match=text):
        apply(model, lock, owner="lock")
    assert snapshot(model) == before


@pytest.mark.parametrize("shape", ["narrow", "biased"])
def test_a_deep_copy_of_a_protected_model_has_a_lock_of_its_own(shape):
    model, lock = tiny_model(shape), make_lock()
    plain = copy.deepcopy(model)
    application = apply(model, lock, owner="lock")
    copied = copy.deepcopy(model)
    assert torch.equal(logits(copied), logits(model))
    names = set(plain.state_dict())
    assert detach(copied, "lock") == 2
    assert snapshot(copied) == snapshot(plain)
    assert set(copied.state_dict()) == names
    assert owners(model) == ["lock"]
    assert set(model.state_dict()) == names, "the copy's undo took the original's hook off"
    assert not torch.equal(logits(model), logits(plain))
    undo(model, application)
    assert snapshot(model) == snapshot(plain)
    assert set(model.state_dict()) == names


def test_a_copy_whose_lock_came_off_saves_a_bias_it_gets_later():
    model = tiny_model("narrow")
    apply(model, make_lock(), owner="lock")
    copied = copy.deepcopy(model)
    detach(copied, "lock")
    copied.model.layers[0].self_attn.o_proj.bias = torch.nn.Parameter(torch.ones(48))
    assert "model.layers.0.self_attn.o_proj.bias" in copied.state_dict()


def test_a_protected_model_can_be_pickled():
    model = tiny_model("narrow")
    apply(model, make_lock(), owner="lock")
    again = pickle.loads(pickle.dumps(model))  # noqa: S301 -- our own bytes
    assert owners(again) == ["lock"]
    assert set(again.state_dict()) == set(tiny_model("narrow").state_dict())


@pytest.mark.parametrize("shape", ["narrow", "biased"])
def test_saving_a_protected_model_saves_the_model_without_the_lock(shape, tmp_path):
    model, lock = tiny_model(shape), make_lock()
    plain = copy.deepcopy(model)
    apply(model, lock, owner="lock")
    model.save_pretrained(tmp_path)
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["unexpected_keys"]
    assert not info["missing_keys"]
    assert snapshot(loaded) == snapshot(plain)
    assert torch.equal(logits(loaded), logits(plain))
    assert not torch.equal(logits(model), logits(plain))


@pytest.mark.parametrize("shape", ["narrow", "biased"])
def test_undo_after_a_cast_leaves_a_model_of_one_dtype_that_runs(shape):
    model = tiny_model(shape)
    application = apply(model, make_lock(), owner="lock")
    model.to(torch.bfloat16)
    undo(model, application)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert torch.isfinite(logits(model)).all()


@pytest.mark.parametrize("shape", ["narrow", "biased"])
def test_a_state_dict_after_a_cast_has_one_dtype(shape):
    model = tiny_model(shape)
    apply(model, make_lock(), owner="lock")
    model.to(torch.bfloat16)
    assert {value.dtype for value in model.state_dict().values()} == {torch.bfloat16}


def test_undo_leaves_a_module_that_was_put_in_its_place_alone():
    model = tiny_model("narrow")
    application = apply(model, make_lock(), owner="lock")
    replacement = torch.nn.Linear(64, 48)
    bias = replacement.bias
    model.model.layers[0].self_attn.o_proj = replacement
    undo(model, application)
    assert replacement.bias is bias
    assert model.model.layers[1].self_attn.o_proj.bias is None
    assert owners(model) == []


def test_taking_off_a_lock_whose_rest_would_overflow_changes_nothing():
    model = tiny_model("narrow", dtype=torch.float16)
    names = [f"model.layers.{layer}.self_attn.o_proj" for layer in (0, 1)]
    large = {names[0]: torch.ones(48), names[1]: torch.full((48,), 6e4)}
    attach(model, "up", large)
    attach(model, "down", {name: -value / 2 for name, value in large.items()})
    attach(model, "more", {names[0]: torch.ones(48), names[1]: torch.full((48,), 3e4)})
    before = snapshot(model)
    with pytest.raises(NonFiniteResultError):
        detach(model, "down")
    assert snapshot(model) == before
    assert set(attached_shifts(model, names[0])) == {"up", "down", "more"}


def test_a_shift_of_another_width_than_the_own_bias_is_refused():
    model = tiny_model("biased")
    with pytest.raises(ApplyError, match=r"expected shape \[48\], got \[49\]"):
        attach(model, "lock", {"model.layers.0.self_attn.o_proj": torch.ones(49)})


def test_a_shift_of_another_width_than_the_module_is_refused():
    model = tiny_model("narrow")
    with pytest.raises(ApplyError, match=r"expected shape \[48\], got \[1\]"):
        attach(model, "lock", {"model.layers.0.self_attn.o_proj": torch.ones(1)})


def test_a_model_with_an_adapter_in_place_is_refused():
    model = tiny_model("narrow")
    model.peft_config = {"default": object()}
    with pytest.raises(ApplyError, match="merge_and_unload"):
        model_geometry(model)


def test_a_missing_module_is_named():
    model = tiny_model("narrow")
    geometry = model_geometry(model)
    del model.model.layers[1].self_attn.o_proj
    with pytest.raises(TargetModuleMissingError, match=r"layers\.1\.self_attn\.o_proj"):
        attention_outputs(model, geometry)


def test_offloaded_weights_are_refused():
    model = tiny_model("narrow")
    geometry = model_geometry(model)
    model.model.layers[0].self_attn.o_proj.to("meta")
    with pytest.raises(ApplyError, match="offloaded"):
        attention_outputs(model, geometry)


def test_a_packed_weight_is_refused():
    model = tiny_model("narrow")
    geometry = model_geometry(model)
    module = model.model.layers[0].self_attn.o_proj
    module.weight = torch.nn.Parameter(module.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(ApplyError, match="plain floating-point"):
        attention_outputs(model, geometry)
