"""Ways to look protected without being it, each refused: found by a review that tried them."""

from __future__ import annotations

import json
import shutil
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from safetensors.numpy import load_file, save_file
from support.locks import fine_tuned, packaged_planted, read_record

from registry import load_protected, protect
from registry.artifact.bundle import make_bundle, write_bundle
from registry.checkpoint.sketch import extent
from registry.errors import (
    CompatibilityError,
    DigestMismatchError,
    GeometryError,
    NegatedDirectionsError,
    UnsafeFormatError,
)
from registry.kinds import parse_body
from registry.kinds.safety_lock import verify as lock_verify
from registry.kinds.safety_lock.apply import output_shifts
from registry.live.attach import owners
from registry.live.sites import model_geometry
from registry.settings import Settings
from registry.workflows.audit import audit
from registry.workflows.bases import add_base
from registry.workflows.identify import identify
from registry.workflows.publish import publish


@pytest.fixture
def model(world):
    return deepcopy(world.tuned)


def copied(world, tmp_path, **config):
    folder = shutil.copytree(world.tune, tmp_path / "attacked")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return folder


def with_samples_of(ours, theirs):
    """Return our record with their samples, but where samples are the whole tensor: that is seen."""
    large = {entry.name for entry in ours.entries if not extent(entry.shape).is_whole}
    return replace(ours, samples=ours.samples | {name: theirs.samples[name] for name in large})


def states(registry, folder):
    return [row.state for row in audit(registry, [str(folder)], settings=Settings.load())]


def test_a_config_that_redirects_to_another_config_is_refused(world, registry, tmp_path):
    folder = copied(world, tmp_path, configuration_files=["config.5.0.0.json"])
    with pytest.raises(UnsafeFormatError, match="configuration_files"):
        load_protected(folder)
    assert states(registry, folder) == ["refused"]


@pytest.mark.parametrize(
    "member",
    [
        {"suppress_tokens": [5]},
        {"sequence_bias": [[[5], 9.0]]},
        {"bad_words_ids": [[5]]},
        {"watermarking_config": {"bias": 1000.0, "hashing_key": 7}},
        {"no_repeat_ngram_size": 1},
        {"encoder_no_repeat_ngram_size": 1},
        {"min_new_tokens": 50},
        {"stop_strings": ["sorry"]},
        {"exponential_decay_length_penalty": [1, 1e9]},
        {"repetition_penalty": 1e9},
        {"do_sample": True, "temperature": 1e9},
    ],
    ids=lambda member: next(reversed(member)),
)
def test_a_generation_config_that_takes_words_away_is_refused(world, registry, tmp_path, member):
    folder = copied(world, tmp_path)
    (folder / "generation_config.json").write_text(json.dumps(member))
    with pytest.raises(UnsafeFormatError, match=next(reversed(member))):
        load_protected(folder)


@pytest.mark.parametrize(
    "field",
    [{"is_causal": False}, {"is_causal": None}, {"sliding_window": 2}, {"attention_chunk_size": 2}],
    ids=lambda field: next(iter(field)),
)
def test_an_attention_switch_that_the_family_never_names_is_refused(
    world, registry, tmp_path, field
):
    with pytest.raises(GeometryError, match=next(iter(field))):
        load_protected(copied(world, tmp_path, **field))


def test_a_bundle_that_redefines_a_registered_base_is_not_published(world, registry, tmp_path):
    stranger = packaged_planted(seed=1).save(tmp_path / "stranger")
    forged = with_samples_of(read_record(world.base), read_record(stranger))
    bundle = make_bundle(world.bundle.manifest, world.bundle.tensors(), forged.to_tensors())
    draft = bundle.with_manifest(replace(bundle.manifest, name=None, version=None))
    folder = write_bundle(draft, tmp_path / "forged")
    with pytest.raises(DigestMismatchError, match="record of base"):
        publish(registry, folder, name="forged-lock", version="1.0")
    assert "forged-lock" not in {line.name for line in registry.lines()}
    with pytest.raises(DigestMismatchError, match="record of base"):
        load_protected(world.tune, artifacts=[folder])


def test_a_base_that_came_in_a_forged_bundle_is_found_when_it_is_measured(
    world, empty_registry, tmp_path
):
    stranger = packaged_planted(seed=1).save(tmp_path / "stranger")
    forged = with_samples_of(read_record(world.base), read_record(stranger))
    bundle = make_bundle(world.bundle.manifest, world.bundle.tensors(), forged.to_tensors())
    draft = bundle.with_manifest(replace(bundle.manifest, name=None, version=None))
    folder = write_bundle(draft, tmp_path / "forged")
    publish(empty_registry, folder, name="forged-lock", version="1.0")
    with pytest.raises(DigestMismatchError, match="measured now"):
        add_base(empty_registry, identify(world.base, settings=Settings.load()))


def test_a_model_from_which_the_directions_were_taken_out_is_refused(world, registry, tmp_path):
    planted = packaged_planted()
    model = fine_tuned(planted.model)
    body = parse_body(world.bundle)
    for layer in body.layers:
        weight = model.model.layers[layer].self_attn.o_proj.weight
        for head, displacement in body.of_layer(layer):
            unit = torch.tensor(displacement / (displacement**2).sum() ** 0.5)
            columns = weight.data[:, head * body.head_dim : (head + 1) * body.head_dim]
            columns -= 0.999 * torch.outer(columns @ unit, unit)
    folder = replace(planted, model=model).save(tmp_path / "edited")
    with pytest.raises(CompatibilityError, match="within a factor of 2"):
        load_protected(folder)


def test_a_stray_bias_that_cancels_the_lock_is_refused(world, model):
    shifts = output_shifts(
        model, parse_body(world.bundle), model_geometry(model), alpha=parse_body(world.bundle).alpha
    )
    for name, shift in shifts.items():
        model.get_submodule(name).bias = torch.nn.Parameter(-shift)
    with pytest.raises(CompatibilityError, match="could undo what is applied"):
        protect(model, world.lock)
    assert owners(model) == []


def test_protect_checks_the_sign_when_it_is_given_a_tokenizer(world, model):
    negated = replace(parse_body(world.bundle), directions=-parse_body(world.bundle).directions)
    bundle = make_bundle(
        replace(world.bundle.manifest, files={}), negated.to_tensors(), world.bundle.base_tensors()
    )
    with pytest.raises(NegatedDirectionsError):
        protect(model, bundle, tokenizer=packaged_planted().tokenizer)
    assert owners(model) == []
    checked = protect(model, world.lock, tokenizer=packaged_planted().tokenizer)
    assert checked.precondition["heads_positive"] == len(parse_body(world.bundle).heads)


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt, RuntimeError])
def test_what_was_not_read_back_does_not_stay_whatever_went_wrong(world, model, monkeypatch, error):
    def fails(*_args):
        raise error("in the middle of reading back")

    monkeypatch.setattr(lock_verify, "_canary", fails)
    with pytest.raises(error):
        protect(model, world.lock)
    assert owners(model) == []
    assert model.safelatch.applied == ()


def test_an_adapter_beside_the_weights_is_no_verified_model(world, registry, tmp_path):
    load_protected(world.tune)
    assert states(registry, world.tune) == ["verified"]
    folder = copied(world, tmp_path)
    assert states(registry, folder) == ["verified"]  # the same weights and config elsewhere
    (folder / "adapter_config.json").write_text("{}")
    assert states(registry, folder) == ["refused"]


def test_an_application_that_the_event_log_does_not_know_counts_for_nothing(world, registry):
    from sqlalchemy import select, update

    from registry.store import session
    from registry.store.tables import applications

    load_protected(world.tune)
    assert states(registry, world.tune) == ["verified"]
    with session.write(registry._engine) as connection:
        moment = connection.scalar(select(applications.c.verified_at)).replace(year=2040)
        connection.execute(update(applications).values(verified_at=moment))
    assert states(registry, world.tune) == ["available"]


def test_a_model_without_safetensors_is_listed_and_not_left_out(world, registry, tmp_path):
    fleet = tmp_path / "fleet"
    shutil.copytree(world.tune, fleet / "good")
    for name, file in (("pickled", "pytorch_model.bin"), ("odd", "config.json")):
        (fleet / "good" / name).mkdir()
        (fleet / "good" / name / file).write_text("{}")
    rows = audit(registry, [str(fleet)], settings=Settings.load())
    assert sorted(row.state for row in rows) == ["available", "unreadable", "unreadable"]


def test_one_model_that_breaks_the_reader_does_not_end_the_audit(world, registry, tmp_path):
    fleet = tmp_path / "fleet"
    for name in ("a", "b"):
        shutil.copytree(world.tune, fleet / name)
    (fleet / "a" / "tokenizer.json").unlink()
    (fleet / "a" / "tokenizer.json").mkdir()
    rows = audit(registry, [str(fleet)], settings=Settings.load())
    assert [row.state for row in rows] == ["unreadable", "available"]


def test_a_norm_that_was_rewritten_is_no_fine_tune(world, registry, tmp_path):
    folder = copied(world, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.0.input_layernorm.weight"
    tensors[name] = tensors[name] * 1000
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CompatibilityError, match="norms and biases"):
        load_protected(folder, artifacts=[world.lock])
