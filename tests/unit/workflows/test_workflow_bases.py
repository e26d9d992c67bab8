from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
from support.tiny_models import fine_tune, llama_config, make_tensors, write_checkpoint

from registry.errors import BaseNotFoundError
from registry.settings import Settings
from registry.workflows.bases import add_base, default_name, descents, find_base
from registry.workflows.identify import identify

if TYPE_CHECKING:
    from pathlib import Path

    from registry.store.catalog import Registry


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("My Model", "my-model"),
        (f"models--acme--My-Model/snapshots/{'a' * 40}", "my-model"),
        (f"{'a' * 40}", "a" * 40),
    ],
)
def test_a_base_that_nobody_named_is_called_by_its_repository_or_folder(
    world: Any, tmp_path: Path, folder: str, name: str
) -> None:
    shutil.copytree(world.base, tmp_path / folder)
    assert default_name(identify(tmp_path / folder, settings=Settings.load())) == name


def test_a_link_is_named_as_it_was_typed(world: Any, tmp_path: Path) -> None:
    (tmp_path / "mine").symlink_to(world.base)
    assert default_name(identify(tmp_path / "mine", settings=Settings.load())) == "mine"


def test_of_many_bases_only_the_nearest_are_judged(
    empty_registry: Registry, tmp_path: Path
) -> None:
    config = llama_config()
    for seed in range(12):
        folder = write_checkpoint(
            tmp_path / f"base-{seed}", config, make_tensors(config, seed=seed)
        )
        add_base(empty_registry, identify(folder, settings=Settings.load()))
    tuned = fine_tune(make_tensors(config, seed=7), 0.01)
    child = identify(write_checkpoint(tmp_path / "child", config, tuned), settings=Settings.load())
    found = descents(empty_registry, child.record)
    assert (found[0].base.name, found[0].lineage.relation) == ("base-7", "derived")
    assert [descent.lineage.relation for descent in found[1:]] == ["unrelated"] * 7
    other = write_checkpoint(tmp_path / "other", config, make_tensors(config, seed=99))
    with pytest.raises(BaseNotFoundError, match="of 12 registered, the nearest, base-"):
        find_base(empty_registry, identify(other, settings=Settings.load()))
