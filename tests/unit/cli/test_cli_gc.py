from __future__ import annotations

import csv
import io
import os
import time
from typing import TYPE_CHECKING

import pytest
from support.command_line import safelatch
from support.store_builders import publish

from registry.digest import digest_bytes
from registry.store import mounts
from registry.store.blobs import BlobStore
from registry.store.catalog import Registry

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def leftover(home: Path) -> Path:
    """A registry with one version, and a file of 3 bytes that a publisher left 20 days ago."""
    assert safelatch("init").status == 0
    with Registry.open() as registry:
        publish(registry, "lock", "1.0.0")
    store = BlobStore(home / "blobs")
    path = store.path(store.put(b"old"))
    then = time.time() - 20 * 86400
    os.utime(path, (then, then))
    return path


def test_gc_says_what_it_freed_first(leftover: Path) -> None:
    outcome = safelatch("gc")
    assert (outcome.status, outcome.err) == (0, "")
    first, _, row = outcome.out.splitlines()
    assert first == "freed  1 files  3 bytes"
    assert row.startswith("blob  3      ")
    assert not leftover.exists()
    assert safelatch("gc").out == "nothing to free\n"
    assert safelatch("log", "verify").status == 0


def test_gc_dry_run_removes_nothing_and_tells_the_same(leftover: Path) -> None:
    told = safelatch("gc", "--dry-run", "--format", "json").document
    assert (told["verdict"], told["files"], told["bytes"], told["young"]) == ("would free", 1, 3, 0)
    assert told["grace_s"] == 14 * 86400
    (row,) = told["removed"]
    assert (row["digest"], row["path"]) == (digest_bytes(b"old"), str(leftover))
    assert leftover.exists()
    (row,) = csv.DictReader(io.StringIO(safelatch("gc", "--format", "csv").out))
    assert row["digest"] == digest_bytes(b"old")


@pytest.mark.parametrize("grace", ["21d", "500h", "30000m"])
def test_gc_leaves_what_is_within_the_grace_period(leftover: Path, grace: str) -> None:
    outcome = safelatch("gc", "--grace", grace)
    assert outcome.out == "nothing to free\n"
    assert outcome.err == (
        "1 more are still within the grace period; see: safelatch gc --grace 0 --dry-run\n"
    )
    assert leftover.exists()


@pytest.mark.parametrize("grace", ["0", "0d", "19d", "1s"])
def test_gc_takes_a_grace_period_in_every_unit(leftover: Path, grace: str) -> None:
    assert safelatch("gc", "--grace", grace).out.startswith("freed  1 files")


@pytest.mark.parametrize("grace", ["14", "d", "-1d", "1.5d", "1w", "1d ", "9999999d"])
def test_gc_refuses_what_is_no_grace_period(leftover: Path, grace: str) -> None:
    outcome = safelatch("gc", f"--grace={grace}")
    assert (outcome.status, outcome.out) == (2, "")
    assert "such as 14d" in outcome.err
    assert leftover.exists()


@pytest.mark.filterwarnings("default:.* is on a network drive")
def test_a_network_drive_is_one_line_on_stderr(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(f"60 27 0:70 / {home} rw - nfs4 filer:/share rw\n")
    monkeypatch.setattr(mounts, "_TABLE", table)
    outcome = safelatch("init")
    assert outcome.status == 0
    assert outcome.out.startswith("created  ")
    assert outcome.err.startswith(f"warning: {home} is on a network drive (nfs4), where ")
    assert len(outcome.err.splitlines()) == 1
