"""Masks on the command line: copies that carry one, what is found of one, and what is shown."""

from __future__ import annotations

import pickle
import shutil
from typing import TYPE_CHECKING

import pytest
from safetensors.torch import load_file
from support.adapters import factors, lora_config, write_adapter
from support.command_line import safelatch
from support.mask_worlds import Masked
from support.masked import mask_bundle

from registry.artifact.bundle import read_bundle, write_bundle
from registry.kinds import parse_body

if TYPE_CHECKING:
    from pathlib import Path

    from support.cli_world import World

UP = "model.layers.0.mlp.up_proj"
SELECTED = 1024


@pytest.fixture(scope="module")
def mask(world: World, published: Path) -> Path:
    """Publish a mask without values, and a delta of it; return the folder of the mask."""
    made = mask_bundle(None, world.base)
    delta = Masked(world.base, None, made, parse_body(made)).as_delta().bundle
    for name, bundle in (("mask", made), ("delta", delta)):
        write_bundle(bundle, world.folder / name)
        done = safelatch("publish", world.folder / name, "--name", name, "--version", "1.0")
        assert done.status == 0, done
    return world.folder / "mask"


@pytest.fixture(scope="module")
def adapter(world: World) -> Path:
    shape = load_file(world.base / "model.safetensors")[f"{UP}.weight"].shape
    config = lora_config(target_modules=["up_proj"])
    return write_adapter(world.folder / "adapter", factors(UP, *shape), config)


@pytest.fixture
def no_registry(tmp_path: Path) -> tuple[str, Path]:
    return "--db", tmp_path / "none.db"


def differing(one: Path, other: Path) -> int:
    """Return how many weights of two models are not equal."""
    first, second = (load_file(folder / "model.safetensors") for folder in (one, other))
    return sum(int((first[name] != second[name]).sum()) for name in first)


# project


def test_a_copy_carries_the_mask_and_says_how_to_see_it(
    world: World, mask: Path, tmp_path: Path
) -> None:
    out = tmp_path / "healed"
    outcome = safelatch("project", world.tuned, "mask@1.0", "--out", out)
    assert outcome.status == 0, outcome
    assert outcome.out.splitlines() == [
        f"written  {out}  mask@1.0  esi-mask",
        f"from       {world.tuned}",
        f"changed    {SELECTED:,} weights, which are now what they must be",
        "stored     yes, bit for bit, read back",
        f"files      {len(list(out.iterdir()))}",
        "signed by  nobody",
    ]
    hint = f"to see it again from its bytes alone: safelatch inspect {out} mask@1.0\n"
    assert outcome.err == hint
    assert differing(world.tuned, out) == SELECTED
    again = safelatch("project", out, "mask", "--out", tmp_path / "again")
    assert "changed    none, each was what it must be\n" in again.out
    seen = safelatch("inspect", out, "mask@1.0")
    assert seen.status == 0
    assert f"selected weights   all {SELECTED:,} are the base's, bit for bit\n" in seen.out


def test_an_adapter_is_merged_into_the_registered_base_or_the_one_that_is_named(
    world: World, mask: Path, adapter: Path, tmp_path: Path
) -> None:
    for name, base in (
        ("known", ()),
        ("name", ("--base", "tiny")),
        ("path", ("--base", world.base)),
    ):
        outcome = safelatch(
            "project", adapter, "mask@1.0", "--out", tmp_path / name, *base, "--format", "json"
        )
        assert outcome.status == 0, outcome
        assert outcome.document["stored"] is True
        assert outcome.document["changed"] == outcome.document["found"]["matrices"][3]["selected"]
    for model in ("name", "path"):
        assert differing(tmp_path / "known", tmp_path / model) == 0
    assert differing(world.base, tmp_path / "known") > 0


def test_another_model_as_the_base_is_refused(
    world: World, mask: Path, adapter: Path, tmp_path: Path
) -> None:
    words = ("project", adapter, "mask", "--out", tmp_path / "out", "--base")
    outcome = safelatch(*words, world.tuned)
    assert outcome.status == 3
    assert f"error [base-model-mismatch]: expected {world.tuned} to be the base" in outcome.err
    assert safelatch(*words, "nobody").status == 1
    assert not (tmp_path / "out").exists()


def test_without_a_registry_the_base_is_asked_for_as_an_option(
    world: World, mask: Path, adapter: Path, no_registry: tuple[str, Path], tmp_path: Path
) -> None:
    for model in (world.tuned, adapter):
        words = (*no_registry, "project", model, mask, "--out", tmp_path / "out")
        outcome = safelatch(*words)
        assert outcome.status == 1, outcome
        assert "--base DIR on the command line" in outcome.err
        assert not (tmp_path / "out").exists()
        assert safelatch(*words, "--base", world.base).status == 0
        shutil.rmtree(tmp_path / "out")


def test_a_key_that_must_have_signed_it_is_asked(
    world: World, masked: Path, no_registry: tuple[str, Path], tmp_path: Path
) -> None:
    db, key = ("--db", tmp_path / "publisher.db"), tmp_path / "ours.key"
    for step in (
        ("key", "generate", "--out", tmp_path / "ours"),
        ("key", "generate", "--out", tmp_path / "others"),
        (*db, "init"),
        (*db, "key", "trust", tmp_path / "ours.pub", "--for", "*"),
        (*db, "publish", masked, "--name", "signed", "--version", "1.0", "--key", key),
        (*db, "save", "signed@1.0", "--out", tmp_path / "signed"),
    ):
        assert safelatch(*step).status == 0, step
    out = tmp_path / "out"
    for artifact, name, code in (
        (masked, "ours", "unsigned"),
        (tmp_path / "signed", "others", "untrusted-key"),
        (tmp_path / "signed", "ours", None),
    ):
        words = (*no_registry, "project", world.tuned, artifact, "--out", out, "--format", "json")
        outcome = safelatch(*words, "--trust", tmp_path / f"{name}.pub")
        if code is not None:
            assert (outcome.status, outcome.document["error"]["code"]) == (3, code)
            assert not out.exists()
    assert outcome.status == 0, outcome
    assert len(outcome.document["signed_by"]) == 1


def test_a_registry_that_was_revoked_from_is_asked_about_a_folder_too(
    world: World, masked: Path, tmp_path: Path
) -> None:
    """``--db`` names the registry that is asked, not the default one."""
    other = ("--db", tmp_path / "other.db")
    for step in (
        ("init",),
        ("base", "add", world.base),
        ("publish", masked, "--name", "gone", "--version", "1.0"),
        ("save", "gone@1.0", "--out", tmp_path / "saved"),
        ("revoke", "gone@1.0", "--reason", "leaked"),
    ):
        assert safelatch(*other, *step).status == 0, step
    words = ("project", world.tuned, tmp_path / "saved", "--out", tmp_path / "out")
    outcome = safelatch(*other, *words)
    assert outcome.status == 3
    assert "error [revoked]" in outcome.err
    assert safelatch(*words).status == 0


# inspect


def test_the_share_is_counted_beside_the_base_that_is_registered(world: World, mask: Path) -> None:
    outcome = safelatch("inspect", world.tuned, "mask@1.0", "--format", "json")
    (row,) = outcome.document
    assert (outcome.status, outcome.err) == (1, "")
    assert "shown" not in row
    assert "alone" not in row
    found = row["found"]
    assert (found["equal"], found["not_counted"], found["estimate"]) == (0, 0, None)
    assert 0.005 < found["drift_of_the_rest"] < 0.02
    text = safelatch("inspect", world.tuned, "mask@1.0").out.splitlines()
    assert text[:2] == [
        "decision    artifact  kind      model",
        f"not-stored  mask@1.0  esi-mask  {world.tuned}",
    ]
    assert text[4] == f"selected weights   0 of {SELECTED:,} are the base's (0.00%)"
    assert text[5].startswith("the other weights  0.01")
    assert text[5].endswith(" from the base's (relative distance), estimated from samples")


def test_without_the_base_nothing_is_claimed_that_was_not_read(
    world: World, mask: Path, no_registry: tuple[str, Path]
) -> None:
    outcome = safelatch(*no_registry, "inspect", world.tuned, mask)
    assert outcome.status == 1
    assert outcome.err.startswith("(draft): the base's weights were not read: expected the weights")
    assert " Say where they are: safelatch --db " in outcome.err
    assert outcome.err.endswith(" base add MODEL\n")
    line = outcome.out.splitlines()[4]
    assert line.startswith(f"selected weights   {SELECTED:,} were not counted: of ")
    assert "sampled, 0 are the base's (weighted by matrix 0.0%, 95 % interval 0.0% to " in line
    valued = world.folder / "valued"
    write_bundle(mask_bundle(None, world.base, with_values=True), valued)
    outcome = safelatch(*no_registry, "inspect", world.tuned, valued)
    assert outcome.err == ""
    assert f"0 of {SELECTED:,} are the base's (0.00%)" in outcome.out


def test_files_of_the_base_that_changed_are_not_counted_beside(
    world: World, masked: Path, tmp_path: Path
) -> None:
    base, db = shutil.copytree(world.base, tmp_path / "base"), ("--db", tmp_path / "registry.db")
    for step in (("init",), ("base", "add", base)):
        assert safelatch(*db, *step).status == 0
    shutil.copy(world.tuned / "model.safetensors", base)
    bare = write_bundle(mask_bundle(None, world.base), tmp_path / "bare")
    outcome = safelatch(*db, "inspect", world.tuned, bare)
    assert outcome.status == 1
    assert outcome.err.startswith("(draft): the base's weights were not read: ")
    assert "as in the base tiny-base, got blake3:" in outcome.err
    assert "were not counted" in outcome.out


def test_what_an_adapter_leaves_is_told_as_far_as_it_can_be(
    world: World, mask: Path, adapter: Path
) -> None:
    outcome = safelatch("inspect", adapter, "mask@1.0")
    assert outcome.status == 1
    lines = outcome.out.splitlines()
    assert lines[4] == "merged into        tiny-base"
    assert "at least 990 of 1,024 are the base's; 34 were not counted: of " in lines[5]
    assert lines[7] == "matrices           14 same, 1 drifted"
    (row,) = [line for line in lines if line.startswith(f"{UP}.weight")]
    assert "sampled" in row


# show, list, extract, import


def test_a_mask_and_a_delta_are_shown_and_listed_as_what_they_are(mask: Path) -> None:
    shown = safelatch("show", "mask@1.0").out
    assert "values     left out\n" in shown
    delta = safelatch("show", "delta@1.0").out
    assert "form        delta\n" in delta
    assert "values      new ones are in the bundle\n" in delta
    assert "trained     100 steps of AdamW, learning rate 0.0001\n" in delta
    assert "trained_on  not said\n" in delta
    listed = [line.split()[:3] for line in safelatch("list").out.splitlines()]
    assert ["delta@1.0", "active", "esi-mask"] in listed
    assert ["mask@1.0", "active", "esi-mask"] in listed


def test_how_firm_a_mask_is_is_measured_unless_it_is_switched_off(
    world: World, published: Path, tmp_path: Path
) -> None:
    words = ("extract", "esi-mask", "tiny", "--limit", 4, "--out")
    for name, switch in (("firm", ()), ("bare", ("--no-halves",))):
        outcome = safelatch(*words, tmp_path / name, *switch)
        assert outcome.status == 0, outcome
        stability = read_bundle(tmp_path / name).manifest.body["stability"]
        assert ("halves_jaccard " in outcome.out) == (stability is not None) == (name == "firm")
    assert stability is None
    few = safelatch("extract", "esi-mask", "tiny", "--limit", 1, "--out", tmp_path / "few")
    assert few.status == 2
    assert few.err.endswith("or do not measure how far they agree: --no-halves\n")


def test_indices_of_the_authors_become_a_draft_that_is_published_next(
    world: World, published: Path, tmp_path: Path
) -> None:
    file, out = tmp_path / "theirs.pickle", tmp_path / "mask"
    file.write_bytes(pickle.dumps({f"{UP}.weight": [3, 1, 4]}, 4))
    outcome = safelatch("import", file, "--base", "tiny", "--out", out)
    assert outcome.status == 0, outcome
    assert outcome.out.splitlines()[0] == f"imported  {out}  esi-mask  for tiny"
    assert outcome.err == f"next, publish it: safelatch publish {out} --name NAME --version V\n"
    assert "selected   3 of " in safelatch("show", out).out
    said = " ".join(safelatch("import", "--help").out.split())
    assert "FILE ends in .safelock, .pkl, .pickle." in said
    assert "safelatch import theirs.pkl --base ./my-base --out ./mask" in said
