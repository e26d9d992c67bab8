"""One selected weight off by one bit is found; the others may be anything."""

from __future__ import annotations

import copy

import pytest
import torch
from support.mask_worlds import FAMILIES, INTS, Masked, masked

from registry.errors import VerificationError
from registry.kinds.esi_mask._matrices import in_parameter, parameter_of
from registry.kinds.esi_mask.apply import apply
from registry.kinds.esi_mask.verify import precondition, verify


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Masked:
    return masked("llama", tmp_path_factory.mktemp("llama"), with_values=True)


def flip(model, name: str, place: int) -> None:
    """Change the last bit of one weight of a parameter."""
    value = model.get_parameter(name).data
    value.view(INTS[value.dtype]).view(-1)[place] ^= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_one_bit_of_one_selected_weight_is_found_in_every_matrix(family, dtype, tmp_path):
    made = masked(family, tmp_path, dtype)
    model = copy.deepcopy(made.model)
    application = apply(model, made.body, owner="one")
    used = [matrix for matrix in made.body.matrices if made.body.counts[matrix.name]]
    for matrix in used:
        indices = made.body.indices(matrix.name)
        name = parameter_of(made.body.sites, matrix)
        place = int(in_parameter(made.body.sites, matrix, indices[-1:])[0])
        flip(model, name, place)
        with pytest.raises(VerificationError) as caught:
            verify(model, made.body, application)
        assert caught.value.message.count("\n") == 1
        assert f"  {matrix.name}: expected blake3:" in caught.value.message
        flip(model, name, place)
    assert verify(model, made.body, application).matrices == len(used)


BY_HAND = {
    # 4 heads of 16 on a width of 48: 64 rows of q, then 32 of k, then 32 of v
    "phi3": ("model.layers.1.self_attn.qkv_proj.weight#k", "model.layers.1.self_attn.qkv_proj.weight", (64, 0), 48),
    # Conv1D: 64 columns of q, then 64 of k, then 64 of v
    "gpt2": ("transformer.h.1.attn.c_attn.weight#v", "transformer.h.1.attn.c_attn.weight", (0, 128), 64),
    # expert 2, w3 below w1: 80 rows each
    "mixtral": ("model.layers.0.block_sparse_moe.experts.2.w3.weight", "model.layers.0.mlp.experts.gate_up_proj", (2, 80, 0), 48),
}  # fmt: skip
"""Family to a matrix, the live parameter that holds it, its first weight there, and its width;
written down here, so that the table of sites does not test itself."""


@pytest.mark.parametrize("family", sorted(BY_HAND))
def test_a_matrix_in_a_fused_parameter_is_where_it_is_by_hand(family, tmp_path):
    name, parameter, (*above, row, column), width = BY_HAND[family]
    made = masked(family, tmp_path, rho=0.2)
    model = copy.deepcopy(made.model)
    application = apply(model, made.body, owner="one")
    selected = set(made.body.indices(name).tolist())
    held = model.get_parameter(parameter).data
    for index in range(4 * width):
        place = (*above, row + index // width, column + index % width)
        held.view(torch.int32)[place] ^= 1
        if index in selected:
            with pytest.raises(VerificationError, match=name.replace(".", r"\.")):
                verify(model, made.body, application)
        else:
            verify(model, made.body, application)
        held.view(torch.int32)[place] ^= 1
    assert 0 < len([index for index in selected if index < 4 * width]) < 4 * width


def test_weights_that_are_not_selected_may_be_anything(llama):
    model = llama.tuned()
    application = apply(model, llama.body, base=llama.base(), owner="one")
    places = llama.places()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            mask = torch.from_numpy(places[name]) if name in places else False
            parameter.copy_(torch.where(torch.as_tensor(mask), parameter, torch.nan))
    assert verify(model, llama.body, application).level == "digest"


def test_every_finding_is_listed_with_whose_values_were_expected(llama):
    for made, whose in ((llama, "the base's"), (llama.as_delta(), "the delta's")):
        model = made.tuned()
        application = apply(model, made.body, base=made.base(), owner="one")
        names = sorted(name for name, mask in made.places().items() if mask.any())
        with torch.no_grad():
            for name in names:
                model.get_parameter(name).add_(1)
        model.model.layers[0].mlp.up_proj.weight = None
        with pytest.raises(VerificationError) as caught:
            verify(model, made.body, application)
        first, *lines = caught.value.message.splitlines()
        assert first == f"the selected weights of the model are not {whose}:"
        assert [line.split(":")[0].strip() for line in lines] == names
        assert "model.layers.0.mlp.up_proj.weight: expected a parameter" in caught.value.message


def test_a_narrower_model_that_changed_since_is_found(llama):
    model = llama.tuned(torch.bfloat16)
    application = apply(model, llama.body, base=llama.base(), owner="one")
    assert verify(model, llama.body, application).level == "rounded"
    name = "model.layers.1.mlp.down_proj.weight"
    flip(model, name, int(llama.body.indices(name)[0]))
    with pytest.raises(VerificationError, match="its bits are not those that apply put there"):
        verify(model, llama.body, application)


def test_a_model_that_was_cast_down_since_is_not_vouched_for(llama):
    model = llama.tuned()
    application = apply(model, llama.body, base=llama.base(), owner="one")
    with pytest.raises(VerificationError, match="its bits are not those that apply put there"):
        verify(model.to(torch.bfloat16), llama.body, application)


def test_nothing_must_hold_before_a_mask_is_applied(llama):
    assert precondition(llama.model, lambda: None, llama.body) is None
