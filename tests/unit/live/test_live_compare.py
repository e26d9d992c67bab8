"""Sampled values of a live model against a record; and hooks that are always removed."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from support.locks import fine_tuned, make_lock, read_record, tiny_model
from transformers import AutoModelForCausalLM

from registry.checkpoint.lineage import judge
from registry.checkpoint.sketch import extent
from registry.errors import VerificationError
from registry.kinds.safety_lock.apply import apply
from registry.live.capture import captured_calls, captured_inputs, shifted_inputs
from registry.live.compare import live_distance, require_same_values

SHAPES = ("grouped", "narrow", "biased", "qwen2")


@pytest.fixture(scope="module", params=SHAPES)
def saved(request, tmp_path_factory):
    """A model and the record of the files it was saved to."""
    model = tiny_model(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    return model, read_record(folder), folder


def test_the_model_that_was_saved_has_the_values_of_its_record(saved):
    model, record, _ = saved
    compared = require_same_values(model, record)
    assert compared.values == sum(extent(entry.shape).count for entry in record.entries)
    assert (compared.tensors, compared.recomputed) == (len(record.entries), ())
    assert live_distance(model, record) == 0.0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_values_are_compared_as_the_loader_casts_them(saved, dtype):
    _, record, folder = saved
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    assert require_same_values(loaded, record).tensors == len(record.entries)


def test_every_single_tensor_is_watched(saved):
    model, record, _ = saved
    for entry in record.entries:
        changed = copy.deepcopy(model)
        with torch.no_grad():
            changed.get_parameter(entry.name).add_(1.0)
        with pytest.raises(VerificationError, match=entry.name):
            require_same_values(changed, record)


def test_a_parameter_that_no_file_holds_is_found(saved):
    model, record, _ = saved
    changed = copy.deepcopy(model)
    changed.model.layers[0].mlp.up_proj.bias = torch.nn.Parameter(torch.zeros(80))
    with pytest.raises(VerificationError, match=r"up_proj\.bias: .*made it up"):
        require_same_values(changed, record)


def test_nan_in_file_and_model_is_the_same_value(tmp_path):
    model = tiny_model("narrow")
    with torch.no_grad():
        model.model.norm.weight[3] = float("nan")
    model.save_pretrained(tmp_path)
    record = read_record(tmp_path)
    assert require_same_values(model, record).tensors == len(record.entries)
    with torch.no_grad():
        model.model.norm.weight[3] = 0.0
    with pytest.raises(VerificationError):
        require_same_values(model, record)


@pytest.mark.parametrize("relative", [0.001, 0.03, 0.5])
def test_the_live_distance_is_that_of_the_two_records(saved, tmp_path, relative):
    model, record, _ = saved
    tuned = fine_tuned(model, relative=relative)
    tuned.save_pretrained(tmp_path)
    expected = judge(record, read_record(tmp_path), max_distance=10).distance
    got = live_distance(tuned, record)
    assert got == pytest.approx(expected, rel=1e-6)
    assert got == pytest.approx(relative, rel=0.1)


def test_a_lock_on_the_model_does_not_move_it_from_its_base(saved):
    model, record, _ = saved
    locked = copy.deepcopy(model)
    apply(locked, make_lock(), owner="lock")
    assert live_distance(locked, record) == 0.0


def test_a_missing_matrix_of_a_layer_is_infinitely_far(saved):
    model, record, _ = saved
    cut = copy.deepcopy(model)
    del cut.model.layers[1].mlp.gate_proj
    assert live_distance(cut, record) == math.inf


@pytest.mark.parametrize("reading", [captured_inputs, captured_calls])
def test_hooks_that_read_are_removed_even_when_the_block_fails(reading):
    model = tiny_model("narrow")
    modules = [layer.self_attn.o_proj for layer in model.model.layers]

    def failing():
        with reading(modules) as seen:
            model(torch.tensor([[1, 2, 3]]))
            assert all(item is not None for item in seen)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in modules)


def test_hooks_that_shift_are_removed_even_when_the_forward_fails():
    model = tiny_model("narrow")
    module = model.model.layers[0].self_attn.o_proj
    with pytest.raises(RuntimeError), shifted_inputs({module: torch.ones(63)}):
        model(torch.tensor([[1, 2, 3]]))
    assert not module._forward_pre_hooks
