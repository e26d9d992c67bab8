"""``protect`` on a model in memory: applied and read back, or as it was."""

from __future__ import annotations

import copy
import sqlite3
from dataclasses import replace

import pytest
import torch
from support.families import family_model
from support.locks import (
    bundle_of,
    fine_tuned,
    make_lock,
    packaged_planted,
    read_record,
    snapshot,
    tiny_model,
)

from registry import protect, protected, unprotect
from registry.artifact.bundle import write_bundle
from registry.errors import (
    AlreadyAppliedError,
    BaseModelMismatchError,
    ConfirmationRequiredError,
    DatabaseBusyError,
    EvidenceError,
    GeometryError,
    HubError,
    NonFiniteResultError,
    SafelatchError,
    VerificationError,
    VersionConflictError,
)
from registry.live.attach import owners
from registry.store import session
from registry.workflows.applied import applied_to


@pytest.fixture
def model(world):
    return copy.deepcopy(world.tuned)


def test_a_protected_model_is_verified_and_undo_restores_every_bit(world, model):
    before = snapshot(model)
    applied = protect(model, world.lock)
    assert applied.verified_at is not None
    assert applied.alpha == 1.0
    assert model.safelatch.verified
    assert applied_to(model) == (applied,)
    assert len(repr(applied)) < 2000  # a line of a notebook, not the weights
    assert snapshot(model) != before
    applied.undo()
    assert snapshot(model) == before
    assert not model.safelatch.verified
    applied.undo()  # again is no news
    assert snapshot(model) == before


@pytest.mark.parametrize("form", ["bundle", "path", "text", "file URL", "label", "digest", "name"])
def test_an_artifact_may_be_named_in_every_form(world, registry, model, form):
    version = registry.versions("planted-lock")[0]
    artifact = {
        "bundle": world.bundle, "path": world.lock, "text": str(world.lock),
        "file URL": f"file://{world.lock}", "label": version.label, "digest": version.digest,
        "name": "planted-lock",
    }[form]  # fmt: skip
    assert protect(model, artifact, registry=registry).verified_at


def test_a_name_in_a_file_reference_must_be_the_bundles(world, model):
    with pytest.raises(VersionConflictError, match="expected other@1"):
        protect(model, f"file://{world.lock}#other@1")


def test_a_hub_that_cannot_be_asked_is_told_with_the_way_out(model, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="got: offline mode") as caught:
        protect(model, "hf://org/lock")
    assert caught.value.hint == "Leave the offline mode: unset HF_HUB_OFFLINE"


@pytest.mark.parametrize("alpha", [-0.1, -6.0, 1.51, 6.0])
def test_a_strength_outside_the_measured_range_is_refused_and_allow_unsafe_opens_it(
    world, model, alpha
):
    before = snapshot(model)
    with pytest.raises(ConfirmationRequiredError, match=r"\[0, 1.5\]"):
        protect(model, world.lock, alpha=alpha)
    assert snapshot(model) == before
    applied = protect(model, world.lock, alpha=alpha, allow_unsafe=True)
    assert applied.alpha == alpha
    assert snapshot(model) != before


def test_an_unmeasured_strength_that_cannot_be_written_down_does_not_stay(
    world, model, registry, home, monkeypatch
):
    monkeypatch.setattr(session, "PATIENCE_S", 0.05)
    holder = sqlite3.connect(home / "registry.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    before = snapshot(model)
    try:
        with pytest.raises(DatabaseBusyError):
            protect(model, world.lock, alpha=6.0, allow_unsafe=True)
    finally:
        holder.close()
    assert snapshot(model) == before
    assert applied_to(model) == ()


def test_a_bias_of_the_model_that_undoes_the_lock_is_refused(tmp_path):
    model = tiny_model("biased")
    model.save_pretrained(tmp_path)
    lock = bundle_of(read_record(tmp_path), make_lock())
    applied = protect(model, lock)
    shift = model.model.layers[0].self_attn.o_proj.bias.detach().clone()
    applied.undo()
    own = model.model.layers[0].self_attn.o_proj.bias
    with torch.no_grad():
        own.sub_(shift - own)
    with pytest.raises(BaseModelMismatchError, match="expected a fine-tune of tiny-base"):
        protect(model, lock)


def test_a_second_lock_is_measured_against_the_model_without_the_first(tmp_path):
    model = tiny_model("biased")
    model.save_pretrained(tmp_path)
    record = read_record(tmp_path)
    protect(model, bundle_of(record, make_lock()))
    protect(model, bundle_of(record, make_lock(seed=1)))
    assert len(applied_to(model)) == 2


def test_a_strength_of_zero_is_no_protection(world, model):
    before = snapshot(model)
    with pytest.raises(VerificationError, match="moves nothing"):
        protect(model, world.lock, alpha=0.0)
    assert snapshot(model) == before
    assert applied_to(model) == ()


def test_a_strength_beyond_fp16_is_refused_with_nothing_changed(world, model):
    model.half()
    before = snapshot(model)
    with pytest.raises(NonFiniteResultError):
        protect(model, world.lock, alpha=1e8, allow_unsafe=True)
    assert snapshot(model) == before
    assert owners(model) == []


def test_twice_is_refused_under_any_name_and_leaves_the_first(world, registry, model):
    applied = protect(model, world.lock)
    once = snapshot(model)
    for again in (world.lock, world.bundle.named("other", "3.0"), "planted-lock@1.0.0"):
        with pytest.raises(AlreadyAppliedError, match="already"):
            protect(model, again, registry=registry)
    assert snapshot(model) == once
    assert applied_to(model) == (applied,)
    assert applied.verify()["modules"] == 2


def test_two_locks_come_off_together(world, model):
    before = snapshot(model)
    protect(model, world.lock)
    other = world.edited(directions=world.directions[:, ::-1].copy(), shift_norms=None)
    protect(model, other)
    assert len(applied_to(model)) == 2
    assert model.safelatch.verified
    assert unprotect(model) == 2
    assert snapshot(model) == before
    assert unprotect(model) == 0


def test_the_context_manager_takes_it_off_when_the_block_fails(world, model):
    before = snapshot(model)

    def failing():
        with protected(model, world.lock) as applied:
            assert applied.verified_at
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert snapshot(model) == before


def test_a_lock_that_is_lost_is_no_longer_called_verified(world, model):
    applied = protect(model, world.lock)
    module = model.model.layers[0].self_attn.o_proj
    bias = module.bias
    module.bias = None
    with pytest.raises(VerificationError):
        applied.verify()
    assert applied.verified_at is None
    assert applied.evidence == {}
    assert not model.safelatch.verified
    assert not model.safelatch.to_dict()["verified"]
    module.bias = bias
    applied.verify()
    assert model.safelatch.verified


def test_what_cannot_be_verified_is_taken_off_again(world, model, monkeypatch):
    before = snapshot(model)
    model.model.layers[0].self_attn.o_proj.register_forward_hook(lambda _m, _a, out: out * 0)
    with pytest.raises(VerificationError):
        protect(model, world.lock)
    assert snapshot(model) == before
    assert applied_to(model) == ()


def test_a_deep_copy_carries_its_own_protection(world, model):
    before = snapshot(model)
    protect(model, world.lock)
    copied = copy.deepcopy(model)
    assert copied.safelatch.applied[0].verify()["modules"] == 2
    assert unprotect(copied) == 1
    assert snapshot(copied) == before
    assert model.safelatch.applied[0].verify()["modules"] == 2
    assert unprotect(model) == 1
    assert snapshot(model) == before


# Models that must not get this lock


def test_a_model_of_the_same_shapes_with_other_weights_is_refused_with_its_distance(world):
    other = packaged_planted(seed=1).model
    with torch.no_grad():
        for parameter in other.parameters():
            if parameter.ndim > 1:
                noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
                parameter.add_(parameter.std() * noise)
    before = snapshot(other)
    with pytest.raises(BaseModelMismatchError, match=r"within distance 0\.25.*at distance \d\.\d"):
        protect(other, world.lock)
    assert snapshot(other) == before


def test_a_model_of_other_shapes_is_refused(world):
    with pytest.raises(BaseModelMismatchError, match="inf"):
        protect(tiny_model("narrow"), world.lock)


def test_a_model_of_another_family_is_refused_with_what_differs(world):
    with pytest.raises(GeometryError) as refused:
        protect(family_model("qwen2"), world.lock)
    assert "family: expected llama, got qwen2." in refused.value.message
    assert "distance" not in refused.value.message


def test_a_model_with_nan_weights_is_refused(world, model):
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.fill_(float("nan"))
    with pytest.raises(BaseModelMismatchError, match="inf"):
        protect(model, world.lock)


def test_a_fine_tune_with_more_words_is_accepted(world):
    model = fine_tuned(world.planted.model)
    model.resize_token_embeddings(len(world.planted.tokenizer) + 8)
    assert protect(model, world.lock).verified_at


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rope_parameters", {"rope_theta": 5e5, "rope_type": "default"}),
        ("rms_norm_eps", 0.1), ("num_attention_heads", 2), ("num_key_value_heads", 4),
        ("hidden_act", "gelu"),
    ],
)  # fmt: skip
def test_a_model_that_computes_with_another_config_is_refused(world, model, field, value):
    setattr(model.config, field, value)
    names = {"num_attention_heads": "head_dim", "num_key_value_heads": "k_proj"}
    with pytest.raises(GeometryError, match=names.get(field, field)):
        protect(model, world.lock)


@pytest.mark.parametrize("changes", [
    {"not_before": "2999-01-01T00:00:00Z"}, {"expires": "2001-01-01T00:00:00Z"},
], ids=["not yet valid", "expired"])  # fmt: skip
def test_a_lock_outside_its_validity_is_refused(world, model, changes):
    bundle = world.bundle.with_manifest(replace(world.bundle.manifest, **changes))
    with pytest.raises(EvidenceError, match="valid"):
        protect(model, bundle)


def test_a_tampered_folder_is_refused(world, model, tmp_path):
    folder = write_bundle(world.bundle, tmp_path / "lock")
    data = bytearray((folder / "tensors.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "tensors.safetensors").write_bytes(data)
    with pytest.raises(SafelatchError, match=r"tensors\.safetensors"):
        protect(model, folder)
    assert owners(model) == []
