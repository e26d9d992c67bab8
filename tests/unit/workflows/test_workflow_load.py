"""``load_protected``: protected and verified, or not at all."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from support.locks import fine_tuned, packaged_planted, snapshot
from transformers import AutoModelForCausalLM

from registry import load_protected
from registry.artifact.bundle import make_bundle, write_bundle
from registry.checkpoint.sketch import positions
from registry.errors import (
    BaseModelMismatchError,
    ConfirmationRequiredError,
    EvidenceError,
    GeometryError,
    NegatedDirectionsError,
    NoProtectionError,
    SafelatchError,
    UnsafeFormatError,
    UsageError,
    VerificationError,
)
from registry.kinds.safety_lock.apply import output_shifts
from registry.live.attach import owners
from registry.live.sites import model_geometry
from registry.settings import Settings
from registry.workflows.bases import add_base
from registry.workflows.identify import identify
from registry.workflows.publish import publish

IDS = torch.arange(10, 34).reshape(2, 12)


def copied(folder, target):
    return shutil.copytree(folder, target)


def reconfigured(folder, target, **changes):
    copied(folder, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | changes))
    return target


def impostor(world, target):
    """Same shapes, same tokenizer, other weights."""
    other = packaged_planted(seed=1)
    with torch.no_grad():
        for parameter in other.model.parameters():
            if parameter.ndim == 2:
                parameter.add_(parameter.std() * torch.randn_like(parameter))
    return replace(other, tokenizer=world.planted.tokenizer).save(target)


def look_alike(source, target):
    """Write weights with another output head, equal to ``source`` at every sampled place."""
    tensors = load_file(source)
    values = tensors["lm_head.weight"]
    changed = np.random.default_rng(0).standard_normal(values.size).astype(values.dtype)
    where = positions("lm_head.weight", values.shape)
    assert len(where) < values.size / 15
    changed[where] = values.reshape(-1)[where]
    tensors["lm_head.weight"] = changed.reshape(values.shape)
    save_file(tensors, target, metadata={"format": "pt"})


# What a good load is


def test_a_fine_tune_loads_protected_and_verified(world, registry):
    model = load_protected(world.tune)
    report = model.safelatch
    assert report.verified
    assert report.recorded
    assert (report.base, report.policy) == ("planted-base", "enforce")
    assert report.lineage["relation"] == "derived"
    assert [entry.label for entry in report.applied] == ["planted-lock@1.0.0"]
    assert report.applied[0].precondition["heads_positive"] == 4
    assert report.applied[0].alpha == 1.0
    plain = AutoModelForCausalLM.from_pretrained(world.tune)
    expected = output_shifts(plain, report.applied[0].body, model_geometry(plain), alpha=1.0)
    assert len(expected) == 2
    for name, shift in expected.items():
        torch.testing.assert_close(model.get_parameter(f"{name}.bias").data, shift)
    with torch.no_grad():
        moved = model(IDS).logits - plain(IDS).logits
    assert float(moved.abs().mean()) > 0.01
    json.dumps(report.to_dict(), allow_nan=False)


def test_the_load_is_written_down_in_the_four_words(world, registry):
    model = load_protected(world.tune)
    (row,) = registry.applications(model.safelatch.checkpoint)
    assert (row.version, row.alpha, row.policy) == ("planted-lock@1.0.0", 1.0, "enforce")
    assert row.verified_at is not None
    assert row.applied_at <= row.verified_at
    assert row.evidence["modules"] == 2
    (report,) = registry.reports(model.safelatch.checkpoint, "check")
    assert report.verdict == "compatible"
    assert registry.verify_events() == []


def test_the_base_itself_loads_protected(world, registry):
    report = load_protected(world.base).safelatch
    assert report.verified
    assert report.lineage["relation"] == "identical"


@pytest.mark.parametrize("as_text", [True, False])
def test_a_bundle_folder_needs_no_registry(world, home, as_text):
    name = str(world.lock) if as_text else world.lock
    report = load_protected(world.tune, artifacts=[name]).safelatch
    assert report.verified
    assert not report.recorded
    assert not home.exists()


def test_a_relative_path_object_is_a_folder_and_not_a_name(world, monkeypatch):
    monkeypatch.chdir(world.root)
    assert load_protected(world.tune, artifacts=[world.lock.relative_to(world.root)]).safelatch


def test_a_fine_tune_that_was_moved_and_sharded_anew_is_recognised(world, registry, tmp_path):
    folder = tmp_path / "elsewhere" / "sharded"
    replace(world.planted, model=world.tuned).save(folder, max_shard_size="100KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 3
    one, many = load_protected(world.tune), load_protected(folder)
    assert many.safelatch.verified
    assert many.safelatch.checkpoint == one.safelatch.checkpoint
    for name, value in one.state_dict().items():
        assert torch.equal(value, many.state_dict()[name])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_fine_tune_loads_protected_in_this_dtype(world, registry, dtype):
    model = load_protected(world.tune, dtype=dtype)
    assert model.dtype == getattr(torch, dtype)
    assert model.safelatch.verified


def test_a_fine_tune_in_bf16_on_disk_is_recognised(world, registry, tmp_path):
    tuned = fine_tuned(world.planted.model).to(torch.bfloat16)
    folder = replace(world.planted, model=tuned).save(tmp_path / "half")
    report = load_protected(folder).safelatch
    assert report.verified
    assert report.lineage["relation"] == "derived"


def test_a_fine_tune_with_more_words_is_recognised(world, registry, tmp_path):
    tuned = fine_tuned(world.planted.model)
    tuned.resize_token_embeddings(len(world.planted.tokenizer) + 8)
    folder = replace(world.planted, model=tuned).save(tmp_path / "more")
    assert load_protected(folder).safelatch.verified


def test_a_checkpoint_with_the_tables_that_old_files_store_loads(world, registry, tmp_path):
    folder = copied(world.tune, tmp_path / "old")
    tensors = load_file(folder / "model.safetensors")
    for layer in (0, 1):
        name = f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"
        tensors[name] = np.ones(8, np.float32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert load_protected(folder).safelatch.verified


def test_arguments_of_from_pretrained_that_change_nothing_pass(world, registry):
    model = load_protected(
        world.tune, use_safetensors=True, trust_remote_code=False, local_files_only=True,
        low_cpu_mem_usage=True, attn_implementation="eager", config=None,
    )  # fmt: skip
    assert model.safelatch.verified


# Nothing to protect with: fail closed, and say what to do


def no_registry(world, home):
    return "safelatch init"


def empty(world, home):
    from registry import Registry

    Registry.create().close()
    return "safelatch base add"


def base_without_artifact(world, home):
    from registry import Registry

    with Registry.create() as registry:
        add_base(registry, identify(world.base, settings=Settings.load()), "alone")
    return "safelatch extract safety-lock alone"


def yanked(world, home):
    from registry import Registry

    shutil.copytree(world.root / "registry", home)
    with Registry.open() as registry:
        registry.set_state(registry.versions("planted-lock")[0], "yanked", "test")
    return "publish"


def two_of_a_kind(world, home):
    from registry import Registry

    shutil.copytree(world.root / "registry", home)
    with Registry.open() as registry:
        publish(registry, world.lock, name="second-lock", version="2.0")
    return "artifacts=['planted-lock@1.0.0']"


def test_a_fine_tune_registered_as_a_base_hides_nothing_without_being_asked(world, registry):
    tuned = identify(world.tune, settings=Settings.load())
    with pytest.raises(ConfirmationRequiredError, match="of planted-base: the two would compete"):
        add_base(registry, tuned, "my-ft")
    assert [base.name for base in registry.bases()] == ["planted-base"]
    add_base(registry, tuned, "my-ft", anyway=True)
    add_base(registry, tuned, "my-ft")  # the same again is no news
    with pytest.raises(NoProtectionError, match="artifact for the base my-ft") as caught:
        load_protected(world.tune)
    assert "planted-base too; name that one's" in caught.value.hint
    assert "artifacts=['planted-lock@1.0.0']" in caught.value.hint
    assert load_protected(world.tune, artifacts=["planted-lock@1.0.0"]).safelatch.verified


NOTHING = [no_registry, empty, base_without_artifact, yanked, two_of_a_kind]


@pytest.mark.parametrize("situation", NOTHING)
def test_a_load_that_would_end_unprotected_is_refused_with_the_repair(world, home, situation):
    repair = situation(world, home)
    with pytest.raises(NoProtectionError) as caught:
        load_protected(world.tune)
    assert repair in str(caught.value)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("situation", NOTHING)
def test_policy_warn_returns_the_plain_model_with_a_warning_and_an_event(world, home, situation):
    from registry import Registry

    situation(world, home)
    with pytest.warns(UserWarning, match="WITHOUT protection"):
        model = load_protected(world.tune, policy="warn")
    assert not model.safelatch.verified
    assert model.safelatch.applied == ()
    assert owners(model) == []
    assert snapshot(model) == snapshot(AutoModelForCausalLM.from_pretrained(world.tune))
    if situation is no_registry:
        assert not model.safelatch.recorded
        return
    with Registry.open() as registry:
        assert model.safelatch.recorded
        events = [event for event in registry.events() if event.action == "load.unprotected"]
    assert [event.subject for event in events] == [model.safelatch.checkpoint]
    assert "expected" in events[0].detail["reason"]


def test_a_refused_load_leaves_an_event(world, home):
    from registry import Registry

    empty(world, home)
    with pytest.raises(NoProtectionError):
        load_protected(world.tune)
    with Registry.open() as registry:
        assert registry.events()[-1].action == "load.refuse"


@pytest.mark.parametrize(
    "name", ["nothing", "planted-lock@9.9", "blake3:" + "0" * 64, "./nowhere"], ids=str
)
@pytest.mark.parametrize("policy", ["enforce", "warn"])
def test_a_named_artifact_that_is_not_there_is_no_protection(world, registry, name, policy):
    if policy == "enforce":
        with pytest.raises(NoProtectionError):
            load_protected(world.tune, artifacts=[name])
    else:
        with pytest.warns(UserWarning, match="WITHOUT protection"):
            assert not load_protected(
                world.tune, artifacts=[name], policy=policy
            ).safelatch.verified


def test_a_name_without_any_registry_is_no_protection(world):
    with pytest.raises(NoProtectionError, match="registry"):
        load_protected(world.tune, artifacts=["planted-lock"])


@pytest.mark.parametrize("artifacts", [[], "planted-lock", ()])
def test_an_empty_choice_is_not_taken_for_every_artifact(world, registry, artifacts):
    with pytest.raises(UsageError, match="at least one artifact"):
        load_protected(world.tune, artifacts=artifacts)


def test_an_unknown_policy_is_refused(world, registry):
    with pytest.raises(UsageError, match="policy"):
        load_protected(world.tune, policy="ignore")


# Locks that must not go on


def refused(world, bundle, tmp_path, error, **options):
    folder = write_bundle(bundle, tmp_path / "tampered")
    with pytest.raises(error) as caught:
        load_protected(world.tune, artifacts=[folder], **options)
    return caught.value


def test_a_negated_lock_is_refused_although_every_digest_fits(world, tmp_path):
    bundle = world.edited(directions=-world.directions)
    error = refused(world, bundle, tmp_path, NegatedDirectionsError)
    assert "would remove refusals" in error.message


def test_a_negated_lock_is_refused_from_the_registry_and_under_warn(
    world, empty_registry, tmp_path
):
    folder = write_bundle(world.edited(directions=-world.directions), tmp_path / "negated")
    publish(empty_registry, folder, name="evil", version="1.0")
    for policy in ("enforce", "warn"):
        with pytest.raises(NegatedDirectionsError):
            load_protected(world.tune, policy=policy)


def test_an_uncalibrated_lock_is_refused(world, tmp_path):
    bundle = world.edited(alpha=None, alpha_range=None)
    error = refused(world, bundle, tmp_path, ConfirmationRequiredError)
    assert "expected a measured alpha, this lock has none" in error.message
    assert "safelatch calibrate" in error.hint


@pytest.mark.parametrize("changes", [
    {"not_before": "2999-01-01T00:00:00Z"}, {"expires": "2001-01-01T00:00:00Z"},
], ids=["not yet valid", "expired"])  # fmt: skip
def test_a_lock_outside_its_validity_is_refused(world, tmp_path, changes):
    bundle = world.bundle.with_manifest(replace(world.bundle.manifest, **changes))
    error = refused(world, bundle, tmp_path, EvidenceError)
    assert "expected a time" in error.message
    assert error.hint == "Name a version that is valid now: safelatch list"


def test_a_revoked_lock_is_refused_by_digest_too(world, registry):
    version = registry.versions("planted-lock")[0]
    registry.set_state(version, "revoked", "it was leaked")
    for name in (version.digest, version.label):
        with pytest.raises(SafelatchError, match=r"revoked|none that is active"):
            load_protected(world.tune, artifacts=[name])


def test_the_same_lock_under_two_names_is_not_applied_twice(world, registry):
    with pytest.raises(SafelatchError, match="already"):
        load_protected(world.tune, artifacts=[world.lock, "planted-lock@1.0.0"])


def test_a_stored_bundle_whose_bytes_rotted_is_refused(world, registry):
    name = registry.versions("planted-lock")[0].digest.removeprefix("blake3:")
    (path,) = Path(os.environ["SAFELATCH_HOME"]).rglob(name)
    data = bytearray(path.read_bytes())
    data[50] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    with pytest.raises(EvidenceError):
        load_protected(world.tune)


# Checkpoints that must not get this lock


def test_a_model_of_the_same_shapes_with_other_weights_is_refused_with_its_distance(
    world, registry, tmp_path
):
    folder = impostor(world, tmp_path / "impostor")
    with pytest.raises(NoProtectionError, match=r"planted-base, is .* at distance \d\.\d+"):
        load_protected(folder)
    with pytest.raises(BaseModelMismatchError, match=r"at distance \d\.\d+") as caught:
        load_protected(folder, artifacts=["planted-lock"])
    assert "within distance 0.25" in caught.value.message


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, "rope"),
        ({"num_attention_heads": 2}, "num_attention_heads|head_dim"),
        ({"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 8}, "heads"),
        ({"num_key_value_heads": 4}, "num_key_value_heads|k_proj"),
        ({"rms_norm_eps": 1e-2}, "rms_norm_eps"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"attention_bias": True}, "attention_bias"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings"),
        ({"model_type": "qwen2"}, "qwen2|family"),
    ],
    ids=["rope_theta", "heads", "heads halved", "kv_heads", "eps", "act", "bias", "tie", "family"],
)
def test_an_edited_config_is_refused_although_every_weight_is_equal(
    world, registry, tmp_path, changes, text
):
    folder = reconfigured(world.tune, tmp_path / "edited", **changes)
    with pytest.raises((GeometryError, NoProtectionError), match=text):
        load_protected(folder, artifacts=["planted-lock"])
    with pytest.raises((GeometryError, NoProtectionError)):
        load_protected(folder)


@pytest.mark.parametrize(
    "arguments",
    [
        {"trust_remote_code": True}, {"state_dict": {"x": 1}}, {"gguf_file": "x.gguf"},
        {"use_safetensors": False}, {"config": {"model_type": "llama"}}, {"subfolder": "x"},
        {"variant": "fp16"}, {"adapter_kwargs": {"x": 1}}, {"output_loading_info": True},
        {"rope_theta": 5e5}, {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}},
        {"num_attention_heads": 2}, {"num_hidden_layers": 1}, {"rms_norm_eps": 0.1},
        {"hidden_act": "gelu"}, {"tie_word_embeddings": True}, {"attention_bias": True},
        {"transformers_weights": "other.safetensors"},
    ],
    ids=lambda arguments: next(iter(arguments)),
)  # fmt: skip
@pytest.mark.parametrize("policy", ["enforce", "warn"])
def test_an_argument_that_would_load_something_else_is_refused(world, registry, arguments, policy):
    with pytest.raises(UsageError, match=next(iter(arguments))):
        load_protected(world.tune, policy=policy, **arguments)


def test_a_config_that_points_the_loader_to_another_file_is_refused(world, registry, tmp_path):
    folder = reconfigured(
        world.tune, tmp_path / "pointed", transformers_weights="other.safetensors"
    )
    look_alike(world.tune / "model.safetensors", folder / "other.safetensors")
    with pytest.raises(UnsafeFormatError, match="transformers_weights"):
        load_protected(folder)


def test_an_adapter_beside_the_weights_is_refused(world, registry, tmp_path):
    folder = copied(world.tune, tmp_path / "adapted")
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(world.base), "r": 2,
                    "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"})
    )  # fmt: skip
    with pytest.raises(UnsafeFormatError, match="adapter"):
        load_protected(folder)


def test_a_config_that_names_foreign_attention_code_is_refused(world, registry, tmp_path):
    folder = reconfigured(
        world.tune, tmp_path / "kernel", attn_implementation="someone/attention-kernel"
    )
    with pytest.raises(UnsafeFormatError, match="attn_implementation"):
        load_protected(folder)


def test_a_tensor_that_the_loader_would_have_to_invent_is_refused(world, registry, tmp_path):
    folder = copied(world.tune, tmp_path / "without")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises((EvidenceError, BaseModelMismatchError), match=r"model\.norm\.weight"):
        load_protected(folder)


def test_a_stray_bias_that_the_loader_would_drop_is_refused(world, registry, tmp_path):
    folder = copied(world.tune, tmp_path / "stray")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.self_attn.o_proj.bias"] = np.ones(48, np.float32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(VerificationError, match="has no such tensor"):
        load_protected(folder)


# Files that change between checking and loading


def swap(kind, folder, world, tmp_path):
    weights = folder / "model.safetensors"
    if kind == "another model":
        shutil.copy(impostor(world, tmp_path / "other") / weights.name, weights)
    elif kind == "another model, renamed into place":
        look_alike(world.tune / weights.name, tmp_path / "new")
        (tmp_path / "new").replace(weights)
    elif kind == "one value that no sample meets":
        tensors = load_file(weights)
        name = "lm_head.weight"
        flat = tensors[name].reshape(-1)
        sampled = set(positions(name, tensors[name].shape).tolist())
        flat[next(i for i in range(len(flat)) if i not in sampled)] += 100.0
        save_file(tensors, weights, metadata={"format": "pt"})
    elif kind == "the config":
        config = json.loads((folder / "config.json").read_text())
        config["rope_parameters"]["rope_theta"] = 123.0
        (folder / "config.json").write_text(json.dumps(config))
    else:
        text = (folder / "chat_template.jinja").read_text()
        (folder / "chat_template.jinja").write_text("{# hello #}" + text)


@pytest.mark.parametrize(
    "kind",
    ["another model", "another model, renamed into place", "one value that no sample meets",
     "the config", "the chat template"],
)  # fmt: skip
@pytest.mark.parametrize("cached", [False, True])
def test_a_file_swapped_between_identify_and_load_is_caught(
    world, registry, tmp_path, monkeypatch, kind, cached
):
    folder = copied(world.tune, tmp_path / "victim")
    if cached:
        assert load_protected(folder).safelatch.verified
    real = AutoModelForCausalLM.from_pretrained

    def swapped(*arguments, **options):
        swap(kind, folder, world, tmp_path)
        return real(*arguments, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", swapped)
    with pytest.raises((VerificationError, EvidenceError)):
        load_protected(folder)


def test_a_file_swapped_before_an_unprotected_load_is_caught_too(
    world, registry, tmp_path, monkeypatch
):
    folder = copied(world.tune, tmp_path / "victim")
    registry.set_state(registry.versions("planted-lock")[0], "yanked", "test")
    real = AutoModelForCausalLM.from_pretrained

    def swapped(*arguments, **options):
        swap("one value that no sample meets", folder, world, tmp_path)
        return real(*arguments, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", swapped)
    with pytest.raises(VerificationError, match="got a change while loading"):
        load_protected(folder, policy="warn")


@pytest.mark.parametrize("change", ["config", "weights"])
def test_a_loader_that_gives_another_model_than_the_files_is_caught(
    world, registry, monkeypatch, change
):
    real = AutoModelForCausalLM.from_pretrained

    def tampering(*arguments, **options):
        model = real(*arguments, **options)
        if change == "config":
            model.config.rms_norm_eps = 0.1
        else:
            model.model.norm.weight.data[0] += 1e-3
        return model

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", tampering)
    with pytest.raises(VerificationError, match=r"rms_norm_eps|model.norm.weight"):
        load_protected(world.tune)


def test_a_cached_reading_is_not_used_for_other_bytes_at_the_same_place(world, registry, tmp_path):
    folder = copied(world.tune, tmp_path / "victim")
    assert load_protected(folder).safelatch.verified
    swap("another model", folder, world, tmp_path)
    with pytest.raises(NoProtectionError):
        load_protected(folder)


def test_a_bundle_of_another_bases_record_is_refused(world, tmp_path):
    other = impostor(world, tmp_path / "other")

    record = identify(other, settings=Settings.load()).record
    mixed = make_bundle(world.bundle.manifest, world.bundle.tensors(), record.to_tensors())
    error = refused(world, mixed, tmp_path, EvidenceError)
    assert "its base record" in error.message


def test_what_is_taken_off_a_loaded_model_leaves_what_is_known_of_its_origin(world, registry):
    model = load_protected(world.tune)
    (handle,) = model.safelatch.applied
    before = model.safelatch
    handle.undo()
    assert model.safelatch.applied == ()
    assert not model.safelatch.verified
    assert model.safelatch == replace(before, applied=())
    assert model.safelatch.checkpoint is not None
