"""Selected weights go in bit for bit, all or none; every other weight stays; undo gives all back."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.families import family_model
from support.locks import make_lock, snapshot
from support.mask_worlds import FAMILIES, INTS, Masked, masked, saved

from registry.errors import (
    AlreadyAppliedError,
    ApplyError,
    CheckpointNotFoundError,
    DigestMismatchError,
    GeometryError,
    UsageError,
)
from registry.kinds.esi_mask.apply import apply, undo
from registry.kinds.esi_mask.verify import verify
from registry.kinds.safety_lock import apply as lock

DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Masked:
    return masked("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def bf16(tmp_path_factory: pytest.TempPathFactory) -> Masked:
    return masked("llama", tmp_path_factory.mktemp("bf16"), torch.bfloat16, with_values=True)


# In, read back, given back


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", ["mask", "delta"])
@pytest.mark.parametrize("family", FAMILIES)
def test_selected_weights_are_what_they_must_be_and_undo_restores_every_bit(
    family, form, dtype, tmp_path
):
    made = masked(family, tmp_path / "base", dtype, with_values=dtype == torch.bfloat16)
    made = made.as_delta() if form == "delta" else made
    model = made.tuned()
    before = snapshot(model)
    objects = {name: (id(p), p.data_ptr()) for name, p in model.named_parameters()}
    drifted = load_file(saved(model, tmp_path / "tuned") / "model.safetensors")
    application = apply(model, made.body, base=made.base(), owner="one")
    base = load_file(made.folder / "model.safetensors")
    now = load_file(saved(model, tmp_path / "saved") / "model.safetensors")
    places, written = made.places(), 0
    for name, value in now.items():
        bits, old, was = (t.view(INTS[dtype]) for t in (value, base[name], drifted[name]))
        mask = torch.from_numpy(places.get(name, np.zeros(value.shape, dtype=bool)))
        wanted = old[mask] ^ 1 if form == "delta" else old[mask]
        assert torch.equal(bits[mask], wanted), name
        assert torch.equal(bits[~mask], was[~mask]), name
        written += int((bits != was).sum())
    evidence = verify(model, made.body, application).to_dict()
    used = sum(1 for count in made.body.counts.values() if count)
    assert evidence["level"] == "digest"
    assert (evidence["weights"], evidence["matrices"]) == (made.body.selected, used)
    assert evidence["drifted"] == (used if form == "delta" else None)
    assert evidence["written"] == written > made.body.selected / 2
    assert made.inspect(tmp_path / "saved").stored
    undo(model, application)
    assert snapshot(model) == before
    assert {name: (id(p), p.data_ptr()) for name, p in model.named_parameters()} == objects
    with torch.no_grad():
        next(iter(model.parameters())).zero_()
    trained = snapshot(model)
    undo(model, application)  # again is no news: what was trained since is not overwritten
    assert snapshot(model) == trained


def test_columns_are_written_where_algorithms_must_be_deterministic(tmp_path):
    made = masked("gpt2", tmp_path / "base")
    model = made.tuned()
    before = snapshot(model)
    torch.use_deterministic_algorithms(True)
    try:
        application = apply(model, made.body, base=made.base(), owner="one")
        verify(model, made.body, application)
        undo(model, application)
    finally:
        torch.use_deterministic_algorithms(False)
    assert snapshot(model) == before


def test_only_what_drifted_is_read_and_written(llama):
    model = copy.deepcopy(llama.model)
    (index,) = llama.body.indices(DOWN)[:1]
    with torch.no_grad():
        model.get_parameter(DOWN).view(-1).view(torch.int32)[int(index)] ^= 1
    base = llama.base()
    application = apply(model, llama.body, base=base, owner="one")
    assert base.asked == [DOWN]
    assert snapshot(model) == snapshot(llama.model)
    assert verify(model, llama.body, application).written == 1
    assert list(application.originals) == [DOWN]


def test_the_base_itself_needs_no_base_and_nothing_is_written(llama):
    model = copy.deepcopy(llama.model)
    versions = {name: value._version for name, value in model.named_parameters()}
    application = apply(model, llama.body, owner="one")
    assert verify(model, llama.body, application).written == 0
    undo(model, application)
    assert {name: value._version for name, value in model.named_parameters()} == versions


def test_a_mask_with_values_needs_no_base_and_one_without_is_refused(llama, bf16):
    apply(bf16.tuned(), bf16.body, owner="one")
    model = llama.tuned()
    before = snapshot(model)
    with pytest.raises(CheckpointNotFoundError) as caught:
        apply(model, llama.body, owner="one")
    assert "got neither the base nor an artifact that has them" in caught.value.message
    assert caught.value.hint.startswith("Say where the base is: base=DIR")
    assert snapshot(model) == before


def test_a_delta_on_its_base_says_that_nothing_had_drifted(llama):
    made = llama.as_delta()
    model = copy.deepcopy(made.model)
    evidence = verify(model, made.body, apply(model, made.body, owner="one"))
    assert (evidence.drifted, evidence.written) == (0, made.body.selected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_bf16_base_goes_into_a_wider_model_exactly(bf16, dtype):
    model = bf16.tuned(dtype)
    before = snapshot(model)
    application = apply(model, bf16.body, owner="one")
    assert verify(model, bf16.body, application).level == "digest"
    places = torch.from_numpy(bf16.places()[DOWN])
    base = load_file(bf16.folder / "model.safetensors")[DOWN]
    assert torch.equal(model.get_parameter(DOWN)[places], base[places].to(dtype))
    undo(model, application)
    assert snapshot(model) == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_narrower_model_gets_the_values_rounded_and_the_evidence_says_so(llama, dtype):
    made = llama.as_delta()
    for one, drifted in ((llama, None), (made, None)):
        model = one.tuned(dtype)
        before = snapshot(model)
        application = apply(model, one.body, base=one.base(), owner="one")
        evidence = verify(model, one.body, application)
        assert (evidence.level, evidence.drifted) == ("rounded", drifted)
        undo(model, application)
        assert snapshot(model) == before


def test_a_deep_copy_carries_its_own_application(llama):
    model = llama.tuned()
    before = snapshot(model)
    model.kept = apply(model, llama.body, base=llama.base(), owner="one")
    copied = copy.deepcopy(model)
    undo(copied, copied.kept)
    assert snapshot(copied) == before
    verify(model, llama.body, model.kept)


# All or none


def test_an_interruption_while_writing_leaves_the_model_as_it_was(llama, monkeypatch):
    model = llama.tuned()
    before, written = snapshot(model), []
    real = torch.Tensor.index_copy_

    def interrupted(self, *args):
        written.append(self)
        if len(written) == 5:
            raise KeyboardInterrupt
        return real(self, *args)

    monkeypatch.setattr(torch.Tensor, "index_copy_", interrupted)
    with pytest.raises(KeyboardInterrupt):
        apply(model, llama.body, base=llama.base(), owner="one")
    monkeypatch.undo()
    assert len(written) > 5
    assert snapshot(model) == before
    apply(model, llama.body, base=llama.base(), owner="one")  # it is not half on


def test_a_tensor_that_cannot_be_read_leaves_the_model_as_it_was(llama):
    model = llama.tuned()
    before = snapshot(model)
    last = max(m.tensor for m in llama.body.matrices if llama.body.counts[m.name])
    with pytest.raises(CheckpointNotFoundError, match="gone"):
        apply(model, llama.body, base=llama.base(absent=last), owner="one")
    assert snapshot(model) == before


def test_a_fine_tune_that_is_named_as_the_base_is_refused(llama, tmp_path):
    model = llama.tuned()
    before = snapshot(model)
    with pytest.raises(DigestMismatchError, match=r"of blake3:.* got blake3:"):
        apply(model, llama.body, base=llama.base(saved(model, tmp_path)), owner="one")
    assert snapshot(model) == before


def test_an_artifact_whose_digests_are_not_of_its_base_is_refused(llama):
    """Without values they cannot be checked before the base is at hand."""
    model = llama.tuned()
    before = snapshot(model)
    wrong = np.array(llama.body.digests)
    wrong[:, 0] ^= 1
    with pytest.raises(DigestMismatchError, match="as the artifact says, the base has blake3:"):
        apply(model, replace(llama.body, digests=wrong), base=llama.base(), owner="one")
    assert snapshot(model) == before


def test_a_strength_and_the_same_owner_twice_are_refused(llama):
    model = llama.tuned()
    with pytest.raises(UsageError, match="which has no strength, got 1"):
        apply(model, llama.body, base=llama.base(), owner="one", alpha=1.0)
    apply(model, llama.body, base=llama.base(), owner="one")
    once = snapshot(model)
    with pytest.raises(AlreadyAppliedError, match="one is on this model already"):
        apply(model, llama.body, base=llama.base(), owner="one")
    assert snapshot(model) == once


def test_a_model_of_another_depth_or_family_is_refused(llama):
    deeper = family_model("llama", num_hidden_layers=3)
    with pytest.raises(GeometryError, match="a llama of 2 layers as the base, got a llama of 3"):
        apply(deeper, llama.body, base=llama.base(), owner="one")
    with pytest.raises(GeometryError, match="got a qwen2 of 2"):
        apply(family_model("qwen2"), llama.body, base=llama.base(), owner="one")


def test_weights_that_are_offloaded_packed_or_reshaped_are_refused_by_name(llama):
    class Packed(torch.nn.Parameter):
        pass

    model = llama.tuned()
    before = snapshot(model)
    first, second = model.model.layers[0].mlp, model.model.layers[1].mlp
    kept = first.up_proj.weight, second.down_proj.weight, second.up_proj.weight
    first.up_proj.weight = torch.nn.Parameter(kept[0].to("meta"))
    second.down_proj.weight = Packed(kept[1].detach())
    second.up_proj.weight = torch.nn.Parameter(kept[2].detach()[:-1])
    with pytest.raises(ApplyError) as caught:
        apply(model, llama.body, base=llama.base(), owner="one")
    assert caught.value.message == (
        "expected plain weights where the mask has selected some; the model is as it was:\n"
        "  model.layers.0.mlp.up_proj.weight: expected weights on a device, they are offloaded\n"
        "  model.layers.1.mlp.down_proj.weight: expected a plain parameter, got Packed\n"
        "  model.layers.1.mlp.up_proj.weight: expected [80, 48] as in the base, the model has "
        "model.layers.1.mlp.up_proj.weight of shape [79, 48]."
    )
    first.up_proj.weight, second.down_proj.weight, second.up_proj.weight = kept
    assert snapshot(model) == before


# Other artifacts on the same model


def test_a_lock_must_go_on_after_the_weights_and_come_off_before_them(llama):
    model = llama.tuned()
    before = snapshot(model)
    locked = lock.apply(model, make_lock(heads=((1, 0),)), owner="lock@1.0")
    on = snapshot(model)
    with pytest.raises(ApplyError, match=r"that are written, got lock@1\.0: "):
        apply(model, llama.body, base=llama.base(), owner="mask@1.0")
    assert snapshot(model) == on
    lock.undo(model, locked)
    application = apply(model, llama.body, base=llama.base(), owner="mask@1.0")
    locked = lock.apply(model, make_lock(heads=((1, 0),)), owner="lock@1.0")
    verify(model, llama.body, application)
    with pytest.raises(ApplyError) as caught:
        undo(model, application)
    assert caught.value.message == (
        "expected mask@1.0 to come off last, lock@1.0 went on after it and holds for these "
        "weights; nothing was changed."
    )
    lock.undo(model, locked)
    undo(model, application)
    assert snapshot(model) == before


def test_two_deltas_of_one_matrix_are_refused(llama, tmp_path):
    """The second one's base values are not what the first one leaves."""
    one, other = llama.as_delta(), masked("llama", tmp_path, seed=1).as_delta()
    model = llama.tuned()
    apply(model, one.body, owner="one")
    once = snapshot(model)
    with pytest.raises(ApplyError, match="that are written, got one"):
        apply(model, other.body, owner="two")
    assert snapshot(model) == once


def test_a_mask_that_is_restored_by_another_comes_off_in_any_order(llama, tmp_path):
    """A second mask of the same matrices goes on where it finds the base's values alone."""
    model = copy.deepcopy(llama.model)
    other = masked("llama", tmp_path, seed=1)
    first = apply(model, llama.body, owner="one")
    second = apply(model, other.body, owner="two")
    undo(model, first)
    undo(model, second)
    assert snapshot(model) == snapshot(llama.model)
