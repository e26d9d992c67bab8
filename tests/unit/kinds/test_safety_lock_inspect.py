"""Bytes alone: does a checkpoint carry the lock, at which strength, would a loader keep it?"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from support.locks import make_lock, tiny_model
from support.tiny_models import llama_config, make_tensors, tensor, write_checkpoint
from transformers import AutoConfig, AutoModelForCausalLM

from registry.checkpoint.architecture import sites_for
from registry.checkpoint.reader import Checkpoint
from registry.kinds.safety_lock.apply import output_shifts
from registry.kinds.safety_lock.inspect import inspect
from registry.live.sites import model_geometry

LLAMA = sites_for("llama")
SITE = "model.layers.0.self_attn.o_proj"


def exported(folder, lock, alpha, *, dtype=torch.float32):
    """Save a llama with the lock as o_proj.bias, zero q/k/v biases, ``attention_bias`` true."""
    plain = tiny_model("narrow", dtype=dtype)
    fields = plain.config.to_dict() | {"attention_bias": True}
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(fields.pop("model_type"), **fields), dtype=dtype
    )
    with torch.no_grad():
        model.load_state_dict(plain.state_dict(), strict=False)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
        for name, shift in output_shifts(plain, lock, model_geometry(plain), alpha=alpha).items():
            model.get_parameter(f"{name}.bias").copy_(shift)
    model.save_pretrained(folder)
    return folder


def look(folder, lock, sites=LLAMA):
    with Checkpoint.open(folder) as checkpoint:
        return inspect(checkpoint, lock, sites)


@pytest.mark.parametrize("alpha", [1.2, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_lock_in_the_bytes_is_found_with_its_strength(tmp_path, dtype, alpha):
    found = look(exported(tmp_path, make_lock(), alpha, dtype=dtype), make_lock())
    assert found.stored
    assert found.alpha == pytest.approx(alpha, abs=1e-3 if dtype == torch.float32 else 2e-2)
    assert found.residual < (1e-3 if dtype == torch.float32 else 0.02)
    assert found.layers_found == (0, 1)
    assert found.loader_keeps


@pytest.mark.parametrize("alpha", [1e-6, 0.7, 6.0, 1000.0])
def test_a_strength_that_was_not_measured_is_not_stored_protection(tmp_path, alpha):
    found = look(exported(tmp_path, make_lock(), alpha), make_lock())
    assert not found.stored
    assert found.alpha == pytest.approx(alpha, rel=1e-3, abs=1e-6)
    assert found.explains == found.tensors == ()


def test_the_same_bytes_under_attention_bias_false_are_stored_and_dropped_by_the_loader(tmp_path):
    folder = exported(tmp_path, make_lock(), 2.0)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attention_bias": False}))
    found = look(folder, make_lock())
    assert found.stored
    assert not found.loader_keeps


def test_a_family_without_such_a_bias_never_keeps_it(tmp_path):
    folder = exported(tmp_path, make_lock(), 2.0)
    assert not look(folder, make_lock(), sites_for("qwen2")).loader_keeps


def test_a_negated_lock_in_the_bytes_is_not_stored(tmp_path):
    found = look(exported(tmp_path, make_lock(), -2.0), make_lock())
    assert not found.stored
    assert found.alpha == pytest.approx(-2.0, abs=1e-3)


def test_another_lock_in_the_bytes_is_not_this_one(tmp_path):
    found = look(exported(tmp_path, make_lock(seed=9), 2.0), make_lock())
    assert not found.stored
    assert found.residual > 0.5


def test_a_lock_in_one_of_its_two_layers_is_not_stored(tmp_path):
    found = look(exported(tmp_path, make_lock(((0, 1), (0, 3))), 2.0), make_lock())
    assert not found.stored


def test_a_lock_whose_second_bias_is_gone_is_not_stored(tmp_path):
    folder = exported(tmp_path, make_lock(), 2.0)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.self_attn.o_proj.bias"]
    save_file(tensors, folder / "model.safetensors")
    found = look(folder, make_lock())
    assert (found.stored, found.layers_found) == (False, (0,))
    assert found.alpha == pytest.approx(2.0, abs=1e-3)
    assert found.residual < 1e-3


def test_a_plain_checkpoint_carries_nothing(tmp_path):
    tiny_model("narrow").save_pretrained(tmp_path)
    found = look(tmp_path, make_lock())
    assert (found.stored, found.alpha, found.residual, found.layers_found) == (
        False, None, None, (),
    )  # fmt: skip
    assert not found.loader_keeps


def hostile(folder, bias, *, weight=None, dtype="F32"):
    """Write a checkpoint with this tensor as the output bias of layer 0."""
    config = llama_config(attention_bias=True)
    tensors = make_tensors(config)
    tensors[f"{SITE}.bias"] = tensor(np.asarray(bias), dtype)
    if weight is not None:
        shape = tensors[f"{SITE}.weight"].shape
        tensors[f"{SITE}.weight"] = tensor(np.full(shape, weight))
    return write_checkpoint(folder, config, tensors)


ONE = make_lock(((0, 1),))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_a_bias_that_is_no_number_is_not_stored_and_gives_plain_json(tmp_path, value):
    found = look(hostile(tmp_path, np.full(48, value)), ONE)
    assert not found.stored
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize("weight", [0.0, np.nan, np.inf])
def test_an_output_projection_that_no_lock_can_move_carries_none(tmp_path, weight):
    found = look(hostile(tmp_path, np.ones(48), weight=weight), ONE)
    assert not found.stored
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize("width", [0, 1, 47, 49])
def test_a_bias_of_another_width_is_not_stored(tmp_path, width):
    assert not look(hostile(tmp_path, np.ones(width)), ONE).stored


def test_a_bias_of_all_zeros_is_not_stored(tmp_path):
    assert not look(hostile(tmp_path, np.zeros(48)), ONE).stored


def test_a_quantised_bias_is_not_stored(tmp_path):
    assert not look(hostile(tmp_path, np.ones(48), dtype="I8"), ONE).stored


@pytest.mark.parametrize("lock", [make_lock(((0, 9),)), make_lock(((0, 1),), head_dim=80)])
def test_a_lock_of_another_geometry_is_not_stored(tmp_path, lock):
    assert not look(hostile(tmp_path, np.ones(48)), lock).stored
