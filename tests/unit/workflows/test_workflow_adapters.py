from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.adapters import DOWN1, PREFIX, Q0, factors, lora_config, write_adapter
from support.tiny_models import (
    fine_tune,
    llama_config,
    make_tensors,
    qwen2_config,
    write_checkpoint,
)

from registry.checkpoint.adapter import Adapter
from registry.errors import CheckpointNotFoundError, GeometryError
from registry.settings import Settings
from registry.store.values import Alias
from registry.workflows.adapters import (
    AdapterAncestry,
    adapter_descents,
    check_adapter,
    trace_adapter,
)
from registry.workflows.bases import add_base
from registry.workflows.identify import identify

if TYPE_CHECKING:
    from pathlib import Path

    from registry.store.catalog import Registry

TWO = factors(Q0, 64, 48) | factors(DOWN1, 48, 80, seed=1)
CONFIG = llama_config()
WIDE = qwen2_config()


@pytest.fixture
def filled(empty_registry: Registry, tmp_path: Path) -> Registry:
    """A registry of two bases of the same shapes and one of other shapes."""
    for name, config, seed in (("one", CONFIG, 0), ("two", CONFIG, 1), ("wide", WIDE, 0)):
        made = make_tensors(config, seed=seed)
        folder = write_checkpoint(tmp_path / name, config, made)
        add_base(empty_registry, identify(folder, settings=Settings.load()), name)
    return empty_registry


def trace(registry: Registry, folder: Path, tensors: Any = TWO, **changes: Any) -> Any:
    return trace_adapter(registry, write_adapter(folder, tensors, lora_config(**changes)))


def test_every_base_of_its_shapes_is_a_candidate_on_level_2(
    filled: Registry, tmp_path: Path
) -> None:
    found = trace(filled, tmp_path / "lora")
    assert {item.base.name for item in found.descents} == {"one", "two"}
    assert found.base is None
    for item in found.descents:
        assert (item.level, item.lineage.level, item.lineage.relation) == (2, 2, "derived")
        assert 0 < item.lineage.distance < 0.25
        assert item.change.changed == (f"{Q0}.weight", f"{DOWN1}.weight")
        assert item.change.layers == (0, 1)
        assert [touched.rank for touched in item.touched] == [2, 2]


@pytest.mark.parametrize("way", ["name", "path"])
def test_a_base_that_it_names_comes_first_and_is_the_one(
    filled: Registry, tmp_path: Path, way: str
) -> None:
    claim = "two" if way == "name" else str(tmp_path / "two")
    found = trace(filled, tmp_path / "lora", base_model_name_or_path=claim)
    assert [item.base.name for item in found.descents] == ["two", "one"]
    assert found.base.base.name == "two"
    assert found.base.level == 2
    assert found.base.claims[0].sources == ("adapter_config.json",)


@pytest.mark.parametrize(
    ("revision", "named"),
    [(None, "two"), ("main", "two"), ("a" * 40, "two"), ("b" * 40, None), ("other", None)],
)
def test_a_repository_that_it_names_is_the_base_from_there(
    filled: Registry, tmp_path: Path, revision: str | None, named: str | None
) -> None:
    made = make_tensors(CONFIG, seed=1)
    folder = write_checkpoint(tmp_path / "again", CONFIG, made)
    model = identify(folder, settings=Settings.load())
    add_base(filled, replace(model, commit="a" * 40, locator="acme/tiny"), "two")
    assert Alias("hub", f"acme/tiny@{'a' * 40}") in filled.base("two").aliases
    found = trace(filled, tmp_path / "lora", revision=revision)
    assert (None if found.base is None else found.base.base.name) == named


def test_a_base_that_it_names_and_does_not_fit_is_level_0(filled: Registry, tmp_path: Path) -> None:
    found = trace(filled, tmp_path / "lora", base_model_name_or_path="wide")
    first = found.descents[0]
    assert (first.base.name, first.level, first.lineage, first.change) == ("wide", 0, None, None)
    assert first.misfits == (
        f"{Q0}.weight: the base has [64, 64], the adapter is for [64, 48]",
        f"{DOWN1}.weight: the base has [64, 80], the adapter is for [48, 80]",
    )
    assert found.base is None


def test_an_adapter_that_fits_nothing_has_no_descents(filled: Registry, tmp_path: Path) -> None:
    found = trace(filled, tmp_path / "lora", factors(Q0, 7, 9))
    assert found.descents == ()
    assert found.claims[0][0].base == "acme/tiny"
    assert found.claims[0][1] is None


def test_the_only_base_that_it_fits_is_the_one(filled: Registry, tmp_path: Path) -> None:
    assert trace(filled, tmp_path / "lora", factors(Q0, 64, 64)).base.base.name == "wide"


def test_no_more_than_a_number_are_judged_and_the_others_are_counted(
    filled: Registry, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path / "lora", TWO, lora_config())
    with Adapter.open(folder) as adapter:
        found, unseen = adapter_descents(filled, adapter, most=1)
    assert [item.base.name for item in found] == ["one"]
    assert unseen == 1
    assert AdapterAncestry(adapter.digest, tuple(found), (), unseen).base is None
    assert AdapterAncestry(adapter.digest, tuple(found), (), 0).base is found[0]


def test_an_adapter_that_changes_nothing_is_identical_on_level_2(
    filled: Registry, tmp_path: Path
) -> None:
    zero = factors(Q0, 64, 48, size=0.0)
    item = trace(filled, tmp_path / "lora", zero).descents[0]
    assert (item.change.kind, item.lineage.relation, item.level) == ("identical", "identical", 2)


@pytest.mark.parametrize("rank", [3, 40])
def test_the_rank_is_that_of_the_factors(filled: Registry, tmp_path: Path, rank: int) -> None:
    tensors = factors(Q0, 64, 48, rank=rank, size=0.01)
    found = trace(filled, tmp_path / "lora", tensors, r=rank, lora_alpha=rank)
    change = found.descents[0].change
    assert (change.kind, change.figures["rank"]) == ("merged-lora", rank)


def test_matrices_that_are_held_whole_make_it_a_fine_tune(filled: Registry, tmp_path: Path) -> None:
    whole = {
        f"{PREFIX}{name}": item
        for name, item in fine_tune(make_tensors(CONFIG), 1e-2).items()
        if "gate_proj" in name or "up_proj" in name
    }
    saved = ["gate_proj", "up_proj"]
    found = trace(filled, tmp_path / "lora", factors(Q0, 64, 48) | whole, modules_to_save=saved)
    changes = {item.base.name: item.change for item in found.descents}
    assert changes["one"].kind == "fine-tune"


def test_the_json_form_is_json(filled: Registry, tmp_path: Path) -> None:
    broken = factors(Q0, 64, 48, size=np.inf)
    for tensors in (TWO, broken):
        document = trace(
            filled, tmp_path / "lora", tensors, base_model_name_or_path="wide"
        ).to_dict()
        assert json.loads(json.dumps(document, allow_nan=False)) == document
        assert document["claims"][0]["registered_as"] == "wide"
        assert document["adapter"]["descents"][0]["misfits"]
        assert document["base"] is None


def test_a_folder_that_is_no_adapter_is_refused(filled: Registry, tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError):
        trace_adapter(filled, tmp_path / "one")


def adapter_for(world: Any, folder: Path, *, size: float = 0.05) -> Path:
    geometry = world.bundle.manifest.geometry
    wide = geometry["heads"] * geometry["head_dim"]
    tensors = factors(Q0, wide, geometry["hidden_size"], size=size)
    return write_adapter(folder, tensors, lora_config())


def test_an_artifact_is_checked_against_its_own_base_with_the_adapter_merged_in(
    world: Any, tmp_path: Path
) -> None:
    report = check_adapter(world.bundle, adapter_for(world, tmp_path / "lora"))
    assert report.verdict == "compatible"
    assert [finding.code for finding in report.findings] == ["adapter"]
    assert report.lineage.relation == "derived"


def test_an_adapter_that_moves_its_base_too_far_is_refused(world: Any, tmp_path: Path) -> None:
    report = check_adapter(world.bundle, adapter_for(world, tmp_path / "lora", size=50.0))
    assert report.verdict == "refused"
    assert report.errors[0].code == "base-mismatch"


def test_an_adapter_for_another_base_is_no_fine_tune_of_this_one(
    world: Any, tmp_path: Path
) -> None:
    other = write_adapter(tmp_path / "lora", factors(Q0, 7, 5), lora_config())
    with pytest.raises(GeometryError, match="q_proj"):
        check_adapter(world.bundle, other)
