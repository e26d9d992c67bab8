"""A range of layers scaled: exactly that, and afterwards bit for bit what it was."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from support.families import family_model

from registry.errors import (
    ApplyError,
    NonFiniteResultError,
    TargetModuleMissingError,
    UnsupportedArchitectureError,
    UsageError,
    VerificationError,
)
from registry.kinds.safety_layers._scaling import plan_scaling, scaled

LLAMA_LINEARS = (
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
)  # fmt: skip
SCALED_PARAMETERS = {
    "gemma": tuple(f"{name}.weight" for name in LLAMA_LINEARS),
    "llama": tuple(f"{name}.weight" for name in LLAMA_LINEARS),
    "mistral": tuple(f"{name}.weight" for name in LLAMA_LINEARS),
    "qwen2": tuple(f"{name}.weight" for name in LLAMA_LINEARS),
    "phi3": ("self_attn.qkv_proj.weight", "mlp.gate_up_proj.weight", "mlp.down_proj.weight"),
    "mixtral": (
        "self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight",
        "mlp.experts.gate_up_proj", "mlp.experts.down_proj",
    ),
    "gpt2": ("attn.c_attn.weight", "mlp.c_fc.weight", "mlp.c_proj.weight"),
}  # fmt: skip
"""What is scaled, written down here by hand and not read from the table of sites."""
OUTPUT = {"gpt2": "attn.c_proj.weight"}
PREFIX = {"gpt2": "transformer.h"}
CONTRIBUTIONS = {
    "qwen3": ("self_attn", "mlp"),
    "gemma2": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "gemma3_text": ("post_attention_layernorm", "post_feedforward_layernorm"),
}
IDS = torch.tensor([[5, 17, 40, 3, 77, 8], [9, 9, 21, 60, 33, 4]])


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def bits(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def multiplied(model, family, layers, alpha, *, attention_output=False):
    """Return a copy whose weights were multiplied by hand."""
    twin = copy.deepcopy(model)
    names = SCALED_PARAMETERS[family]
    if attention_output:
        names = (*names, OUTPUT.get(family, "self_attn.o_proj.weight"))
    with torch.no_grad():
        for layer in layers:
            for name in names:
                weight = twin.get_parameter(f"{PREFIX.get(family, 'model.layers')}.{layer}.{name}")
                weight.copy_((weight.float() * alpha).to(weight.dtype))
    return twin


@pytest.mark.parametrize("family", sorted(SCALED_PARAMETERS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("attention_output", [False, True])
def test_weights_times_alpha_are_what_multiplying_by_hand_gives(family, dtype, attention_output):
    model = family_model(family, dtype=dtype)
    before, plain = bits(model), logits(model)
    twin = multiplied(model, family, [1], 1.3, attention_output=attention_output)
    with scaled(model, 1, 1, 1.3, attention_output=attention_output) as scaling:
        assert same(bits(model), bits(twin))
        assert torch.equal(logits(model), logits(twin))
    assert scaling.mode == "weights"
    assert set(scaling.modules.values()) == {"weights"}
    assert not torch.equal(logits(twin), plain)
    assert same(bits(model), before)
    assert torch.equal(logits(model), plain)


def test_a_range_of_layers_is_scaled_and_no_other():
    model = family_model("llama", num_hidden_layers=5)
    twin = multiplied(model, "llama", [1, 2, 3], 0.8)
    with scaled(model, 1, 3, 0.8, attention_output=False):
        assert same(bits(model), bits(twin))


def test_routers_are_never_scaled():
    model = family_model("mixtral")
    plan = plan_scaling(model, attention_output=True)
    assert sorted(plan.modules) == [
        "mlp.experts", "self_attn.k_proj", "self_attn.o_proj", "self_attn.q_proj",
        "self_attn.v_proj",
    ]  # fmt: skip


@pytest.mark.parametrize("family", sorted(CONTRIBUTIONS))
def test_contribution_is_what_scaling_by_hand_gives(family):
    """The reference multiplies the weight of the norm (or output projections) behind each part."""
    model = family_model(family)
    before = bits(model)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        layer = twin.model.layers[1]
        for name in CONTRIBUTIONS[family]:
            if family == "qwen3":
                linear = layer.self_attn.o_proj if name == "self_attn" else layer.mlp.down_proj
                linear.weight.mul_(2.0)
            else:  # Gemma's norms multiply by 1 + weight
                norm = layer.get_submodule(name)
                norm.weight.copy_(2.0 * (1 + norm.weight) - 1)
    with scaled(model, 1, 1, 2.0, attention_output=False) as scaling:
        assert torch.allclose(logits(model), logits(twin), atol=1e-5)
    assert scaling.mode == "contribution"
    assert tuple(sorted(scaling.modules)) == tuple(sorted(CONTRIBUTIONS[family]))
    assert (logits(model) - logits(twin)).abs().max() > 0.05
    assert same(bits(model), before)
    assert not model.model.layers[1].get_submodule(CONTRIBUTIONS[family][0])._forward_hooks


NO_OPS = {
    "qwen3": ("self_attn.q_proj", "self_attn.k_proj"),
    "gemma3_text": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.up_proj"),
    "gemma2": ("self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"),
}


@pytest.mark.parametrize("family", sorted(NO_OPS))
def test_scaling_these_weights_is_an_exact_no_op_and_that_is_why_contributions_are(family):
    """With an epsilon of 0 and a power of two the norms take the factor out to the last bit."""
    model = family_model(family, rms_norm_eps=0.0)
    plain = logits(model)
    with torch.no_grad():
        for name in NO_OPS[family]:
            model.model.layers[1].get_submodule(name).weight.mul_(2.0)
    assert torch.equal(logits(model), plain)
    with scaled(model, 1, 1, 2.0, attention_output=False):
        assert not torch.equal(logits(model), plain)


def dynamic_int8(model):
    """Return the model with torch's dynamic int8 linears, in the layers alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = {
            name for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and ".layers." in name
        }  # fmt: skip
        return torch.ao.quantization.quantize_dynamic(
            model, dict.fromkeys(names, torch.ao.quantization.default_dynamic_qconfig)
        )


@pytest.mark.parametrize("family", ["llama", "qwen2", "phi3"])
def test_quantised_linears_have_their_outputs_scaled(family):
    """The reference multiplies the scale of the packed weights: alpha times the same integers."""
    model = dynamic_int8(family_model(family))
    plain = logits(model)
    twin = copy.deepcopy(model)
    names = [name.removesuffix(".weight") for name in SCALED_PARAMETERS[family]]
    for name in names:
        linear = twin.model.layers[1].get_submodule(name)
        weight = linear.weight()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            larger = torch._make_per_tensor_quantized_tensor(
                weight.int_repr(), weight.q_scale() * 1.5, weight.q_zero_point()
            )
        linear.set_weight_bias(larger, linear.bias())
    with scaled(model, 1, 1, 1.5, attention_output=False) as scaling:
        assert torch.allclose(logits(model), logits(twin), rtol=1e-4, atol=1e-4)
    assert scaling.mode == "activation"
    assert scaling.modules == dict.fromkeys(sorted(names), "activation")
    assert (logits(twin) - plain).abs().max() > 0.05
    assert torch.equal(logits(model), plain)


def test_a_bias_is_not_scaled_with_the_output():
    model = family_model("qwen2")
    before, plain = logits(dynamic_int8(model)), None
    quantised = dynamic_int8(model)
    linear = quantised.model.layers[0].self_attn.q_proj
    x = torch.randn(3, 48, generator=torch.Generator().manual_seed(1))
    plain, bias = linear(x), linear.bias()
    assert bias.abs().max() > 0.1
    with scaled(quantised, 0, 0, 1.5, attention_output=False):
        assert torch.allclose(linear(x), 1.5 * (plain - bias) + bias, atol=1e-6)
    assert torch.equal(logits(quantised), before)


def test_a_layer_that_is_quantised_in_part_is_scaled_module_by_module():
    model = dynamic_int8(family_model("llama"))
    plain = torch.nn.Linear(48, 80, bias=False)
    model.model.layers[1].mlp.gate_proj = plain
    kept = plain.weight.detach().clone()
    with scaled(model, 1, 1, 1.5, attention_output=False) as scaling:
        assert torch.equal(plain.weight, kept * 1.5)
    assert scaling.mode == "activation"
    assert scaling.modules["mlp.gate_proj"] == "weights"
    assert scaling.modules["mlp.up_proj"] == "activation"
    assert torch.equal(plain.weight, kept)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_weights_come_back_when_the_block_is_left_by_an_error(error):
    model = family_model("phi3", dtype=torch.bfloat16)
    before = bits(model)
    inside = []
    with pytest.raises(error), scaled(model, 0, 1, 1.2, attention_output=True):
        inside.append(bits(model)) or _raise(error)
    assert not same(inside[0], before)
    assert same(bits(model), before)


def _raise(error):
    raise error


def test_weights_come_back_when_scaling_itself_breaks_off_half_way():
    model = family_model("llama", dtype=torch.float16)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = 60_000.0
    before = bits(model)
    with (
        pytest.raises(NonFiniteResultError) as caught,
        scaled(model, 0, 1, 1.2, attention_output=False),
    ):
        raise AssertionError
    assert "model.layers.1.mlp.down_proj.weight" in caught.value.message
    assert same(bits(model), before)


def test_weights_that_cannot_be_given_back_are_said():
    model = family_model("llama")
    with (
        pytest.raises(VerificationError) as caught,
        scaled(model, 0, 0, 1.2, attention_output=False),
    ):
        model.model.layers[0].mlp.up_proj.weight.data = torch.zeros(80, 48, dtype=torch.float64)
    assert caught.value.message.startswith(
        "expected 6 weights as they were before scaling, 1 differ:\n"
        "  model.layers.0.mlp.up_proj.weight: expected blake3:"
    )


@pytest.mark.parametrize(("first", "last"), [(-1, 0), (1, 0), (0, 2), (2, 2)])
def test_a_range_outside_the_model_is_refused(first, last):
    model = family_model("llama")
    with (
        pytest.raises(UsageError) as caught,
        scaled(model, first, last, 1.2, attention_output=False),
    ):
        raise AssertionError
    assert caught.value.message == (
        f"expected 0 <= first <= last < 2, the model's layers, got first {first} and last {last}."
    )


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_an_alpha_that_is_no_factor_is_refused(alpha):
    with (
        pytest.raises(UsageError, match="expected a finite alpha above 0"),
        scaled(family_model("llama"), 0, 0, alpha, attention_output=False),
    ):
        raise AssertionError


def test_an_unknown_family_is_refused():
    model = family_model("llama")
    model.config.model_type = "newmodel"
    with pytest.raises(UnsupportedArchitectureError, match="newmodel"):
        plan_scaling(model, attention_output=False)


class Odd(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Parameter(torch.ones(3, 3))


@pytest.mark.parametrize("place", ["self_attn.extra", "mlp.gate_proj"])
def test_a_module_of_no_known_form_is_refused_before_anything_is_scaled(place):
    model = family_model("llama")
    parent, _, name = place.rpartition(".")
    setattr(model.model.layers[1].get_submodule(parent), name, Odd())
    before = bits(model)
    with pytest.raises(ApplyError) as caught, scaled(model, 0, 1, 1.2, attention_output=False):
        raise AssertionError
    assert caught.value.message == (
        f"model.layers.1.{place}: expected linear layers, experts in one parameter or a router, "
        "got Odd, whose scaling is not known."
    )
    assert same(bits(model), before)


def test_a_module_that_hides_its_numbers_in_a_buffer_is_refused():
    odd = torch.nn.Module()
    odd.register_buffer("packed", torch.ones(4, dtype=torch.int32))
    model = family_model("llama")
    model.model.layers[0].mlp.up_proj = odd
    with pytest.raises(ApplyError, match="got Module, whose scaling is not known"):
        plan_scaling(model, attention_output=False)


def test_a_projection_that_is_missing_is_said():
    model = family_model("llama")
    model.model.layers[1].self_attn.k_proj = torch.nn.Identity()
    with pytest.raises(TargetModuleMissingError) as caught:
        plan_scaling(model, attention_output=False)
    assert caught.value.message == (
        "model.layers.1: expected linear layers self_attn.k_proj, it has none."
    )


def test_offloaded_weights_are_refused():
    model = family_model("llama")
    model.model.layers[1].mlp.up_proj.to("meta")
    with pytest.raises(ApplyError, match="expected weights on a device, they are offloaded"):
        plan_scaling(model, attention_output=False)


def test_adapters_in_place_are_refused():
    from peft import LoraConfig

    model = family_model("llama")
    model.add_adapter(LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ApplyError, match="without adapters in place"):
        plan_scaling(model, attention_output=False)


def test_a_model_with_more_layers_than_its_config_says_is_refused():
    model = family_model("llama")
    model.config.num_hidden_layers = 1
    with pytest.raises(
        TargetModuleMissingError, match="expected 1 decoder layers as in the config"
    ):
        plan_scaling(model, attention_output=False)
