"""Safety layers beside a lock on one base: published, looked for, put back, taken off, audited."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest
from safetensors.torch import load_file
from support.adapters import factors, lora_config, write_adapter
from support.command_line import safelatch
from support.guarded import layers_bundle
from support.locks import snapshot
from transformers import AutoModelForCausalLM

from registry import Registry, load_protected, protect, unprotect
from registry.artifact.bundle import write_bundle
from registry.artifact.schema import validate
from registry.errors import (
    AlreadyAppliedError,
    ApplyError,
    CheckpointNotFoundError,
    DigestMismatchError,
    NoProtectionError,
    UsageError,
)
from registry.kinds import parse_body
from registry.live.attach import owners
from registry.settings import Settings
from registry.workflows.applied import applied_to
from registry.workflows.bases import add_base
from registry.workflows.identify import identify
from registry.workflows.publish import publish

if TYPE_CHECKING:
    from pathlib import Path

    from support.cli_world import World

UP = "model.layers.0.mlp.up_proj"


@pytest.fixture(scope="module")
def layers(world: World, published: Path) -> Path:
    """Publish layer 0 of the base, whose lock is published already; return the bundle's folder."""
    folder = world.folder / "layers"
    write_bundle(layers_bundle(None, world.base, first=0, last=0), folder)
    done = safelatch("publish", folder, "--name", "layers", "--version", "1.0")
    assert done.status == 0, done
    return folder


@pytest.fixture(scope="module")
def healed(world: World, layers: Path) -> Path:
    """Save a protected fine-tune: its layer 0 is the base's, the lock is left out."""
    folder = world.folder / "healed"
    model = load_protected(world.tuned, artifacts=["lock@1.0", "layers@1.0"])
    model.save_pretrained(folder)
    for file in world.tuned.iterdir():
        if not (folder / file.name).exists():
            shutil.copy(file, folder)
    return folder


def differing(one: Path, other: Path) -> set[str]:
    first, second = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert first.keys() == second.keys()
    return {name for name in first if not first[name].equal(second[name])}


def inside(world: World) -> set[str]:
    """Return the tensors that are protected."""
    body = parse_body(layers_bundle(None, world.base, first=0, last=0))
    return {entry.name for entry in body.protected}


def test_a_load_puts_the_layers_back_before_the_lock_and_verifies_both(
    world: World, layers: Path
) -> None:
    model = load_protected(world.tuned, artifacts=["lock@1.0", "layers@1.0"])
    first, second = model.safelatch.applied
    assert (first.label, second.label) == ("layers@1.0", "lock@1.0")
    assert first.evidence == {
        "tensors": 9, "level": "digest", "layers": [0, 0], "restored": 7,
    }  # fmt: skip
    assert (first.alpha, first.precondition) == (None, None)
    assert second.precondition["heads_positive"] > 0
    assert model.safelatch.verified
    assert model.safelatch.recorded
    weight = model.get_parameter(f"{UP}.weight")
    assert weight.equal(load_file(world.base / "model.safetensors")[f"{UP}.weight"])
    with Registry.open() as registry:
        rows = registry.applications(model.safelatch.checkpoint)
        assert {(row.kind, row.alpha is None) for row in rows} == {
            ("safety-layers", True), ("safety-lock", False),
        }  # fmt: skip
        assert registry.verify_events() == []


def test_layers_that_nobody_named_leave_the_weights_of_a_fine_tune_alone(
    world: World, layers: Path
) -> None:
    model = load_protected(world.tuned)
    assert [entry.label for entry in model.safelatch.applied] == ["lock@1.0"]
    weight = load_file(world.tuned / "model.safetensors")[f"{UP}.weight"]
    assert model.get_parameter(f"{UP}.weight").equal(weight)


def test_where_there_are_only_layers_the_load_says_what_they_would_do_and_how(
    world: World, layers: Path, tmp_path: Path
) -> None:
    with Registry.create(str(tmp_path / "registry.db")) as registry:
        add_base(registry, identify(world.base, settings=Settings.load()), "base")
        publish(registry, layers, name="layers", version="1.0")
        with pytest.raises(NoProtectionError) as refused:
            load_protected(world.tuned, registry=registry)
        assert refused.value.message == (
            "expected an artifact that goes onto the model as it is, the registry has layers@1.0 "
            "for the base base, which replaces weights of the model: by "
            "the base's, or by others that were trained."
        )
        assert "artifacts=['layers@1.0']" in str(refused.value.hint)
        model = load_protected(world.tuned, registry=registry, artifacts=["layers@1.0"])
        assert model.safelatch.verified


def test_the_order_of_the_names_does_not_matter_and_undo_goes_backwards(
    world: World, layers: Path
) -> None:
    before = snapshot(AutoModelForCausalLM.from_pretrained(world.tuned))
    model = load_protected(world.tuned, artifacts=["lock@1.0", "layers@1.0"])
    first, second = applied_to(model)
    assert first.label == "layers@1.0"
    assert 0 in second.body.layers, "the story needs a lock on the layer that is put back"
    with pytest.raises(ApplyError, match=r"layers@1\.0 .* to come off last, lock@1\.0"):
        first.undo()
    assert applied_to(model) == (first, second)
    assert unprotect(model) == 2
    assert snapshot(model) == before


def test_a_lock_that_is_on_first_refuses_the_layers_under_it(world: World, layers: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(world.tuned)
    lock = protect(model, "lock@1.0")
    before = snapshot(model)
    with pytest.raises(ApplyError, match="expected nothing on the layers that are put back"):
        protect(model, "layers@1.0")
    assert snapshot(model) == before
    assert [entry.label for entry in applied_to(model)] == ["lock@1.0"]
    lock.undo()
    protect(model, "layers@1.0")
    protect(model, "lock@1.0")
    assert model.safelatch.verified


def test_protect_puts_back_and_undo_gives_back(world: World, layers: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(world.tuned)
    before = snapshot(model)
    applied = protect(model, layers, base=world.base)
    assert applied.evidence["restored"] == 7
    assert applied.verify()["level"] == "digest"
    assert owners(model) == []
    with pytest.raises(AlreadyAppliedError, match=r"on it already as .*layers|draft"):
        protect(model, "layers@1.0")
    applied.undo()
    assert snapshot(model) == before
    with pytest.raises(UsageError, match="have no strength"):
        protect(model, layers, base=world.base, alpha=1.0)


def test_two_ranges_are_two_artifacts_and_one_range_is_one(
    world: World, layers: Path, tmp_path: Path
) -> None:
    other = layers_bundle(None, world.base, first=0, last=1)
    trainable = layers_bundle(None, world.base, first=0, last=0, norms="trainable")
    model = AutoModelForCausalLM.from_pretrained(world.tuned)
    protect(model, layers, base=world.base)
    same = layers_bundle(None, world.base, first=0, last=0).named("another-name", "7.0")
    with pytest.raises(AlreadyAppliedError, match="its tensors are on it already"):
        protect(model, same)
    assert other.files["tensors.safetensors"] != trainable.files["tensors.safetensors"]
    assert same.files["tensors.safetensors"] == trainable.files["tensors.safetensors"]
    protect(model, trainable)  # the same range, less of it
    protect(model, other, base=world.base)
    assert len({entry.content for entry in applied_to(model)}) == 3
    assert unprotect(model) == 3


def test_a_base_that_is_gone_is_refused_with_the_repair_and_named_by_its_place(
    world: World, layers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAFELATCH_HOME", str(tmp_path / "home"))
    with pytest.raises(CheckpointNotFoundError, match="got neither base= nor a registry") as caught:
        load_protected(world.tuned, artifacts=[layers])
    assert caught.value.hint == (
        "Say where it is (base=DIR; --base DIR on the command line), or register it: "
        "safelatch base add MODEL"
    )
    with pytest.raises(DigestMismatchError, match="as in the base"):
        load_protected(world.tuned, artifacts=[layers], base=world.tuned)
    model = load_protected(world.tuned, artifacts=[layers], base=world.base)
    assert model.safelatch.verified


def test_a_fine_tune_that_kept_the_range_needs_no_base(
    world: World, healed: Path, layers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAFELATCH_HOME", str(tmp_path / "home"))
    model = load_protected(healed, artifacts=[layers])
    assert model.safelatch.applied[0].evidence["restored"] == 0
    assert model.safelatch.verified


def test_saving_keeps_the_layers_as_weights_and_inspect_says_stored(
    world: World, healed: Path
) -> None:
    assert differing(healed, world.tuned) == differing(world.base, world.tuned) & inside(world)
    outcome = safelatch("inspect", healed, "layers@1.0", "--format", "json")
    assert outcome.status == 0
    (row,) = outcome.document
    assert (row["stored"], row["loader_keeps"]) == (True, True)
    assert row["found"]["layers"] == [{
        "layer": 0, "state": "untouched", "drift": 0.0, "tensors": 9, "changed": [],
        "missing": [], "reshaped": [], "unexpected": [],
    }]  # fmt: skip


def test_inspect_speaks_of_both_kinds_and_shows_a_row_per_layer(world: World, layers: Path) -> None:
    outcome = safelatch("inspect", world.tuned, "--format", "json")
    assert outcome.status == 1
    found = {row["artifact"]: row for row in outcome.document}
    assert set(found) == {"lock@1.0", "layers@1.0"}
    (row,) = found["layers@1.0"]["found"]["layers"]
    assert (row["state"], len(row["changed"])) == ("drifted", 7)  # the norms were left alone
    assert 0.005 < row["drift"] < 0.02
    text = safelatch("inspect", world.tuned).out.splitlines()
    assert text[0].split()[:4] == ["decision", "artifact", "kind", "model"]
    below = text[text.index("") + 1 :]
    assert below[0] == f"layers@1.0  {world.tuned}"
    assert below[1].split()[:4] == ["layer", "state", "drift", "tensors"]
    assert below[2].split()[:2] == ["0", "drifted"]
    assert "model.layers.0.mlp.down_proj.weight and 6 more" in below[2]


def test_the_audit_tells_stored_layers_from_a_lock_that_is_only_available(
    world: World, healed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "audit.json"
    fresh = shutil.copytree(healed, tmp_path / "fresh")
    outcome = safelatch("audit", fresh, "--format", "json", "--out", out)
    assert outcome.status == 0
    document = json.loads(out.read_text())
    validate(document, "audit_report.v1", what="audit")
    states = {row["artifact"]: (row["kind"], row["stored"]) for row in document["rows"]}
    assert states == {"lock@1.0": ("safety-lock", False), "layers@1.0": ("safety-layers", True)}
    by_artifact = {row["artifact"]: row["state"] for row in document["rows"]}
    assert by_artifact["layers@1.0"] == "stored"
    assert by_artifact["lock@1.0"] in {"available", "verified"}


def test_an_adapter_in_the_range_is_drift_and_one_outside_is_not(
    world: World, layers: Path, tmp_path: Path
) -> None:
    shape = load_file(world.base / "model.safetensors")[f"{UP}.weight"].shape
    config = lora_config(target_modules=["up_proj"])
    for layer, status in ((0, 1), (1, 0)):
        module = UP.replace(".0.", f".{layer}.")
        folder = write_adapter(tmp_path / f"adapter-{layer}", factors(module, *shape), config)
        outcome = safelatch("inspect", folder, "layers@1.0", "--format", "json")
        assert outcome.status == status, outcome
        (row,) = outcome.document
        assert row["found"]["merged_into"] == "tiny-base"
        assert row["stored"] is (status == 0)
        (found,) = row["found"]["layers"]
        assert found["changed"] == ([f"{UP}.weight"] if status else [])
        assert (found["drift"] > 0) is bool(status)
    refused = safelatch("inspect", folder, "lock@1.0")
    assert refused.status in {1, 3}
    assert refused.err.startswith("error [")
