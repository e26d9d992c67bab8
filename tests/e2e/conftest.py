"""Tiny models on disk, and for each module a registry of its own with a lock published in it.

Both are made once, by the command itself; a module gets a copy of the registry.
"""

from __future__ import annotations

import pickle
import shutil
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from support.cli_world import MEASURE, SMALL, World, build_world
from support.command_line import safelatch
from support.locks import read_record
from support.masked import mask_bundle
from support.planted_layers import build_planted_layers
from support.ranges import a_base, a_body, gemma_2b_shaped, range_bundle
from support.safelocks import a_lock, safelock

from registry.artifact.bundle import write_bundle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def at_home(folder: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAFELATCH_HOME", str(folder / "home"))
        patch.setenv("SAFELATCH_CACHE", str(folder / "cache"))
        for name in ("SAFELATCH_DB", "SAFELATCH_BLOBS"):
            patch.delenv(name, raising=False)
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_world(tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="session")
def told(built: World) -> World:
    """Tell the story up to the published lock."""
    draft = built.folder / "lock"
    steps = (
        ("init",),
        ("base", "add", built.base, "--name", "tiny"),
        ("extract", "safety-lock", "tiny", "--out", draft, "--data", built.pairs, *SMALL),
        ("calibrate", draft, *MEASURE),
        ("publish", draft, "--name", "lock", "--version", "1.0"),
    )
    with at_home(built.folder):
        for step in steps:
            outcome = safelatch(*step)
            assert outcome.status == 0, (step, outcome)
            assert len(outcome.out.splitlines()) >= 1
    return built


@pytest.fixture(scope="module")
def world(built: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    with at_home(folder):
        yield replace(built, folder=folder)


@pytest.fixture(scope="module")
def published(told: World, world: World) -> Path:
    """Return the folder of the lock that is published in this module's registry."""
    for name in ("home", "lock"):
        shutil.copytree(told.folder / name, world.folder / name)
    return world.folder / "lock"


@pytest.fixture(scope="module")
def imports(world: World) -> tuple[Path, Path]:
    """Return a file of a lock that somebody else made, and the folder of its import, unbound."""
    folder = world.folder / "imports"
    folder.mkdir()
    file = folder / "theirs.safelock"
    file.write_bytes(safelock(a_lock(width=8)))
    assert safelatch("import", file, "--out", folder / "unbound").status == 0
    return file, folder / "unbound"


@pytest.fixture(scope="module")
def masked(world: World) -> Path:
    """Return the folder of a draft of a mask of the base, which has the base's values."""
    return write_bundle(mask_bundle(None, world.base, with_values=True), world.folder / "masked")


@pytest.fixture(scope="module")
def indices(world: World) -> Path:
    """Return a file of indices as the authors of ESI write them."""
    file = world.folder / "theirs.pkl"
    file.write_bytes(pickle.dumps({"model.layers.0.self_attn.q_proj.weight": [0, 5, 17]}, 4))
    return file


@pytest.fixture(scope="session")
def layered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a model of six layers, of which 3 and 4 carry its refusals."""
    folder = tmp_path_factory.mktemp("layered") / "model"
    planted = build_planted_layers(range(3, 5), layers=6)
    planted.model.save_pretrained(folder)
    planted.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def ranged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a draft of safety layers."""
    folder = tmp_path_factory.mktemp("ranged")
    return write_bundle(
        range_bundle(read_record(a_base(folder / "base")), a_body()), folder / "draft"
    )


@pytest.fixture(scope="session")
def shaped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a checkpoint that has the geometry of gemma-2b-it."""
    return gemma_2b_shaped(tmp_path_factory.mktemp("shaped") / "gemma-2b-it")
