"""What bytes carry and what an audit may say: declared, stored, applied, verified."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from support.locks import fine_tuned
from transformers import AutoConfig, AutoModelForCausalLM

from registry import load_protected
from registry.errors import CheckpointNotFoundError, GeometryError
from registry.kinds import parse_body
from registry.kinds.safety_lock.apply import output_shifts
from registry.live.sites import model_geometry
from registry.settings import Settings
from registry.workflows.audit import WORDS, audit
from registry.workflows.identify import identify
from registry.workflows.inspect import inspect

SITE = "model.layers.0.self_attn.o_proj"


def look(folder):
    return identify(folder, settings=Settings.load())


def rows(registry, *targets):
    return audit(registry, [str(target) for target in targets], settings=Settings.load())


def state(registry, target):
    (row,) = rows(registry, target)
    assert row.is_protected == (row.state in {"verified", "stored"})
    json.dumps(row.to_dict(), allow_nan=False)
    return row


@pytest.fixture
def exported(world, tmp_path):
    """The fine-tune with the lock written in as o_proj.bias, as its family's loader reads it."""
    plain = world.tuned
    fields = plain.config.to_dict() | {"attention_bias": True}
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(fields.pop("model_type"), **fields)
    )
    model.load_state_dict(plain.state_dict(), strict=False)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
        shifts = output_shifts(plain, parse_body(world.bundle), model_geometry(plain), alpha=1.0)
        for name, shift in shifts.items():
            model.get_parameter(f"{name}.bias").copy_(shift)
    return replace(world.planted, model=model).save(tmp_path / "exported")


def switched_off(folder):
    config = json.loads((folder / "config.json").read_text()) | {"attention_bias": False}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_lock_in_the_bytes_is_stored_and_the_audit_says_so(world, registry, exported):
    (found,) = inspect(look(exported), [world.bundle])
    assert found.stored
    assert found.found["alpha"] == pytest.approx(1.0, abs=1e-3)
    assert found.found["loader_keeps"]
    row = state(registry, exported)
    assert (row.state, row.stored, row.verified_at) == ("stored", True, None)


def test_the_same_bytes_that_the_loader_drops_are_stored_and_not_called_protected(
    world, registry, exported
):
    (found,) = inspect(look(switched_off(exported)), [world.bundle])
    assert found.stored
    assert not found.found["loader_keeps"]
    row = state(registry, exported)
    assert row.stored
    assert row.state == "available"
    assert "drops it" in row.reason
    assert not row.is_protected


def test_a_stored_lock_does_not_excuse_another_difference_of_the_config(world, registry, exported):
    config = json.loads((exported / "config.json").read_text())
    config["rope_parameters"] = {"rope_theta": 77.0, "rope_type": "default"}
    (exported / "config.json").write_text(json.dumps(config))
    row = state(registry, exported)
    assert (row.state, row.stored) == ("refused", True)
    assert "rope" in row.reason


def test_another_bias_is_not_stored(world, registry, exported):
    tensors = load_file(exported / "model.safetensors")
    tensors[f"{SITE}.bias"] = np.random.default_rng(0).standard_normal(48).astype(np.float32)
    save_file(tensors, exported / "model.safetensors")
    (found,) = inspect(look(exported), [world.bundle])
    assert not found.stored
    assert state(registry, exported).state == "refused"


def test_a_plain_fine_tune_is_available_until_it_was_verified(world, registry):
    row = state(registry, world.tune)
    assert (row.state, row.stored, row.applied_at, row.verified_at) == (
        "available", False, None, None,
    )  # fmt: skip
    assert (row.base, row.relation, row.artifact) == (
        "planted-base", "derived", "planted-lock@1.0.0",
    )  # fmt: skip
    load_protected(world.tune)
    row = state(registry, world.tune)
    assert row.state == "verified"
    assert row.verified_at is not None
    assert "alpha 1" in row.reason


def test_a_verified_load_does_not_speak_for_other_bytes_at_the_same_place(
    world, registry, tmp_path
):
    folder = shutil.copytree(world.tune, tmp_path / "moving")
    load_protected(folder)
    assert state(registry, folder).state == "verified"
    other = replace(world.planted, model=fine_tuned(world.planted.model, seed=9))
    shutil.rmtree(folder)
    other.save(folder)
    assert state(registry, folder).state == "available"


def test_a_load_without_protection_verifies_nothing(world, registry):
    registry.set_state(registry.versions("planted-lock")[0], "yanked", "test")
    with pytest.warns(UserWarning, match="WITHOUT"):
        load_protected(world.tune, policy="warn")
    assert state(registry, world.tune).state == "no-artifact"


def test_a_name_or_card_is_declared_and_nothing_more(world, registry, tmp_path):
    folder = shutil.copytree(world.tune, tmp_path / "llama-safelatch-verified")
    (folder / "README.md").write_text("---\nbase_model: org/aligned\n---\nProtected, verified!\n")
    row = state(registry, folder)
    assert (row.state, row.declared, row.claimed_base) == ("available", True, "org/aligned")
    assert not state(registry, world.tune).declared


def test_an_unknown_model_has_no_base_and_an_unreadable_one_does_not_stop_the_audit(
    world, registry, empty_folder, tmp_path
):
    stranger = replace(world.planted, model=fine_tuned(world.planted.model, relative=3.0))
    stranger.save(tmp_path / "stranger")
    broken = shutil.copytree(world.tune, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"not safetensors")
    found = rows(registry, tmp_path / "stranger", broken, tmp_path / "nowhere", world.tune)
    assert [row.state for row in found] == ["no-base", "unreadable", "unreadable", "available"]
    assert all(row.reason for row in found)


@pytest.fixture
def empty_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


def test_a_folder_without_models_is_refused(registry, empty_folder):
    with pytest.raises(CheckpointNotFoundError, match="found none"):
        rows(registry, empty_folder)


def test_a_folder_of_models_is_searched_and_nothing_is_counted_twice(world, registry, tmp_path):
    shutil.copytree(world.tune, tmp_path / "fleet/a/tune")
    shutil.copytree(world.base, tmp_path / "fleet/base")
    found = rows(registry, tmp_path / "fleet", tmp_path / "fleet/base")
    assert [row.model.rpartition("/")[2] for row in found] == ["tune", "base"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_hostile_bias_does_not_stop_the_audit(world, registry, tmp_path, value):
    folder = shutil.copytree(world.tune, tmp_path / "hostile")
    tensors = load_file(folder / "model.safetensors")
    tensors[f"{SITE}.bias"] = np.full(48, value, np.float32)
    save_file(tensors, folder / "model.safetensors")
    found = rows(registry, folder, world.tune)
    assert [row.stored for row in found] == [False, False]
    for row in found:
        json.dumps(row.to_dict(), allow_nan=False)


def test_a_lock_is_not_looked_for_in_a_model_of_another_geometry(world, tmp_path):
    geometry = dict(world.bundle.manifest.geometry) | {"layers": 9}
    other = world.bundle.with_manifest(replace(world.bundle.manifest, geometry=geometry))
    with pytest.raises(GeometryError, match="layers: expected 9, got 2"):
        inspect(look(world.tune), [other])


def test_every_audit_is_written_down(world, registry):
    row = state(registry, world.tune)
    (report,) = registry.reports(row.weights, "audit")
    assert report.verdict == row.state == "available"
    assert report.body == [row.to_dict()]
    assert set(WORDS) >= {row.state}


def test_a_folder_that_cannot_be_listed_gets_a_row_and_the_others_theirs(
    world, registry, tmp_path, monkeypatch
):
    closed = tmp_path / "closed"
    closed.mkdir()
    listing = Path.iterdir

    def refusing(path):
        if path == closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return listing(path)

    monkeypatch.setattr(Path, "iterdir", refusing)
    found = rows(registry, closed, world.tune)
    assert [row.state for row in found] == ["unreadable", "available"]
    assert "Permission denied" in found[0].reason


def test_a_reason_of_several_lines_is_kept_whole_and_an_adapters_way_out_too(
    world, registry, tmp_path
):
    broken = shutil.copytree(world.tune, tmp_path / "broken")
    with (broken / "model.safetensors").open("ab") as file:
        file.write(b"more")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (adapter / name).touch()
    reasons = [row.reason for row in rows(registry, broken, adapter)]
    assert "breaks the safetensors format: tensors end at byte" in reasons[0]
    assert "merge_and_unload()" in reasons[1]
    assert not any("\n" in reason for reason in reasons)
