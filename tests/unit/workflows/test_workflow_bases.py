from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from registry.settings import Settings
from registry.workflows.bases import default_name
from registry.workflows.identify import identify

if TYPE_CHECKING:
    from pathlib import Path


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
