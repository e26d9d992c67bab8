"""From an official file to a protected model, and everything that an import without a base cannot do."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.command_line import safelatch
from support.locks import bundle_of
from support.refusals import everything_under, refusal
from support.safelocks import a_lock, layers_of, safelock

from registry import load_protected
from registry.artifact.bundle import Bundle, read_bundle, write_bundle
from registry.artifact.unbound import UNBOUND, Unbound, read_unbound, write_unbound
from registry.digest import canonical_json, digest_bytes
from registry.errors import (
    ArtifactNotFoundError,
    ConfirmationRequiredError,
    NegatedDirectionsError,
    SchemaViolationError,
    UnboundArtifactError,
    UsageError,
)
from registry.kinds import parse_body
from registry.kinds.safety_lock.extract import Budget
from registry.settings import Settings
from registry.workflows import make
from registry.workflows.identify import Identified, identify
from registry.workflows.import_foreign import describe_unbound, import_file
from registry.workflows.publish import publish

if TYPE_CHECKING:
    from pathlib import Path

    from registry.store.catalog import Registry

FREE = Budget(over_refusal=1.0, nll=100.0)


@pytest.fixture
def file(world: Any, tmp_path: Path) -> Path:
    """A file of the directions that are planted in the base, as fp16."""
    planted = world.planted.directions
    directions = np.array([*planted.values()]).astype(np.float16)
    path = tmp_path / "Planted_Base.safelock"
    path.write_bytes(safelock(layers_of(planted, directions, np.full(len(planted), 1.5))))
    return path


@pytest.fixture
def base(world: Any) -> Identified:
    return identify(world.base, settings=Settings.load())


@pytest.fixture
def unbound(file: Path, tmp_path: Path) -> Path:
    made = import_file(file)
    assert isinstance(made, Unbound)
    return write_unbound(made, tmp_path / "unbound")


def bound(path: Path, base: Identified) -> Bundle:
    made = import_file(path, base=base, base_name="planted-base")
    assert isinstance(made, Bundle)
    return made


def test_a_file_becomes_a_model_that_was_verified(
    world: Any, registry: Registry, file: Path, base: Identified, tmp_path: Path
) -> None:
    draft = write_bundle(bound(file, base), tmp_path / "lock")
    refusal(ConfirmationRequiredError,
            lambda: publish(registry, draft, name="theirs", version="1.0"),
            "expected a measured alpha, this lock has none.")  # fmt: skip
    measured = make.calibrate(
        read_bundle(draft), base, world.planted.model, world.planted.tokenizer,
        budget=FREE, seed=0, limit=2, max_new_tokens=3, grid=(0.5, 1.0),
    )  # fmt: skip
    assert [receipt["type"] for receipt in measured.manifest.receipts] == ["import", "calibration"]
    publish(registry, write_bundle(measured, tmp_path / "ready"), name="theirs", version="1.0")
    model = load_protected(world.tune, artifacts=["theirs@1.0"])
    assert model.safelatch.verified
    assert model.safelatch.to_dict()["applied"][0]["alpha"] == 1.0


def test_a_draft_says_where_it_came_from(file: Path, base: Identified) -> None:
    manifest, data = bound(file, base).manifest, file.read_bytes()
    source = {
        "name": "Planted_Base.safelock", "sha256": hashlib.sha256(data).hexdigest(),
        "digest": digest_bytes(data), "size": len(data),
        "format": "safelock: a torch.save zip of a dict of lists of (head, direction, sigma)",
    }  # fmt: skip
    assert manifest.provenance["imported"] == source
    assert (manifest.provenance["seed"], manifest.provenance["data"]) == (None, [])
    (receipt,) = manifest.receipts
    assert (receipt["type"], receipt["source"]) == ("import", source)
    assert (manifest.base.name, manifest.base_weights) == ("planted-base", base.record.weights)


def test_show_says_imported_until_it_is_calibrated(
    world: Any, file: Path, base: Identified, tmp_path: Path
) -> None:
    bundle = bound(file, base)
    folder = write_bundle(bundle, tmp_path / "lock")
    assert "imported, alpha uncalibrated" in safelatch("show", folder).out
    body = parse_body(bundle).calibrated(1.0, (0.0, 1.0))
    assert body.describe()["origin"] == "imported"


def test_the_command_measures_the_strength_of_an_imported_lock(
    world: Any, registry: Registry, file: Path, tmp_path: Path
) -> None:
    lock = tmp_path / "lock"
    assert safelatch("import", file, "--base", world.base, "--out", lock).status == 0
    free = ("--limit", 2, "--max-new-tokens", 3, "--budget", 1, "--nll-budget", 100)
    assert safelatch("calibrate", lock, "--base", world.base, *free).status == 0
    assert safelatch("show", lock, "--field", "contents.origin").out == "imported\n"
    outcome = safelatch("check", lock, world.tune, "--measure")
    assert (outcome.status, outcome.out) == (3, "")
    assert "expected what the directions measured in the base" in outcome.err


def test_an_import_without_a_base_is_bound_later_as_the_file_would_be(
    file: Path, base: Identified, unbound: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.workflows.import_foreign.stamp", lambda: "2030-01-01T00:00:00Z")
    direct = bound(file, base)
    file.unlink()
    assert bound(unbound, base) == direct


def test_an_import_without_a_base_can_be_shown(unbound: Path) -> None:
    said, shown = describe_unbound(unbound), safelatch("show", unbound).out
    assert shown.startswith("unbound  Planted_Base.safelock  safety-lock  bound to no base\n")
    assert "0:2,3; 1:0,1" in shown
    assert said["contents"]["sigma_median"] == 1.5
    assert safelatch("show", unbound, "--field", "contents.head_count").out == "4\n"


@pytest.mark.parametrize(
    "words",
    [("check", "{}", "{tune}"), ("calibrate", "{}"), ("inspect", "{tune}", "{}"),
     ("publish", "{}", "--name", "theirs", "--version", "1.0")],
)  # fmt: skip
def test_no_verb_takes_an_import_without_a_base(
    world: Any, registry: Registry, unbound: Path, words: tuple[str, ...]
) -> None:
    outcome = safelatch(*(word.format(unbound, tune=world.tune) for word in words))
    assert outcome.status == 3
    assert "error [unbound]: expected a bundle with its base at" in outcome.err
    assert f"safelatch import {unbound} --base BASE --out DIR" in outcome.err


def test_an_import_without_a_base_is_never_loaded(
    world: Any, registry: Registry, unbound: Path
) -> None:
    refusal(UnboundArtifactError, lambda: load_protected(world.tune, artifacts=[unbound]))


def test_an_unbound_import_needs_a_base_to_be_imported_again(unbound: Path) -> None:
    refusal(UsageError, lambda: import_file(unbound), f"expected a base for {unbound}")


def test_facts_that_are_not_those_of_the_tensors_are_refused(
    unbound: Path, base: Identified
) -> None:
    document = read_unbound(unbound).to_dict()
    document["contents"] |= {"sigma_max": 9.0}
    (unbound / UNBOUND).write_bytes(canonical_json(document))
    for call in (lambda: describe_unbound(unbound), lambda: bound(unbound, base)):
        refusal(SchemaViolationError, call, "$.contents.sigma_max: stated 9, found 1.5")


def test_a_base_without_the_heads_is_refused_and_nothing_is_written(
    world: Any, registry: Registry, tmp_path: Path
) -> None:
    path = tmp_path / "big.safelock"
    path.write_bytes(safelock(a_lock(((39, 12), (18, 27)), width=128)))
    before = everything_under(tmp_path)
    outcome = safelatch("import", path, "--base", world.base, "--out", tmp_path / "out")
    assert outcome.status == 3
    for said in ("head_dim: expected 128, got 16", "layers: expected at least 40 for head 39:12, got 2",
                 "heads: expected at least 28 for head 18:27, got 4"):  # fmt: skip
        assert said in outcome.err
    after = {
        name: seen for name, seen in everything_under(tmp_path).items() if "/cache" not in name
    }
    assert after.keys() <= before.keys() | {str(tmp_path / "home")}


def test_files_of_other_suffixes_and_folders_of_other_things_are_not_imported(
    world: Any, tmp_path: Path
) -> None:
    refusal(
        UsageError,
        lambda: import_file(tmp_path / "x.pt"),
        "expected a file that ends in .pickle, .pkl, .safelock, got 'x.pt'.",
    )
    refusal(
        UsageError,
        lambda: import_file(world.base),
        "expected a file, or a folder that an import without a base made, got",
    )
    refusal(ArtifactNotFoundError, lambda: import_file(tmp_path / "x.safelock"), "found none")


def test_directions_that_mean_nothing_in_the_base_are_refused_at_a_load(
    world: Any, registry: Registry, base: Identified, tmp_path: Path
) -> None:
    """A file bound to the wrong base: every shape fits, and only the model itself can say so."""
    path = tmp_path / "other.safelock"
    planted = world.planted.directions
    directions = -np.array([*planted.values()]).astype(np.float16)
    path.write_bytes(safelock(layers_of(planted, directions, np.ones(len(planted)))))
    body = parse_body(bound(path, base)).calibrated(1.0, (0.0, 1.0))
    wrong = write_bundle(bundle_of(base.record, body), tmp_path / "wrong")
    refusal(NegatedDirectionsError, lambda: load_protected(world.tune, artifacts=[wrong]))


def test_the_command_imports_and_binds(
    world: Any, registry: Registry, file: Path, tmp_path: Path
) -> None:
    made = safelatch("import", file, "--out", tmp_path / "one", "--format", "json").document
    assert (made["state"], made["base"]) == ("unbound", None)
    assert made["contents"]["layers"] == "0:2,3; 1:0,1"
    assert made["source"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    done = safelatch("import", tmp_path / "one", "--base", world.base, "--out", tmp_path / "two")
    assert done.status == 0, done
    assert done.out.startswith(
        f"imported  {tmp_path / 'two'}  safety-lock  for planted-base, alpha"
    )
    assert f"next, measure its strength: safelatch calibrate {tmp_path / 'two'}" in done.err
    assert read_bundle(tmp_path / "two").manifest.base.name == "planted-base"
