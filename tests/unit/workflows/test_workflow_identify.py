from __future__ import annotations

import errno
import os
import shutil

import pytest
from support.tiny_models import (
    fine_tune,
    llama_config,
    make_tensors,
    save_sharded,
    write_checkpoint,
)

from registry.errors import CheckpointNotFoundError, EvidenceError
from registry.settings import Settings
from registry.workflows import identify as module
from registry.workflows.identify import identify

CONFIG = llama_config()


@pytest.fixture
def folder(tmp_path):
    return write_checkpoint(tmp_path / "model", CONFIG)


@pytest.fixture
def read(monkeypatch):
    """Count how often bytes are really read."""
    calls = []
    real = module.fingerprint

    def counted(checkpoint, **options):
        calls.append(checkpoint.path)
        return real(checkpoint, **options)

    monkeypatch.setattr(module, "fingerprint", counted)
    return calls


def look(folder, **options):
    return identify(folder, settings=Settings.load(), **options)


def test_a_second_look_at_the_same_files_reads_no_bytes_and_says_the_same(folder, read):
    one, two = look(folder), look(folder)
    assert len(read) == 1
    assert (one.record, one.key) == (two.record, two.key)


def test_no_cache_reads_again(folder, read):
    look(folder)
    look(folder, use_cache=False)
    assert len(read) == 2


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_changed_file_is_read_again(folder, read, name):
    (folder / "tokenizer.json").write_text("{}")
    look(folder)
    data = (folder / name).read_bytes()
    os.utime(folder / name, ns=(1, 1))
    (folder / name).write_bytes(data)
    look(folder)
    assert len(read) == 2


def test_other_weights_of_the_same_size_and_time_are_read_again(folder, read, tmp_path):
    first = look(folder)
    stat = (folder / "model.safetensors").stat()
    other = write_checkpoint(tmp_path / "other", CONFIG, fine_tune(make_tensors(CONFIG), 0.1))
    shutil.copy(other / "model.safetensors", folder / "model.safetensors")
    os.utime(folder / "model.safetensors", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert look(folder).record.weights != first.record.weights
    assert len(read) == 2


@pytest.mark.parametrize("junk", [b"", b"junk", None])
def test_a_broken_cache_entry_is_no_entry(folder, read, tmp_path, junk):
    first = look(folder)
    (entry,) = (tmp_path / "cache" / "records").iterdir()
    data = bytearray(entry.read_bytes())
    data[len(data) // 2] ^= 0xFF
    entry.write_bytes(bytes(data) if junk is None else junk)
    assert look(folder).record.weights == first.record.weights


def test_every_byte_of_a_cache_entry_is_checked_the_samples_too(folder, read, tmp_path):
    first = look(folder)
    (entry,) = (tmp_path / "cache" / "records").iterdir()
    data = entry.read_bytes()
    sample = next(sample for sample in first.record.samples.values() if data.count(sample) == 1)
    entry.write_bytes(data.replace(sample, bytes(byte ^ 1 for byte in sample)))
    assert look(folder).record == first.record
    assert len(read) == 2


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "disk full"), KeyboardInterrupt()], ids=repr
)
def test_an_entry_that_could_not_be_written_leaves_nothing(folder, tmp_path, monkeypatch, error):
    def refuse(*_args):
        raise error

    monkeypatch.setattr(os, "replace", refuse)
    if isinstance(error, OSError):
        look(folder)
    else:
        with pytest.raises(KeyboardInterrupt):
            look(folder)
    assert list((tmp_path / "cache" / "records").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_slower_and_not_wrong(folder, read, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert look(folder).record == look(folder).record
    assert len(read) == 2


def test_sharding_and_place_make_no_difference(folder, tmp_path):
    sharded = save_sharded(tmp_path / "sharded", CONFIG)
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert look(folder).record == look(sharded).record == look(moved).record


def test_a_path_wins_over_a_hub_id_of_the_same_spelling(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, tmp_path / "org/name")
    found = look("org/name")
    assert found.commit is None
    assert found.record == look(folder).record


def test_nothing_there_is_said(tmp_path):
    with pytest.raises(CheckpointNotFoundError):
        look(tmp_path / "nowhere" / "at" / "all")


def test_a_file_that_is_written_while_it_is_read_is_refused_and_not_cached(
    folder, tmp_path, monkeypatch
):
    real = module.fingerprint

    def writing(checkpoint, **options):
        record = real(checkpoint, **options)
        data = (folder / "model.safetensors").read_bytes()
        os.utime(folder / "model.safetensors", ns=(1, 1))
        (folder / "model.safetensors").write_bytes(data)
        return record

    monkeypatch.setattr(module, "fingerprint", writing)
    with pytest.raises(EvidenceError, match="meanwhile"):
        look(folder)
    assert not (tmp_path / "cache").exists()
