"""One world per session: a planted base, its fine-tune, a lock made from it; a registry per test."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
from support.locks import edited, fine_tuned, packaged_planted

from registry.artifact.bundle import Bundle, write_bundle
from registry.kinds import parse_body
from registry.settings import Settings
from registry.store.catalog import Registry
from registry.workflows.identify import identify
from registry.workflows.make import extract
from registry.workflows.publish import publish

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OPTIONS = {"heads": 4, "answer_tokens": 5, "folds": 3, "repeats": 1}


@dataclass(frozen=True)
class World:
    """Folders that no test changes, and the live models they were saved from."""

    root: Path
    base: Path
    tune: Path
    lock: Path
    bundle: Bundle
    planted: Any
    tuned: Any

    @property
    def directions(self) -> Any:
        """The directions of the lock."""
        return parse_body(self.bundle).directions

    def edited(self, **changes: Any) -> Bundle:
        """Return the lock with these fields of its body changed, self-consistent."""
        return edited(self.bundle, **changes)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("world")
    planted = packaged_planted()
    base = planted.save(root / "base")
    tuned = fine_tuned(planted.model)
    tune = replace(planted, model=tuned).save(root / "tune")
    settings = Settings(db_url="sqlite:///none", blobs=root, cache=root / "cache")
    draft = extract(
        "safety-lock", identify(base, settings=settings), planted.model, planted.tokenizer,
        base_name="planted-base", seed=0, options=OPTIONS,
    )  # fmt: skip
    bundle = edited(draft, alpha=1.0, alpha_range=(0.0, 1.5))
    lock = write_bundle(bundle, root / "lock")
    with Registry.create(str(root / "registry" / "registry.db")) as registry:
        publish(registry, lock, name="planted-lock", version="1.0.0")
    return World(root, base, tune, lock, bundle, planted, tuned)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own: no registry in it, the cache empty."""
    for name in ("SAFELATCH_DB", "SAFELATCH_BLOBS", "SAFELATCH_POLICY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SAFELATCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SAFELATCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SAFELATCH_LINES", str(tmp_path / "lines"))
    return tmp_path / "home"


@pytest.fixture
def registry(world: World, home: Path) -> Iterator[Registry]:
    """The registry that holds the planted base and its lock, as the default one."""
    shutil.copytree(world.root / "registry", home)
    with Registry.open() as opened:
        yield opened


@pytest.fixture
def empty_registry(home: Path) -> Iterator[Registry]:
    with Registry.create() as opened:
        yield opened
