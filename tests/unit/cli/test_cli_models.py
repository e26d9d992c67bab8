from __future__ import annotations

import errno
import hashlib
import os
import shutil
from typing import TYPE_CHECKING

import pytest
from support.command_line import safelatch
from support.tiny_models import fine_tune, llama_config, make_tensors, write_checkpoint

from registry.artifact.tensors import read_payloads, write_payloads
from registry.checkpoint.reader import Checkpoint
from registry.cli.invocation import Invocation
from registry.cli.models import read_base
from registry.errors import BaseModelMismatchError, CheckpointNotFoundError, HostError
from registry.store.catalog import Registry
from registry.workflows.bases import registered_files
from registry.workflows.identify import _seal

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def base(home: Path) -> Path:
    folder = write_checkpoint(home / "My Base", llama_config())
    safelatch("init")
    assert safelatch("base", "add", folder).status == 0
    return folder


def test_fingerprint_is_one_line_and_needs_no_registry(home: Path) -> None:
    folder = write_checkpoint(home / "model", llama_config())
    outcome = safelatch("fingerprint", folder)
    assert outcome.status == 0
    assert outcome.out.startswith("blake3:")
    assert len(outcome.out) == len("blake3:") + 64 + 1
    document = safelatch("fingerprint", folder, "--format", "json").document
    assert document["weights"] == outcome.out.strip()
    assert document["geometry"]["heads"] == 4
    assert not (home / "registry.db").exists()


def test_no_cache_reads_the_bytes_again(home: Path) -> None:
    folder = write_checkpoint(home / "model", llama_config())
    digest = safelatch("fingerprint", folder).out
    (entry,) = (home / "cache/records").iterdir()
    other = write_checkpoint(home / "other", llama_config(), make_tensors(llama_config(), seed=5))
    safelatch("fingerprint", other)
    (foreign,) = set((home / "cache/records").iterdir()) - {entry}
    planted = read_payloads(foreign.read_bytes(), what="foreign")
    planted.pop("seal")
    with Checkpoint.open(folder) as checkpoint:
        seal = _seal(checkpoint.stat_key(), planted)
    entry.write_bytes(write_payloads({**planted, "seal": seal}))
    assert safelatch("fingerprint", folder).out != digest
    assert safelatch("fingerprint", folder, "--no-cache").out == digest


def test_base_is_named_after_its_folder(base: Path) -> None:
    shown = safelatch("base", "show", "my-base", "--format", "json").document
    digest = hashlib.sha256((base / "model.safetensors").read_bytes()).hexdigest()
    files = hashlib.sha256(f"{digest}\n".encode()).hexdigest()
    assert shown["aliases"] == [f"path:{base}", f"sha256-set:sha256:{files}"]
    assert safelatch("base", "show", shown["weights"][:20]).out.startswith("name")


def test_other_weights_under_a_taken_name_are_refused(base: Path, home: Path) -> None:
    other = write_checkpoint(home / "b", llama_config(), make_tensors(llama_config(), seed=5))
    outcome = safelatch("base", "add", other, "--name", "my-base")
    assert outcome.status == 3
    assert outcome.err.startswith("error [version-conflict]: ")


def test_registered_name_leads_to_its_files(base: Path) -> None:
    found = read_base(Invocation(), "my-base")
    assert (found.name, found.identified.path) == ("my-base", base)


def test_path_of_a_registered_base_keeps_the_registered_name(base: Path, home: Path) -> None:
    shutil.copytree(base, home / "renamed")
    assert read_base(Invocation(), str(home / "renamed")).name == "my-base"


def test_registered_name_whose_files_changed_is_refused(base: Path) -> None:
    tensors = fine_tune(make_tensors(llama_config()), 0.01)
    write_checkpoint(base, llama_config(), tensors)
    with pytest.raises(BaseModelMismatchError, match="the files changed since"):
        read_base(Invocation(), "my-base")


def test_registered_name_whose_files_are_gone_says_so(base: Path) -> None:
    shutil.rmtree(base)
    with Registry.open() as registry:
        entry = registry.base("my-base")
    with pytest.raises(CheckpointNotFoundError, match="none are known here"):
        registered_files(entry)


def test_base_whose_files_moved_is_found_again_by_the_command_of_the_hint(
    base: Path, home: Path
) -> None:
    base.rename(home / "moved")
    with pytest.raises(CheckpointNotFoundError) as caught:
        read_base(Invocation(), "my-base")
    assert caught.value.hint == "Say where they are: safelatch base add MODEL"
    assert safelatch("base", "add", home / "moved").status == 0
    assert read_base(Invocation(), "my-base").identified.path == home / "moved"


def test_base_without_a_registry_is_called_after_its_folder(home: Path) -> None:
    folder = write_checkpoint(home / "Some Model", llama_config())
    assert read_base(Invocation(), str(folder)).name == "some-model"


def test_lineage_tells_descendant_from_stranger(base: Path, home: Path) -> None:
    near = fine_tune(make_tensors(llama_config()), 0.02)
    child = write_checkpoint(home / "child", llama_config(), near)
    outcome = safelatch("lineage", child)
    assert (outcome.status, outcome.out.split()[:2]) == (0, ["fine-tune", "my-base"])
    far = make_tensors(llama_config(), seed=9)
    stranger = safelatch("lineage", write_checkpoint(home / "s", llama_config(), far))
    assert (stranger.status, stranger.out.split()[0]) == (1, "no-base")


def test_reports_are_written_down(base: Path) -> None:
    assert safelatch("lineage", base).status == 0
    actions = [e["action"] for e in safelatch("log", "show", "--format", "json").document]
    assert actions[-2:] == ["checkpoint.record", "report.record"]


def test_audit_of_a_folder_without_models_is_no_success(base: Path, home: Path) -> None:
    (home / "empty").mkdir()
    outcome = safelatch("audit", home / "empty")
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err.startswith("error [checkpoint-not-found]")


def test_audit_out_on_a_full_disk_leaves_the_report_before_and_says_to_make_room(
    base: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = home / "reports" / "audit.txt"
    report.parent.mkdir()
    report.write_text("the last one")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    assert safelatch("audit", base).status == 1  # what the cache writes is there
    monkeypatch.setattr(os, "fsync", full)
    outcome = safelatch("audit", base, "--out", report)
    assert outcome.status == 4
    assert outcome.err.splitlines()[-2:] == [
        f"error [{HostError.code}]: expected to write {report}, got: No space left on device.",
        "hint: Make room there, or name a file on another disk: --out FILE",
    ]
    assert [(path.name, path.read_text()) for path in report.parent.iterdir()] == [
        ("audit.txt", "the last one")
    ]


def test_audit_out_to_a_link_writes_the_file_that_it_names(base: Path, home: Path) -> None:
    (home / "report").write_text("the last one")
    (home / "report").chmod(0o640)
    (home / "link").symlink_to(home / "report")
    assert safelatch("audit", base, "--out", home / "link").status == 1
    assert (home / "link").is_symlink()
    assert (home / "report").read_text().startswith("not protected  0 of 1 models")
    assert (home / "report").stat().st_mode & 0o777 == 0o640
    assert safelatch("audit", base, "--out", "/dev/null").status == 1


def test_audit_out_that_cannot_be_written_is_an_environment_error(base: Path, home: Path) -> None:
    events = safelatch("log", "show", "--format", "json").document
    outcome = safelatch("audit", base, "--out", home / "no" / "such" / "folder")
    assert outcome.status == 4
    assert safelatch("log", "show", "--format", "json").document == events  # before any work
    assert outcome.err.startswith(f"error [{HostError.code}]: expected to write")
    assert "--out FILE" in outcome.err


def test_single_file_is_the_same_model_as_its_folder(base: Path) -> None:
    file = base / "model.safetensors"
    assert safelatch("fingerprint", file).out == safelatch("fingerprint", base).out


@pytest.mark.parametrize("missing", ["./nowhere", "/nowhere"])
def test_place_that_is_not_there_is_no_unknown_base(base: Path, missing: str) -> None:
    with pytest.raises(CheckpointNotFoundError):
        read_base(Invocation(), missing)


def test_interrupt_while_reading_weights_leaves_no_trace(
    base: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    events = safelatch("log", "show", "--format", "json").document
    monkeypatch.setattr("registry.workflows.identify.identify", interrupted)
    out = home / "lock"
    outcome = safelatch("extract", "safety-lock", "my-base", "--out", out)
    assert (outcome.status, outcome.out, outcome.err) == (130, "", "interrupted\n")
    assert not out.exists()
    assert safelatch("log", "show", "--format", "json").document == events
