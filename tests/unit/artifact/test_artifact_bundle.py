from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.locks import bundle_of, make_lock, read_record
from support.tiny_models import llama_config, write_checkpoint

from registry.artifact.bundle import (
    BASE,
    MANIFEST,
    TENSORS,
    check_files,
    make_bundle,
    read_bundle,
    replace_manifest,
    require_new_folder,
    write_bundle,
)
from registry.artifact.tensors import read_payloads, read_tensors, write_payloads, write_tensors
from registry.digest import canonical_json
from registry.errors import (
    ArtifactNotFoundError,
    DigestMismatchError,
    HostError,
    SchemaViolationError,
    UnsafeFormatError,
    UsageError,
)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return read_record(write_checkpoint(tmp_path_factory.mktemp("bundle"), llama_config()))


@pytest.fixture(scope="module")
def bundle(record):
    return bundle_of(record, make_lock())


def everything(folder):
    return sorted(path.name for path in folder.rglob("*"))


def test_a_bundle_round_trips_through_a_folder(bundle, record, tmp_path):
    folder = write_bundle(bundle, tmp_path / "lock")
    assert everything(tmp_path) == sorted(["lock", MANIFEST, TENSORS, BASE])
    again = read_bundle(folder, expected=bundle.manifest.digest)
    assert dict(again.files) == dict(bundle.files)
    assert again.manifest.digest == bundle.manifest.digest
    assert again.base_tensors() == record.to_tensors()


def test_the_same_values_give_the_same_bytes(record, bundle):
    assert dict(bundle_of(record, make_lock()).files) == dict(bundle.files)


def test_other_files_in_the_folder_are_never_read(bundle, tmp_path):
    folder = write_bundle(bundle, tmp_path / "lock")
    (folder / "evil.pkl").mkdir()
    (folder / "extra.safetensors").write_bytes(b"junk")
    assert dict(read_bundle(folder).files) == dict(bundle.files)


@pytest.mark.parametrize("name", [MANIFEST, TENSORS, BASE])
def test_a_missing_file_is_refused(bundle, tmp_path, name):
    folder = write_bundle(bundle, tmp_path / "lock")
    (folder / name).unlink()
    error = ArtifactNotFoundError if name == MANIFEST else UnsafeFormatError
    with pytest.raises(error, match=name):
        read_bundle(folder)


@pytest.mark.parametrize("name", [MANIFEST, TENSORS, BASE])
@pytest.mark.parametrize("what", ["symlink", "dangling symlink", "folder", "fifo"])
def test_what_is_no_plain_file_is_refused(bundle, tmp_path, name, what):
    folder = write_bundle(bundle, tmp_path / "lock")
    path = folder / name
    path.rename(tmp_path / "aside")
    if what == "symlink":
        path.symlink_to(tmp_path / "aside")
    elif what == "dangling symlink":
        path.symlink_to(tmp_path / "nowhere")
    elif what == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises((UnsafeFormatError, ArtifactNotFoundError)):
        read_bundle(folder)


@pytest.mark.parametrize("name", [TENSORS, BASE])
@pytest.mark.parametrize("edit", [lambda d: d + b"\0", lambda d: d[:-1], lambda d: b""],
                         ids=["longer", "shorter", "empty"])  # fmt: skip
def test_a_file_of_another_length_is_refused(bundle, tmp_path, name, edit):
    folder = write_bundle(bundle, tmp_path / "lock")
    (folder / name).write_bytes(edit(bundle.files[name]))
    with pytest.raises(DigestMismatchError, match=name):
        read_bundle(folder)


def test_files_of_two_bundles_do_not_mix(record, bundle):
    other = bundle_of(record, make_lock(seed=4))
    with pytest.raises(DigestMismatchError, match=TENSORS):
        check_files({**bundle.files, TENSORS: other.files[TENSORS]})
    with pytest.raises(DigestMismatchError, match=MANIFEST):
        check_files(dict(other.files), expected=bundle.manifest.digest)


@pytest.mark.parametrize("change", ["drop", "add", "rename"])
def test_a_manifest_that_names_other_files_is_refused(bundle, change):
    document = json.loads(bundle.files[MANIFEST])
    files = document["files"]
    if change != "add":
        entry = files.pop(TENSORS)
    if change != "drop":
        files["more.safetensors"] = entry if change == "rename" else dict(files[TENSORS])
    else:
        files["base2.safetensors"] = entry
    given = {**bundle.files, MANIFEST: canonical_json(document)}
    with pytest.raises(SchemaViolationError):
        check_files(given)


def test_a_size_in_the_manifest_that_is_not_the_files_is_refused(bundle):
    document = json.loads(bundle.files[MANIFEST])
    document["files"][TENSORS]["size"] += 1
    with pytest.raises(DigestMismatchError, match=r"expected \d[\d,]* bytes"):
        check_files({**bundle.files, MANIFEST: canonical_json(document)})


# Writing


@pytest.mark.parametrize("place", ["file", "full folder"])
def test_writing_over_something_is_refused(bundle, tmp_path, place):
    target = tmp_path / "lock"
    if place == "file":
        target.write_text("mine")
    else:
        target.mkdir()
        (target / "mine").write_text("mine")
    with pytest.raises(UsageError, match="expected a new folder"):
        write_bundle(bundle, target)
    assert (target if place == "file" else target / "mine").read_text() == "mine"


def test_an_empty_folder_is_filled(bundle, tmp_path):
    (tmp_path / "lock").mkdir()
    assert read_bundle(write_bundle(bundle, tmp_path / "lock")).manifest == bundle.manifest


@pytest.mark.parametrize(
    ("call", "at"), [("os.fsync", 0), ("os.fsync", 1), ("os.fsync", 2), ("pathlib.Path.rename", 0)]
)
@pytest.mark.parametrize("kill", [KeyboardInterrupt(), OSError(errno.ENOSPC, "disk full")], ids=str)
def test_a_write_that_dies_leaves_nothing_half_visible(
    bundle, tmp_path, monkeypatch, call, kill, at
):
    calls = []

    def dying(*_args):
        calls.append(1)
        if len(calls) > at:
            raise kill

    monkeypatch.setattr(call, dying)
    expected = HostError if isinstance(kill, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        write_bundle(bundle, tmp_path / "lock")
    monkeypatch.undo()
    assert everything(tmp_path) == []
    assert read_bundle(write_bundle(bundle, tmp_path / "lock")).manifest == bundle.manifest


def receipted(bundle):
    receipt = {"type": "test", "created": "2030-01-01T00:00:00Z"}
    return bundle.with_manifest(replace(bundle.manifest, receipts=(receipt,)))


def test_a_manifest_is_replaced_in_place(bundle, tmp_path):
    folder = write_bundle(bundle, tmp_path / "lock")
    replace_manifest(receipted(bundle), folder)
    assert read_bundle(folder).manifest.receipts[0]["type"] == "test"
    assert everything(folder) == sorted([MANIFEST, TENSORS, BASE])


def test_a_manifest_of_other_tensors_does_not_replace_one(record, bundle, tmp_path):
    folder = write_bundle(bundle, tmp_path / "lock")
    with pytest.raises(UsageError, match="the same tensors"):
        replace_manifest(bundle_of(record, make_lock(seed=4)), folder)
    assert dict(read_bundle(folder).files) == dict(bundle.files)


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace"])
@pytest.mark.parametrize("kill", [KeyboardInterrupt(), OSError(errno.ENOSPC, "disk full")], ids=str)
def test_a_replacement_that_dies_leaves_the_old_manifest_and_no_litter(
    bundle, tmp_path, monkeypatch, call, kill
):
    folder = write_bundle(bundle, tmp_path / "lock")

    def dying(*_args):
        raise kill

    monkeypatch.setattr(call, dying)
    with pytest.raises(HostError if isinstance(kill, OSError) else KeyboardInterrupt):
        replace_manifest(receipted(bundle), folder)
    monkeypatch.undo()
    assert dict(read_bundle(folder).files) == dict(bundle.files)
    assert everything(folder) == sorted([MANIFEST, TENSORS, BASE])


def test_a_link_planted_where_the_new_manifest_is_staged_is_not_written_through(bundle, tmp_path):
    folder = write_bundle(bundle, tmp_path / "lock")
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (folder / f".{MANIFEST}.part").symlink_to(victim)
    replace_manifest(receipted(bundle), folder)
    assert victim.read_text() == "mine"
    assert read_bundle(folder).manifest.receipts


# Tensors


def test_tensors_of_every_dtype_round_trip():
    tensors = {
        name: np.arange(6).reshape(2, 3).astype(name)
        for name in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8")
    }
    got = read_tensors(write_tensors(tensors), what="x")
    assert set(got) == set(tensors)
    for name, array in tensors.items():
        assert (got[name].dtype, got[name].tobytes()) == (array.dtype, array.tobytes())


def test_views_and_big_endian_arrays_are_written_by_value():
    array = np.arange(12, dtype=">f4").reshape(3, 4).T
    assert np.array_equal(read_tensors(write_tensors({"a": array}), what="x")["a"], array)


def test_empty_payloads_round_trip():
    assert read_payloads(write_payloads({"a": b"", "b": b"x"}), what="x") == {"a": b"", "b": b"x"}


def test_a_dtype_that_artifacts_do_not_use_is_refused():
    data = write_tensors({"a": np.array([True, False])})
    with pytest.raises(UnsafeFormatError, match="BOOL"):
        read_tensors(data, what="x")


@pytest.mark.parametrize("data", [b"", b"\0" * 7, b"\xff" * 64, (1 << 40).to_bytes(8, "little")])
def test_bytes_that_are_no_safetensors_are_refused(data):
    with pytest.raises(UnsafeFormatError):
        read_tensors(data, what="x")


def test_a_bundle_made_with_a_broken_manifest_is_refused_at_once(record, bundle):
    broken = replace(bundle.manifest, created="yesterday")
    with pytest.raises(SchemaViolationError, match="created"):
        make_bundle(broken, make_lock().to_tensors(), record.to_tensors())


def test_a_place_that_cannot_be_written_is_told_with_the_way_out(record, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match="expected a place where a bundle can be written") as caught:
        write_bundle(bundle_of(record, make_lock()), tmp_path / "file" / "lock")
    assert "--out DIR" in caught.value.hint


def test_a_place_that_cannot_be_written_is_found_before_the_work(tmp_path, monkeypatch):
    require_new_folder(tmp_path / "a" / "b" / "lock")
    assert everything(tmp_path) == []
    (tmp_path / "a").mkdir()
    made = Path.mkdir

    def refusing(path, *args, **given):
        if path.name.startswith(".incoming-"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        made(path, *args, **given)

    monkeypatch.setattr("pathlib.Path.mkdir", refusing)
    with pytest.raises(HostError, match="got: Permission denied"):
        require_new_folder(tmp_path / "a" / "b" / "lock")
    assert everything(tmp_path) == ["a"]


def test_a_model_in_place_of_a_bundle_is_called_a_model(tmp_path):
    (tmp_path / "config.json").touch()
    with pytest.raises(ArtifactNotFoundError, match="got a model") as caught:
        read_bundle(tmp_path)
    assert f"safelatch check NAME@VERSION {tmp_path}" in str(caught.value.hint)
