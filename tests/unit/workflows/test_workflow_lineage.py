"""Whose child: claims beside measurements, and the same answer where only a bundle was."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.tiny_models import fine_tune, llama_config, make_tensors, tensor, write_checkpoint

from registry.checkpoint.claims import Claim
from registry.errors import UnsafeFormatError
from registry.settings import Settings
from registry.store.catalog import Registry
from registry.workflows.bases import add_base
from registry.workflows.identify import identify
from registry.workflows.lineage import base_of_claim, trace
from registry.workflows.publish import publish

if TYPE_CHECKING:
    from pathlib import Path

    from registry.workflows.identify import Identified

CONFIG = llama_config()
TENSORS = make_tensors(CONFIG, dtype="BF16")


@pytest.fixture
def empty(tmp_path: Path) -> Any:
    with Registry.create(str(tmp_path / "r" / "registry.db")) as registry:
        yield registry


def read(folder: Path) -> Identified:
    return identify(folder, settings=Settings.load())


@pytest.fixture
def family(tmp_path: Path, empty: Registry) -> dict[str, Path]:
    """A base, a child and a stranger of one architecture; the base is registered."""
    made = {
        "base": TENSORS,
        "child": {n: tensor(t.values, "BF16") for n, t in fine_tune(TENSORS, 0.01).items()},
        "stranger": make_tensors(CONFIG, seed=9, dtype="BF16"),
    }
    folders = {name: write_checkpoint(tmp_path / name, CONFIG, made[name]) for name in made}
    add_base(empty, read(folders["base"]), "acme-base")
    return folders


def test_the_parent_is_the_nearest_base_with_what_was_done(
    empty: Registry, family: dict[str, Path]
) -> None:
    add_base(empty, read(family["stranger"]), "stranger")
    found = trace(empty, read(family["child"]))
    assert [(c.base.name, c.kind) for c in found.candidates] == [
        ("acme-base", "fine-tune"), ("stranger", "unrelated"),
    ]  # fmt: skip
    parent = found.parent
    assert parent is not None
    assert parent.lineage.distance == pytest.approx(0.01, rel=0.1)
    assert parent.direction == "unknown"
    assert found.claims == ()


def test_a_model_of_no_registered_base_has_no_parent(
    empty: Registry, family: dict[str, Path]
) -> None:
    found = trace(empty, read(family["stranger"]))
    assert found.parent is None
    assert [(c.kind, c.change is None) for c in found.candidates] == [("unrelated", False)]


def test_a_bit_of_an_exponent_that_leads_beyond_the_bounds_is_named(
    tmp_path: Path, empty: Registry, family: dict[str, Path]
) -> None:
    norm = "model.layers.1.input_layernorm.weight"
    data = bytearray(TENSORS[norm].data)
    data[7] ^= 0x40
    broken = TENSORS | {norm: replace(TENSORS[norm], data=bytes(data))}
    found = trace(empty, read(write_checkpoint(tmp_path / "broken", CONFIG, broken)))
    assert found.parent is None
    nearest = found.candidates[0].change
    assert nearest is not None
    assert (nearest.kind, nearest.changed, nearest.layers) == ("sparse-edit", (norm,), (1,))


def test_a_merge_is_told_also_where_its_nearest_parent_makes_it_a_fine_tune(
    tmp_path: Path, empty: Registry
) -> None:
    """Nine tenths of one parent: from there the change is within rounding."""
    one, two = (fine_tune(TENSORS, 4e-3, seed=seed) for seed in (1, 2))
    stored = [{n: tensor(t.values, "BF16") for n, t in each.items()} for each in (one, two)]
    mixed = {
        name: tensor(0.9 * stored[0][name].values + 0.1 * stored[1][name].values, "BF16")
        for name in TENSORS
    }
    for name, tensors in (("base", TENSORS), ("one", stored[0]), ("two", stored[1])):
        folder = write_checkpoint(tmp_path / name, CONFIG, tensors)
        add_base(empty, read(folder), name, anyway=True)
    found = trace(empty, read(write_checkpoint(tmp_path / "mixed", CONFIG, mixed)))
    assert found.parent is not None
    assert found.parent.kind == "merge"


@pytest.mark.parametrize("end", [15, 23, 71])
@pytest.mark.parametrize("start", [0, 7])
def test_a_claim_of_a_digest_names_no_base(
    empty: Registry, family: dict[str, Path], start: int, end: int
) -> None:
    text = empty.base("acme-base").weights[start:end]
    assert empty.base(text).name == "acme-base"
    sha256 = next(a.value for a in empty.base("acme-base").aliases if a.scheme == "sha256-set")
    for claimed in (text, sha256):
        assert base_of_claim(empty, Claim(("README.md",), claimed)) is None
    assert base_of_claim(empty, Claim(("README.md",), "acme-base")) is not None


def test_a_claim_is_listed_beside_what_was_measured(
    empty: Registry, family: dict[str, Path]
) -> None:
    card = "---\nbase_model: acme-base\nbase_model_relation: finetune\n---\n"
    (family["child"] / "README.md").write_text(card)
    (family["stranger"] / "README.md").write_text(card)
    child, stranger = (trace(empty, read(family[name])) for name in ("child", "stranger"))
    assert child.parent is not None
    assert child.parent.direction == "claimed"
    assert child.parent.to_dict()["claimed_by"] == ["README.md"]
    assert stranger.parent is None, "a claim decided"
    assert stranger.to_dict()["claims"] == [
        {
            "sources": ["README.md"],
            "base": "acme-base",
            "relation": "finetune",
            "revision": None,
            "registered_as": "acme-base",
        }
    ]


def test_a_claimed_base_of_another_shape_is_judged_too(
    tmp_path: Path, empty: Registry, family: dict[str, Path]
) -> None:
    deeper = write_checkpoint(tmp_path / "deeper", llama_config(num_hidden_layers=3))
    (deeper / "README.md").write_text("---\nbase_model: acme-base\n---\n")
    found = trace(empty, read(deeper))
    assert [(c.base.name, c.kind) for c in found.candidates] == [("acme-base", "other-structure")]
    assert found.parent is None


def test_a_claim_of_something_that_is_not_registered_is_kept_as_it_stands(
    empty: Registry, family: dict[str, Path]
) -> None:
    (family["child"] / "README.md").write_text("---\nbase_model: [org/a, org/b]\n---\n")
    claims = trace(empty, read(family["child"])).to_dict()["claims"]
    assert [(c["base"], c["registered_as"]) for c in claims] == [("org/a", None), ("org/b", None)]


def test_a_declaration_that_two_readers_could_read_differently_is_refused(
    empty: Registry, family: dict[str, Path]
) -> None:
    (family["child"] / "adapter_config.json").write_text('{"r": 1, "r": 2}')
    with pytest.raises(UnsafeFormatError, match=r"adapter_config\.json"):
        trace(empty, read(family["child"]))


@pytest.mark.parametrize(
    ("dtype", "direction"), [("F32", "unknown"), ("F16", "unknown"), ("BF16", "measured")]
)
def test_a_narrower_cast_shows_which_came_first(
    tmp_path: Path, empty: Registry, dtype: str, direction: str
) -> None:
    wide = make_tensors(CONFIG, dtype="F32" if dtype == "BF16" else "BF16")
    add_base(empty, read(write_checkpoint(tmp_path / "wide", CONFIG, wide)), "wide")
    cast = {name: tensor(item.values, dtype) for name, item in wide.items()}
    parent = trace(empty, read(write_checkpoint(tmp_path / "cast", CONFIG, cast))).parent
    assert parent is not None
    assert (parent.kind, parent.direction) == ("cast", direction)


def test_a_merge_is_told_when_both_parents_are_registered(tmp_path: Path, empty: Registry) -> None:
    one, two = (fine_tune(TENSORS, 0.1, seed=seed) for seed in (1, 2))
    mixed = {
        name: tensor(0.5 * one[name].values.astype(np.float64) + 0.5 * two[name].values)
        for name in TENSORS
    }
    for name, tensors in (("base", TENSORS), ("one", one), ("two", two)):
        folder = write_checkpoint(tmp_path / name, CONFIG, tensors)
        add_base(empty, read(folder), name, anyway=True)
    found = trace(empty, read(write_checkpoint(tmp_path / "mixed", CONFIG, mixed)))
    assert found.parent is not None
    assert found.parent.kind == "merge"
    assert found.parent.base.name in {"base", "one", "two"}


def test_a_child_of_a_fine_tune_is_no_merge_with_the_base_that_its_card_names(
    tmp_path: Path, empty: Registry, family: dict[str, Path]
) -> None:
    """The card names the same base twice, by name and by path; the nearest stays the parent."""
    tuned = fine_tune(TENSORS, 0.1, seed=3)
    add_base(empty, read(write_checkpoint(tmp_path / "tuned", CONFIG, tuned)), "tuned", anyway=True)
    child = write_checkpoint(tmp_path / "grandchild", CONFIG, fine_tune(tuned, 1e-3, seed=4))
    card = f"---\nbase_model: [acme-base, {family['base'].resolve()}]\n---\n"
    (child / "README.md").write_text(card)
    found = trace(empty, read(child))
    assert [(c.base.name, c.kind) for c in found.candidates] == [
        ("tuned", "fine-tune"), ("acme-base", "fine-tune"),
    ]  # fmt: skip
    assert len(found.candidates[1].claims) == 2


def test_the_verdicts_are_the_same_where_only_a_bundle_was(
    world: Any, tmp_path: Path, registry: Registry
) -> None:
    """``registry`` read the base's weights; the other one has never seen them."""
    shutil.copytree(world.lock, tmp_path / "bundle")
    with Registry.create(str(tmp_path / "elsewhere" / "registry.db")) as elsewhere:
        publish(elsewhere, tmp_path / "bundle", name="planted-lock", version="1.0.0")
        answers = []
        for each in (registry, elsewhere):
            found = trace(each, read(world.tune)).to_dict()
            answers.append(json.dumps(found, sort_keys=True))
    assert answers[0] == answers[1]
    assert json.loads(answers[0])["descents"][0]["change"]["kind"] == "fine-tune"
