"""A live model is read back: every protected tensor is the base's, or all that is not is named."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from support.guarded import layers_bundle, layers_model
from support.locks import make_lock

from registry.checkpoint.sketch import positions
from registry.errors import ApplyError, GeometryError, GuardError, VerificationError
from registry.kinds import parse_body
from registry.kinds.safety_layers.apply import apply
from registry.kinds.safety_layers.guard import guard
from registry.kinds.safety_layers.verify import REPAIR, precondition, verify
from registry.kinds.safety_lock import apply as lock

if TYPE_CHECKING:
    from pathlib import Path

    from registry.kinds.safety_layers.body import LayersBody

DOWN = "model.layers.2.mlp.down_proj.weight"
QUERY = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, LayersBody]:
    return body_of(layers_model(), tmp_path_factory.mktemp("base"))


def body_of(model: Any, folder: Path) -> tuple[Any, LayersBody]:
    return model, parse_body(layers_bundle(model, folder))


def on(made: tuple[Any, LayersBody], dtype: torch.dtype | None = None) -> tuple[Any, Any, Any]:
    """Return a copy of the base with its layers on it, nothing having drifted."""
    model = copy.deepcopy(made[0])
    if dtype is not None:
        model = model.to(dtype)
    return model, made[1], apply(model, made[1], owner="one")


def edit(model: Any, name: str, index: int = 0, by: float = 1.0) -> None:
    with torch.no_grad():
        model.get_parameter(name).view(-1)[index] += by


def test_nothing_must_hold_of_the_model_before(made):
    assert precondition(*made, None) is None


def test_every_tensor_is_the_base_s_to_the_last_bit(made):
    assert verify(*on(made)).to_dict() == {
        "tensors": 18, "level": "digest", "layers": [1, 2], "restored": 0,
    }  # fmt: skip


def test_one_bit_that_changed_is_found_and_every_finding_is_listed(made):
    model, body, application = on(made)
    with torch.no_grad():
        model.get_parameter(DOWN).view(torch.int32)[7, 7] ^= 1
    edit(model, QUERY)
    edit(model, "model.layers.3.self_attn.q_proj.weight")  # outside the range
    with pytest.raises(VerificationError) as caught:
        verify(model, body, application)
    lines = caught.value.message.splitlines()
    assert lines[0] == "the protected layers of the model are not the base's:"
    assert [line.split(": expected blake3:")[0] for line in lines[1:]] == [
        f"  {QUERY}",
        f"  {DOWN}",
    ]
    assert caught.value.hint == REPAIR


def test_a_wider_model_must_hold_values_of_the_base_s_dtype(tmp_path):
    base = body_of(layers_model(dtype=torch.bfloat16), tmp_path)
    model, body, application = on(base, torch.float32)
    assert verify(model, body, application).level == "digest"
    with torch.no_grad():
        model.get_parameter(DOWN).view(torch.int32)[7, 7] ^= 1
    with pytest.raises(
        VerificationError, match=r"down_proj\.weight: .* that bfloat16 does not have"
    ):
        verify(model, body, application)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_narrower_model_is_compared_at_the_samples(made, dtype):
    model, body, application = on(made, dtype)
    assert verify(model, body, application).level == "samples"
    edit(model, DOWN, int(positions(DOWN, (48, 80))[5]))
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(VerificationError, match=f"rounded to {name}, [123] of 3840 sampled ones"):
        verify(model, body, application)


def test_a_narrower_model_must_hold_the_bits_it_had_at_apply(made):
    model, body, application = on(made, torch.bfloat16)
    where = min(set(range(48 * 80)) - set(positions(DOWN, (48, 80)).tolist()))
    edit(model, DOWN, where)
    with pytest.raises(
        VerificationError,
        match=r"its bits have changed since apply: expected blake3:\w+, got blake3:",
    ):
        verify(model, body, application)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_tensor_that_was_cast_to_a_narrower_dtype_since_is_found(made, dtype):
    """What was the base's bit for bit does not become samples: an edit can spare those."""
    model, body, application = on(made)
    assert verify(model, body, application).level == "digest"
    model.to(dtype)
    weight = model.get_parameter(DOWN)
    spared = torch.ones(weight.numel(), dtype=torch.bool)
    spared[torch.from_numpy(positions(DOWN, tuple(weight.shape)))] = False
    with torch.no_grad():
        weight.view(-1)[spared] += 5
    with pytest.raises(VerificationError) as caught:
        verify(model, body, application)
    name = str(dtype).removeprefix("torch.")
    assert (
        f"  {DOWN}: expected in float32 as at apply, it was cast to {name} since"
        in caught.value.message.splitlines()
    )


def test_values_that_are_no_longer_the_narrow_base_s_are_found_between_the_samples(tmp_path):
    """Of a wide base with narrow values a narrow model was proven whole: it stays so."""
    base = body_of(layers_model(dtype=torch.bfloat16).float(), tmp_path)
    model, body, application = on(base, torch.bfloat16)
    where = min(set(range(48 * 80)) - set(positions(DOWN, (48, 80)).tolist()))
    edit(model, DOWN, where)
    with pytest.raises(VerificationError, match=r"down_proj\.weight: its bits have changed since"):
        verify(model, body, application)


def test_an_8_bit_tensor_that_drifted_is_named(tmp_path):
    """Torch promotes no 8-bit float: its error would say nothing about the tensor."""
    model, body, application = on(body_of(layers_model(), tmp_path))
    entry = next(entry for entry in body.protected if entry.name == DOWN)
    small = replace(entry, dtype="F8_E4M3")
    others = (other for other in body.protected if other is not entry)
    body = replace(body, protected=(*others, small))
    with pytest.raises(VerificationError) as caught:
        verify(model, body, application)
    (line,) = caught.value.message.splitlines()[1:]
    got = "values that float8_e4m3fn does not have"
    assert line == f"  {DOWN}: expected {entry.digest} as in the base, got {got}"


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
def test_weights_of_eight_bits_are_not_the_base_s_rounded(made, dtype):
    model, body, application = on(made)
    down = model.get_submodule(DOWN.removesuffix(".weight"))
    small = torch.nn.Parameter(down.weight.detach().to(dtype), requires_grad=False)
    down.weight = small
    with pytest.raises(VerificationError, match=r"down_proj\.weight: expected blake3:\w+ as in"):
        verify(model, body, application)


@pytest.mark.parametrize("norms", ["frozen", "trainable"])
def test_a_module_right_below_a_protected_layer_is_found(tmp_path, norms):
    model = layers_model()
    body = parse_body(layers_bundle(model, tmp_path, norms=norms))
    application, held = apply(model, body, owner="one"), guard(model, body)
    model.model.layers[1].adapter = torch.nn.Linear(48, 48, bias=False)
    model.model.layers[3].adapter = torch.nn.Linear(48, 48, bias=False)  # outside the range
    name = "model.layers.1.adapter.weight"
    with pytest.raises(VerificationError) as caught:
        verify(model, body, application)
    assert caught.value.message.splitlines()[1:] == [
        f"  {name}: expected in the base, it has no such parameter"
    ]
    with pytest.raises(GuardError) as refused:
        held.verify()
    assert refused.value.message == (
        f"expected only the base's parameters inside layers 1 to 2, got 1 more:\n  {name}"
    )
    with pytest.raises(ApplyError, match=r"got 1 more:\n  model\.layers\.1\.adapter\.weight"):
        apply(model, body, owner="two")


def test_the_guard_names_both_digests(made):
    model = copy.deepcopy(made[0])
    edit(model, DOWN)
    both = r"(?m)down_proj\.weight: expected blake3:\w+( as in the base)?, got blake3:\w+$"
    with pytest.raises(VerificationError, match=both):
        guard(model, made[1])
    model = copy.deepcopy(made[0])
    held = guard(model, made[1])
    edit(model, DOWN)
    with pytest.raises(VerificationError, match=both):
        held.verify()


def test_a_base_whose_values_are_narrow_is_proven_in_a_narrow_model(tmp_path):
    base = body_of(layers_model(dtype=torch.bfloat16).float(), tmp_path)
    assert base[1].protected[0].dtype == "F32"
    assert verify(*on(base, torch.bfloat16)).level == "digest"


def test_a_tensor_that_is_gone_reshaped_or_added_is_found(made):
    model, body, application = on(made)
    first, second = model.model.layers[1], model.model.layers[2]
    second.mlp.down_proj.weight = torch.nn.Parameter(torch.zeros(80, 48))
    first.self_attn.o_proj.bias = torch.nn.Parameter(torch.zeros(48))
    del first.input_layernorm.weight
    with pytest.raises(VerificationError) as caught:
        verify(model, body, application)
    message = caught.value.message
    assert "input_layernorm.weight: expected a tensor of shape [48], got none" in message
    assert "down_proj.weight: expected shape [48, 80], got [80, 48]" in message
    assert "o_proj.bias: expected in the base, it has no such parameter" in message


def test_a_bias_that_this_package_attached_is_not_taken_for_drift(made):
    model, body, application = on(made)
    lock.apply(model, make_lock(heads=((1, 0), (2, 1))), owner="lock@1.0")
    assert verify(model, body, application).level == "digest"


def test_an_expert_that_changed_is_named_as_the_files_name_it(tmp_path):
    model, body, application = on(body_of(layers_model("mixtral"), tmp_path))
    edit(model, "model.layers.2.mlp.experts.down_proj", 48 * 80)
    with pytest.raises(VerificationError) as caught:
        verify(model, body, application)
    (line,) = caught.value.message.splitlines()[1:]
    assert line.startswith("  model.layers.2.block_sparse_moe.experts.1.w2.weight: expected blake3")


def test_layers_that_were_put_out_of_the_model_are_found(made):
    model, body, application = on(made)
    model.config.num_hidden_layers = 3
    del model.model.layers[3]
    with pytest.raises(GeometryError, match="of 4 layers as the base, got a llama of 3"):
        verify(model, body, application)
