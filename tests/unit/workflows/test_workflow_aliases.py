from __future__ import annotations

import hashlib
import shutil
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import pytest
from support.tiny_models import llama_config, make_tensors, save_sharded, write_checkpoint

from registry.errors import EvidenceError, VersionConflictError
from registry.settings import Settings
from registry.store.tables import ALIAS_LIMIT
from registry.workflows import aliases
from registry.workflows.aliases import measure_sha256_set, sha256_set
from registry.workflows.bases import add_base
from registry.workflows.identify import identify

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return save_sharded(tmp_path / "sharded", llama_config())


def read(folder: Path) -> Any:
    return identify(folder, settings=Settings.load())


def of_files(folder: Path) -> str:
    files = folder.glob("*.safetensors")
    return sha256_set(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)


def test_the_form_is_the_one_that_is_written_down() -> None:
    digests = ["b" * 64, "a" * 64]
    text = f"{'a' * 64}\n{'b' * 64}\n"
    assert sha256_set(digests) == f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    assert len(sha256_set(digests)) <= ALIAS_LIMIT


def test_two_equal_files_are_not_one() -> None:
    assert sha256_set(["a" * 64]) != sha256_set(["a" * 64, "a" * 64])


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs sha256sum")
def test_a_shell_says_the_same(sharded: Path) -> None:
    command = "sha256sum *.safetensors | cut -c1-64 | sort | sha256sum"
    done = subprocess.run(
        ["sh", "-c", command], cwd=sharded, capture_output=True, text=True, check=True
    )
    assert measure_sha256_set(read(sharded)) == f"sha256:{done.stdout[:64]}"


def test_files_outside_the_index_are_no_part_of_it(sharded: Path) -> None:
    expected = measure_sha256_set(read(sharded))
    write_checkpoint(sharded, llama_config(), file="extra.safetensors")
    assert measure_sha256_set(read(sharded)) == expected


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_the_result_does_not_depend_on_threads(
    sharded: Path, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aliases, "_PIECE", 1000)
    told: list[tuple[int, int]] = []
    found = measure_sha256_set(
        read(sharded), progress=lambda *news: told.append(news), threads=threads
    )
    total = sum(file.stat().st_size for file in sharded.glob("*.safetensors"))
    assert found == of_files(sharded)
    assert told == sorted(told)
    assert told[-1] == (total, total)


def test_files_that_changed_since_they_were_read_are_refused(sharded: Path) -> None:
    model = read(sharded)
    first = min(sharded.glob("*.safetensors"))
    first.write_bytes(first.read_bytes())
    with pytest.raises(EvidenceError, match="expected the files that were read, got files that"):
        measure_sha256_set(model)


def test_a_file_that_changes_while_it_is_hashed_is_refused(
    sharded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = read(sharded)
    config = sharded / "config.json"

    def meddle(*_: int) -> None:
        config.write_text(config.read_text())

    with pytest.raises(EvidenceError, match="got a change meanwhile"):
        measure_sha256_set(model, progress=meddle)


def test_an_interrupt_ends_it_after_the_pieces_in_hand(
    sharded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aliases, "_PIECE", 100)
    model = read(sharded)
    told: list[int] = []

    def interrupt(done: int, _total: int) -> None:
        told.append(done)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_sha256_set(model, progress=interrupt, threads=2)
    assert told == [100]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sha256")]


def test_a_file_in_hand_is_left_when_it_is_over(
    sharded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aliases, "_PIECE", 100)
    told: list[int] = []
    stopped = threading.Event()
    stopped.set()
    aliases._hash(min(sharded.glob("*.safetensors")), told.append, stopped)
    assert told == [100]


def test_a_base_gets_the_alias_of_its_files(empty_registry: Any, sharded: Path) -> None:
    base = add_base(empty_registry, read(sharded), "mine")
    assert ("sha256-set", of_files(sharded)) in {(a.scheme, a.value) for a in base.aliases}
    assert empty_registry.base(of_files(sharded)) == base


def test_a_base_that_is_there_gets_the_alias_when_it_is_added_again(
    empty_registry: Any, sharded: Path, tmp_path: Path
) -> None:
    whole = write_checkpoint(tmp_path / "whole", llama_config())
    model = read(whole)
    payload = aliases_free_record(model)
    empty_registry.add_base("mine", model.record, payload, aliases=[("path", str(whole))])
    add_base(empty_registry, model)
    base = add_base(empty_registry, read(sharded))
    sets = {alias.value for alias in base.aliases if alias.scheme == "sha256-set"}
    assert sets == {of_files(whole), of_files(sharded)}
    assert base.name == "mine"


def aliases_free_record(model: Any) -> bytes:
    from registry.artifact.tensors import write_payloads

    return write_payloads(model.record.to_tensors())


def test_files_that_are_two_bases_by_their_configs_are_refused(
    empty_registry: Any, tmp_path: Path
) -> None:
    """One file with an output head is other weights where a config ties the head."""
    tensors = make_tensors(llama_config(tie_word_embeddings=False))
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    untied = write_checkpoint(tmp_path / "untied", llama_config(tie_word_embeddings=False), tensors)
    tied = write_checkpoint(tmp_path / "tied", llama_config(), tensors)
    add_base(empty_registry, read(untied), "untied")
    with pytest.raises(VersionConflictError, match="alias sha256-set:sha256:"):
        add_base(empty_registry, read(tied), "tied", anyway=True)
