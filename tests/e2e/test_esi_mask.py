"""An ESI mask beside a lock on one base: published, looked for, put back, taken off, projected."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from safetensors.torch import load_file
from support.adapters import factors, lora_config, write_adapter
from support.command_line import safelatch
from support.guarded import layers_bundle
from support.locks import snapshot
from support.masked import mask_bundle
from transformers import AutoModelForCausalLM

from registry import Registry, load_protected, protect, unprotect
from registry.artifact.bundle import write_bundle
from registry.errors import AlreadyAppliedError, ApplyError, CheckpointNotFoundError, UsageError
from registry.workflows.applied import applied_to
from registry.workflows.project import project

if TYPE_CHECKING:
    from pathlib import Path

    from support.cli_world import World

UP = "model.layers.0.mlp.up_proj"


@pytest.fixture(scope="module")
def mask(world: World, published: Path) -> Path:
    """Publish a mask of the base, whose lock is published already; return the bundle's folder."""
    folder = world.folder / "mask"
    write_bundle(mask_bundle(None, world.base), folder)
    done = safelatch("publish", folder, "--name", "mask", "--version", "1.0")
    assert done.status == 0, done
    return folder


@pytest.fixture(scope="module")
def healed(world: World, mask: Path) -> Path:
    """Project the fine-tune: a folder in which the selected weights are the base's."""
    folder = world.folder / "healed"
    project(world.tuned, "mask@1.0", folder)
    return folder


def test_a_load_puts_the_weights_back_before_the_lock_and_verifies_both(
    world: World, mask: Path
) -> None:
    model = load_protected(world.tuned, artifacts=["lock@1.0", "mask@1.0"])
    first, second = model.safelatch.applied
    assert (first.label, second.label) == ("mask@1.0", "lock@1.0")
    assert (first.evidence["level"], first.evidence["form"]) == ("digest", "mask")
    assert 0 < first.evidence["written"] <= first.evidence["weights"]
    assert model.safelatch.verified
    assert model.safelatch.recorded
    with Registry.open() as registry:
        rows = registry.applications(model.safelatch.checkpoint)
        assert {row.kind for row in rows} == {"esi-mask", "safety-lock"}
    with pytest.raises(ApplyError, match=r"mask@1\.0 .* to come off last, lock@1\.0"):
        first.undo()
    assert applied_to(model) == (first, second)
    assert unprotect(model) == 2
    assert snapshot(model) == snapshot(AutoModelForCausalLM.from_pretrained(world.tuned))


def test_protect_puts_back_and_undo_gives_back(world: World, mask: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(world.tuned)
    before = snapshot(model)
    applied = protect(model, mask, base=world.base)
    assert applied.verify()["level"] == "digest"
    with pytest.raises(AlreadyAppliedError, match="its tensors are on it already"):
        protect(model, "mask@1.0")
    applied.undo()
    assert snapshot(model) == before
    with pytest.raises(UsageError, match="has no strength"):
        protect(model, mask, base=world.base, alpha=1.0)


def test_layers_that_went_on_after_a_mask_come_off_before_it(world: World, mask: Path) -> None:
    """They keep what the mask put there, so that taking the mask off first would lose the drift."""
    model = AutoModelForCausalLM.from_pretrained(world.tuned)
    before = snapshot(model)
    first = protect(model, mask, base=world.base)
    second = protect(model, layers_bundle(None, world.base, first=0, last=0), base=world.base)
    on = snapshot(model)
    with pytest.raises(ApplyError, match=r"to come off last, .* went on after it and keeps"):
        first.undo()
    assert snapshot(model) == on
    assert first.verify()["weights"] == first.evidence["weights"]
    second.undo()
    first.undo()
    assert snapshot(model) == before


def test_a_projected_fine_tune_is_stored_needs_no_base_and_is_called_so_by_inspect(
    world: World, mask: Path, healed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, status in ((world.tuned, 1), (healed, 0)):
        outcome = safelatch("inspect", folder, "mask@1.0", "--format", "json")
        assert outcome.status == status, outcome
        (row,) = outcome.document
        assert row["stored"] is (status == 0)
    tokenizer = {path.name for path in world.tuned.iterdir()}
    assert tokenizer == {path.name for path in healed.iterdir()}
    monkeypatch.setenv("SAFELATCH_HOME", str(tmp_path / "home"))
    model = load_protected(healed, artifacts=[mask])
    assert model.safelatch.applied[0].evidence["written"] == 0
    with pytest.raises(CheckpointNotFoundError, match="got neither base= nor a registry"):
        load_protected(world.tuned, artifacts=[mask])


def test_an_adapter_is_drift_until_it_is_projected_into_its_base(
    world: World, mask: Path, tmp_path: Path
) -> None:
    shape = load_file(world.base / "model.safetensors")[f"{UP}.weight"].shape
    config = lora_config(target_modules=["up_proj"])
    adapter = write_adapter(tmp_path / "adapter", factors(UP, *shape), config)
    outcome = safelatch("inspect", adapter, "mask@1.0", "--format", "json")
    assert outcome.status == 1, outcome
    (row,) = outcome.document
    drifted = [each for each in row["found"]["matrices"] if each["state"] != "same"]
    assert [each["matrix"] for each in drifted] == [f"{UP}.weight"]
    done = project(adapter, "mask@1.0", tmp_path / "out", base=world.base)
    assert done.stored
    before, after = (
        load_file(folder / "model.safetensors") for folder in (world.base, tmp_path / "out")
    )
    assert {name for name in before if not before[name].equal(after[name])} == {f"{UP}.weight"}
    assert safelatch("inspect", tmp_path / "out", "mask@1.0").status == 0


def test_a_folder_that_was_copied_and_then_changed_is_not_stored(
    world: World, healed: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(healed, tmp_path / "copy")
    shutil.copy(world.tuned / "model.safetensors", folder)
    assert safelatch("inspect", folder, "mask@1.0").status == 1
