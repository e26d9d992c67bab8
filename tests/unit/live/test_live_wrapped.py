"""Names under wrappers: what a model had, what an adapter brought, and what cannot be read."""

from __future__ import annotations

import pytest
import torch
from support.families import family_model

from registry.errors import GuardError
from registry.live.wrapped import gathered, innermost, look_under

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")

Q0 = "model.layers.0.self_attn.q_proj"


def adapted(model, **options):
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(**{"target_modules": ["q_proj"], "r": 2, **options}))


def test_a_plain_model_is_itself():
    model = family_model("llama")
    found = look_under(model)
    assert found.model is model
    assert found.own == dict(model.named_parameters())
    assert found.brought == {}
    assert found.adapters == {}
    assert found.config is model.config
    assert found.path == ""


def test_what_an_adapter_brought_is_told_from_what_the_model_had():
    model = family_model("llama")
    names = [name for name, _ in model.named_parameters()]
    whole = torch.nn.DataParallel(
        torch.compile(adapted(model, modules_to_save=["lm_head"]), backend="eager")
    )
    found = look_under(whole)
    assert found.model is model
    assert found.path == ".module._orig_mod.get_base_model()"
    assert innermost(whole) is model
    assert list(found.own) == names
    assert set(found.brought) == {
        f"model.layers.{layer}.self_attn.q_proj.lora_{factor}.default.weight"
        for layer in (0, 1) for factor in "AB"
    } | {"lm_head.weight"}  # fmt: skip
    assert found.brought["lm_head.weight"] is not found.own["lm_head.weight"]
    assert list(found.adapters) == ["default"]


def test_modules_that_are_wrapped_one_by_one_keep_their_names():
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    model = family_model("llama")
    names = [name for name, _ in model.named_parameters()]
    model.model.layers[0] = checkpoint_wrapper(model.model.layers[0])
    model.model.layers[1] = torch.compile(model.model.layers[1], backend="eager")
    assert list(look_under(model).own) == names


def test_tied_parameters_are_found_under_both_names_and_listed_once():
    model = family_model("llama", tie_word_embeddings=True)
    found = look_under(model)
    assert found.own["lm_head.weight"] is found.own["model.embed_tokens.weight"]
    assert [name for name, _ in found.named_parameters()] == [
        name for name, _ in model.named_parameters()
    ]


def test_a_part_that_is_not_loaded_is_refused():
    model = family_model("llama")
    model.get_submodule(Q0).to("meta")
    with pytest.raises(GuardError, match=r"1 of 21 parameters are offloaded") as caught:
        look_under(model)
    assert f"{Q0}.weight" in caught.value.message
    assert innermost(model) is model


def test_a_whole_tensor_is_itself():
    tensor = torch.ones(2)
    assert gathered(tensor) is tensor
