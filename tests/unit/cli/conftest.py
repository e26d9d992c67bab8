"""Every test has its own data folder, and no registry in it yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from support.command_line import safelatch

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Locks:
    """Folders that no test changes: a tiny base and its fine-tune, and two drafts for the base."""

    base: Path
    tuned: Path
    draft: Path
    other: Path


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAFELATCH_HOME", str(tmp_path))
    monkeypatch.setenv("SAFELATCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SAFELATCH_LINES", str(tmp_path / "lines"))
    for name in ("SAFELATCH_DB", "SAFELATCH_BLOBS", "SAFELATCH_KEY_PASSPHRASE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture(scope="session")
def locks(tmp_path_factory: pytest.TempPathFactory) -> Locks:
    from support.locks import bundle_of, fine_tuned, make_lock, read_record, tiny_model

    from registry.artifact.bundle import write_bundle

    folder = tmp_path_factory.mktemp("locks")
    model = tiny_model("grouped")
    model.save_pretrained(folder / "base")
    fine_tuned(model).save_pretrained(folder / "tuned")
    record = read_record(folder / "base")
    for name, seed in (("draft", 0), ("other", 1)):
        write_bundle(bundle_of(record, make_lock(seed=seed)), folder / name)
    return Locks(*(folder / name for name in ("base", "tuned", "draft", "other")))


@pytest.fixture
def published(locks: Locks, home: Path, monkeypatch: pytest.MonkeyPatch) -> Locks:
    """The same, with the draft published as ``lock@1.0`` and a key pair in the current folder."""
    monkeypatch.chdir(home)
    for step in (
        ("init",),
        ("publish", locks.draft, "--name", "lock", "--version", "1.0"),
        ("key", "generate", "--out", "publisher"),
    ):
        assert safelatch(*step).status == 0
    return locks


@pytest.fixture
def signed(published: Locks) -> Locks:
    """The same, with the key trusted and the line signed by it."""
    for step in (
        ("key", "trust", "publisher.pub", "--for", "tiny-base"),
        ("sign", "lock", "--key", "publisher.key"),
    ):
        assert safelatch(*step).status == 0
    return published
