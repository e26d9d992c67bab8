"""Hostile bundles: each is refused whole, with every finding, before anything is written.

docs/hostile-inputs.md is the list; single faults of a lock are in tests/unit/kinds/, of a manifest
and of a bundle's files in tests/unit/artifact/.
"""

from __future__ import annotations

import json
import os
import struct
from dataclasses import replace

import numpy as np
import pytest
from support.locks import bundle_of, draft_manifest, make_lock, read_record
from support.refusals import everything_under, refusal
from support.tiny_models import llama_config, write_checkpoint

from registry.artifact.bundle import (
    BASE,
    MANIFEST,
    TENSORS,
    check_files,
    make_bundle,
    read_bundle,
    write_bundle,
)
from registry.artifact.manifest import Manifest
from registry.artifact.tensors import read_payloads, write_payloads, write_tensors
from registry.checkpoint.record import BaseRecord
from registry.checkpoint.sketch import extent
from registry.digest import canonical_json, digest_bytes
from registry.errors import (
    ArtifactNotFoundError,
    DigestMismatchError,
    SchemaViolationError,
    UnsafeFormatError,
    UnsupportedSchemaVersionError,
)
from registry.kinds import parse_body
from registry.store.catalog import Registry
from registry.workflows.publish import publish

TERABYTE = 1 << 40


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return read_record(write_checkpoint(tmp_path_factory.mktemp("bundles"), llama_config()))


@pytest.fixture(scope="module")
def bundle(record):
    return bundle_of(record, make_lock())


@pytest.fixture
def folder(bundle, tmp_path):
    return write_bundle(bundle, tmp_path / "lock")


def refused(kind, folder, *said):
    """Return the error of reading ``folder``, which must leave it and what is beside it alone."""
    before = everything_under(folder.parent)
    error = refusal(kind, lambda: read_bundle(folder), *said)
    assert everything_under(folder.parent) == before
    return error


def with_file(bundle, name, data):
    """Return the files of ``bundle`` with one exchanged and the manifest made to fit."""
    document = json.loads(bundle.files[MANIFEST])
    document["files"][name] = {"digest": digest_bytes(data), "size": len(data)}
    return {**bundle.files, name: data, MANIFEST: canonical_json(document)}


def with_manifest(bundle, change):
    """Return the bytes of the manifest of ``bundle`` after ``change``, in canonical form."""
    document = json.loads(bundle.files[MANIFEST])
    change(document)
    return canonical_json(document)


# Sizes


@pytest.mark.timeout(20)
@pytest.mark.parametrize("size", [10_000_000, (1 << 20) + 1, TERABYTE])
def test_manifest_of_10_megabytes_and_more(folder, size):
    os.truncate(folder / MANIFEST, size)
    refused(UnsafeFormatError, folder, f"expected at most 1,048,576 bytes, got {size:,}")


@pytest.mark.timeout(20)
def test_files_of_a_terabyte_under_a_small_manifest(folder):
    said = []
    for name in (TENSORS, BASE):
        size = (folder / name).stat().st_size
        said.append(f"{name}: expected {size:,} bytes, got 1,099,511,627,776")
        os.truncate(folder / name, TERABYTE)
    refused(DigestMismatchError, folder, *said)


@pytest.mark.timeout(20)
def test_file_of_a_terabyte_that_its_manifest_admits(bundle, folder):
    manifest = with_manifest(bundle, lambda d: d["files"][TENSORS].update(size=TERABYTE))
    (folder / MANIFEST).write_bytes(manifest)
    os.truncate(folder / TENSORS, TERABYTE)
    refused(UnsafeFormatError, folder, f"{TENSORS}: expected at most 8,589,934,592 bytes")


@pytest.mark.parametrize("name", [TENSORS, BASE])
def test_header_of_an_artifact_over_a_mebibyte(bundle, name):
    header = b"{" + b" " * (1 << 20) + b"}"
    files = with_file(bundle, name, struct.pack("<Q", len(header)) + header)
    hostile = check_files(files)  # every digest is right
    read = hostile.tensors if name == TENSORS else hostile.base_tensors
    refusal(UnsafeFormatError, read, f"{name}: expected a header of at most 1,048,576 bytes")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("member", ["receipts", "data"])
def test_manifest_with_hundreds_of_thousands_of_violations(bundle, member):
    def change(document):
        place = document if member == "receipts" else document["provenance"]
        place[member] = [{}] * 300_000

    data = with_manifest(bundle, change)
    error = refusal(SchemaViolationError, lambda: Manifest.from_bytes(data), "1000 or more")
    assert len(error.violations) == 1000


# Files


def test_both_files_missing_are_told_together(folder):
    (folder / TENSORS).unlink()
    (folder / BASE).unlink()
    refused(UnsafeFormatError, folder, f"{TENSORS}: missing", f"{BASE}: missing")


def test_file_missing_and_file_of_another_size_are_told_together(folder):
    (folder / TENSORS).unlink()
    os.truncate(folder / BASE, 7)
    refused(UnsafeFormatError, folder, f"{TENSORS}: missing", f"{BASE}: expected ", "bytes, got 7")


def test_both_files_exchanged_are_told_together(folder):
    promised = json.loads((folder / MANIFEST).read_text())["files"]
    for name in (TENSORS, BASE):
        data = bytearray((folder / name).read_bytes())
        data[-1] ^= 1
        (folder / name).write_bytes(data)
    said = [f"{name}: expected {promised[name]['digest']}, got" for name in (TENSORS, BASE)]
    refused(DigestMismatchError, folder, *said)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", [MANIFEST, TENSORS, BASE])
@pytest.mark.parametrize("target", ["/dev/zero", "/etc/hostname", "circle", "outside"])
def test_link_out_of_a_bundle(bundle, folder, tmp_path, name, target):
    (tmp_path / "outside").write_bytes(bundle.files[name])  # the right bytes, elsewhere
    (folder / name).unlink()
    (folder / name).symlink_to(name if target == "circle" else tmp_path / target)
    refused(UnsafeFormatError, folder, f"{name}: expected a readable file, got: ")


@pytest.mark.parametrize("what", ["circle", "nothing", "NUL", "file"])
def test_bundle_that_is_no_folder(tmp_path, what):
    place = tmp_path / ("a\0b" if what == "NUL" else "lock")
    if what == "circle":
        place.symlink_to(place)
    elif what == "file":
        place.touch()
    kinds = {"nothing": ArtifactNotFoundError}
    refusal(kinds.get(what, UnsafeFormatError), lambda: read_bundle(place), str(tmp_path))


def test_header_of_an_artifact_that_ends_behind_the_file(bundle):
    files = with_file(bundle, TENSORS, struct.pack("<Q", 3) + b"{}")
    refusal(UnsafeFormatError, check_files(files).tensors, "header of 3 bytes, the file has 10")


# The documents


def spelled(bundle, old, new):
    data = bundle.files[MANIFEST]
    assert old in data
    return data.replace(old, new, 1)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b'"alpha":2,', b'"alpha":NaN,', "NaN is not a JSON number"),
        (b'"alpha":2,', b'"alpha":Infinity,', "Infinity is not a JSON number"),
        (b'"alpha":2,', b'"alpha":1e999,', "1e999 is beyond a double"),
        (b'"alpha_range":[0,2]', b'"alpha_range":[0,1e999]', "1e999 is beyond a double"),
        (b'"max_distance":0.25', b'"max_distance":NaN', "NaN is not a JSON number"),
        (b'"median_accuracy":0.5', b'"median_accuracy":-Infinity', "-Infinity is not a JSON"),
        (b'"receipts":[]', b'"receipts":[{"rate":NaN}]', "NaN is not a JSON number"),
        (b'"seed":0', b'"seed":' + b"9" * 400, "at most 300 digits, got 400"),
        (b'"seed":0', b'"seed":-0', "-0 is an integer to one reader"),
        (
            b'"receipts":[]',
            b'"receipts":[{"x":' + b"[" * 900 + b"]" * 900 + b"}]",
            "deeper than 64",
        ),
        (b'"license":null', b'"license":"\\ud800"', "half a surrogate pair"),
        (b'"license":null', b'"license":null,"license":null', "member 'license' appears twice"),
    ],
    ids=lambda value: value[:40].decode() if isinstance(value, bytes) else "",
)
def test_number_or_text_in_a_manifest_that_readers_understand_differently(bundle, old, new, said):
    data = spelled(bundle, old, new)
    refusal(UnsafeFormatError, lambda: Manifest.from_bytes(data), said)


def test_texts_in_a_manifest_that_would_steer_a_terminal(bundle):
    def change(document):
        document["base"]["name"] = "llama\x1b[2K\rtrusted"
        document["license"] = "MIT\u202egnihton"
        document["receipts"] = [
            {"type": "a\nb", "created": "2030-01-01T00:00:00Z", "\x07": ["\x9b1m", "\u200b"]}
        ]

    data = with_manifest(bundle, change)
    error = refusal(SchemaViolationError, lambda: Manifest.from_bytes(data), "breaks 6 rule(s)")
    for path in ("$.base.name", "$.license", "$.receipts[0].type", "$.receipts[0]: the member"):
        assert any(line.startswith(path) for line in error.violations), error.violations


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "con", "version": "1.0"}, "$.name: expected the name of a line, got 'con'"),
        ({"name": "a..b", "version": "1.0"}, "$.name: expected the name of a line"),
        ({"name": "lock", "version": "1zzz"}, "$.version: expected a PEP 440 version, got '1zzz'"),
        ({"name": "lock", "version": "1.0.RC1"}, "$.version: expected the version 1.0rc1"),
        ({"name": "lock"}, "$: expected name and version together"),
        ({"created": "2030-13-45T99:99:99Z"}, "$.created: expected a moment of the calendar"),
        (
            {"validity": {"not_before": "2031-01-01T00:00:00Z", "expires": "2030-01-01T00:00:00Z"}},
            "$.validity: expected not_before earlier than expires",
        ),
    ],
)
def test_label_or_moment_in_a_manifest_that_is_none(bundle, changes, said):
    data = with_manifest(bundle, lambda document: document.update(changes))
    refusal(SchemaViolationError, lambda: Manifest.from_bytes(data), said)


@pytest.mark.parametrize("alpha_range", [[False, 2], [0, True]])
def test_truth_in_place_of_a_number(bundle, alpha_range):
    changed = with_manifest(bundle, lambda d: d["body"].update(alpha_range=alpha_range))
    hostile = check_files({**bundle.files, MANIFEST: changed})
    refusal(SchemaViolationError, lambda: parse_body(hostile), "$.alpha_range")


# The tensors of a lock


def lock_with(record, tensors, **document):
    lock = make_lock()
    manifest = draft_manifest(record, lock, body=lock.to_manifest() | document)
    return make_bundle(manifest, lock.to_tensors() | tensors, record.to_tensors())


@pytest.mark.parametrize("name", ["heads", "directions", "sigma"])
@pytest.mark.parametrize("shape", [(), (0,), (0, 0), (3, 0), (1, 1, 1)])
def test_tensor_of_a_lock_with_no_dimension_or_no_element(record, name, shape):
    dtype = np.int32 if name == "heads" else np.float32
    hostile = lock_with(record, {name: np.zeros(shape, dtype)})
    refusal(SchemaViolationError, lambda: parse_body(hostile), f"{name}: expected", f"{shape}")


def test_lock_of_no_heads(record):
    empty = {
        "heads": np.zeros((0, 2), np.int32), "directions": np.zeros((0, 16), np.float32),
        "sigma": np.zeros(0, np.float32),
    }  # fmt: skip
    hostile = lock_with(record, empty, heads=0)
    refusal(SchemaViolationError, lambda: parse_body(hostile), "$.heads: 0 is less than")


def test_all_tensors_of_a_lock_wrong_are_told_together(record):
    wrong = {"heads": np.zeros(1, np.int64), "sigma": np.zeros(3, np.float64)}
    hostile = lock_with(record, {**wrong, "extra": np.zeros(1, np.uint8)})
    said = ("unexpected tensor 'extra'", "heads: expected int32 [3, 2]", "sigma: expected float32")
    refusal(SchemaViolationError, lambda: parse_body(hostile), *said)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dose": [5e-324] * 3}, r"$.holds.dose[0]"),
        ({"dose": [1e308] * 3}, r"$.holds.dose[2]"),
        ({"cosine": [5e-324] * 3}, "holds.cosine: expected a median of at least 0.01"),
        ({"cosine": [1.001] * 3}, r"$.holds.cosine[1]"),
        ({"margin": [-1e308, 1e308, 0]}, r"$.holds.margin[1]"),
        ({"bounds": {"min_cosine": -1000}}, "$.holds.bounds.min_cosine"),
        ({"bounds": {"min_cosine": 1000}}, "$.holds.bounds.min_cosine"),
        ({"bounds": {"min_positive": -1}}, "$.holds.bounds.min_positive"),
        ({"bounds": {"min_floor": 1e308}}, "$.holds.bounds.min_floor"),
        ({"bounds": {"dose": [0, 1]}}, "$.holds.bounds.dose[0]"),
        ({"bounds": {"dose": [1e-300, 1e308]}}, "$.holds.bounds.dose[1]"),
        ({"bounds": {"dose": [2, 0.5]}}, "expected least before most, got [2, 0.5]"),
    ],
)
def test_figures_of_a_base_that_make_every_check_infinite_or_empty(record, changes, said):
    sound = {
        "pairs": {"name": "p", "version": "1", "digest": f"blake3:{'0' * 64}"}, "ids": ["a"],
        "cosine": [0.5] * 3, "margin": [1.0] * 3, "dose": [0.1] * 3, "floor": [0.1, 0.1],
        "bounds": {"min_cosine": 0.8, "min_positive": 0.75, "dose": [0.5, 2], "min_floor": 0.5},
    }  # fmt: skip
    assert parse_body(lock_with(record, {}, holds=sound)).holds.base.margin == (1.0, 1.0, 1.0)
    bounds = sound["bounds"] | changes.get("bounds", {})
    hostile = lock_with(record, {}, holds=sound | changes | {"bounds": bounds})
    refusal(SchemaViolationError, lambda: parse_body(hostile), said)


@pytest.mark.parametrize("dtype", ["BOOL", "F8_E4M3", "C64"])
def test_dtype_that_artifacts_do_not_use(bundle, dtype):
    size = 8 if dtype == "C64" else 1
    header = json.dumps({"a": {"dtype": dtype, "shape": [1], "data_offsets": [0, size]}}).encode()
    data = struct.pack("<Q", len(header)) + header + bytes(size)
    refusal(
        UnsafeFormatError, check_files(with_file(bundle, TENSORS, data)).tensors, f"got ['{dtype}']"
    )


# The record of the base


def of_record(changed):
    return BaseRecord.from_tensors(read_payloads(write_payloads(changed), what=BASE))


@pytest.mark.parametrize("array", [np.zeros(4, np.float32), np.zeros((2, 2), np.uint8)], ids=str)
def test_payload_that_is_no_byte_string(record, array):
    data = write_tensors({"record": array, "entries": np.zeros(1, np.uint8)})
    refusal(
        UnsafeFormatError,
        lambda: read_payloads(data, what=BASE),
        f"'record': expected uint8 in one dimension, got {array.dtype.name} {array.shape}",
    )


def test_samples_that_contradict_the_digest_of_their_tensor(record):
    small = [entry.name for entry in record.entries if extent(entry.shape).is_whole]
    samples = {name: bytes(len(record.samples[name])) for name in small}
    forged = replace(record, samples=record.samples | samples)
    refusal(
        DigestMismatchError,
        lambda: of_record(forged.to_tensors()),
        f"got {len(small)} of others",
        *(f"samples of {name!r}" for name in small),
    )


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "shape", [[2**40, 2**40], [1] * 65, [9] * 500_000, [2**53 - 1, 0, 2**53 - 1]], ids=len
)
def test_shape_in_a_record_that_no_reader_can_multiply(record, shape):
    payloads = record.to_tensors()
    rows = json.loads(payloads["entries"])
    rows[0][2] = shape
    payloads["entries"] = canonical_json(rows)
    stated = json.loads(payloads["record"]) | {"weights": digest_bytes(payloads["entries"])}
    payloads["record"] = canonical_json(stated)
    refusal(SchemaViolationError, lambda: of_record(payloads), "$[0][2]: expected a shape, got")


@pytest.mark.timeout(20)
def test_record_of_a_million_broken_entries(record):
    payloads = record.to_tensors()
    payloads["entries"] = b"[" + b",".join([b"0"] * 1_000_000) + b"]"
    stated = json.loads(payloads["record"]) | {"weights": digest_bytes(payloads["entries"])}
    payloads["record"] = canonical_json(stated)
    error = refusal(SchemaViolationError, lambda: of_record(payloads), "$[0]: expected [name")
    assert len(error.violations) <= 1001


@pytest.mark.parametrize("name", ["cafe\u0301", "a\x1b[2J", "a\u202eb", ""])
def test_name_in_a_record_that_is_no_tensor_name(record, name):
    payloads = record.to_tensors()
    rows = json.loads(payloads["entries"])
    rows[0][0] = name
    payloads["entries"] = canonical_json(rows)
    stated = json.loads(payloads["record"]) | {"weights": digest_bytes(payloads["entries"])}
    payloads["record"] = canonical_json(stated)
    refusal(SchemaViolationError, lambda: of_record(payloads), "$[0][0]: expected a printable name")


# Nothing half-written


def hostile_bundles(bundle, record):
    """Yield (what, error, bundle): each refused at another depth of ``publish``."""
    files = dict(bundle.files)
    yield "bytes", DigestMismatchError, files | {BASE: files[BASE][:-1] + b"\0"}
    yield "body", SchemaViolationError, lock_with(record, {"sigma": np.zeros(3, np.float32)}).files
    stranger = replace(record, samples={n: bytes(len(s)) for n, s in record.samples.items()})
    forged = make_bundle(
        replace(bundle.manifest, files={}), bundle.tensors(), stranger.to_tensors()
    )
    yield "record", DigestMismatchError, forged.files
    newer = json.loads(record.to_tensors()["record"]) | {"schema": "safelatch/base-record/v2"}
    payloads = record.to_tensors() | {"record": canonical_json(newer)}
    data = write_payloads(payloads)
    yield "version", UnsupportedSchemaVersionError, with_file(bundle, BASE, data)


def test_bundle_that_is_refused_leaves_no_trace(bundle, record, tmp_path):
    home = tmp_path / "home"
    with Registry.create(str(home / "registry.db")) as registry:
        stored = {path for path in home.rglob("*") if "registry.db" not in path.name}
        for what, kind, files in hostile_bundles(bundle, record):
            folder = tmp_path / what
            folder.mkdir()
            for name, data in files.items():
                (folder / name).write_bytes(data)
            refusal(kind, lambda folder=folder: publish(registry, folder, name="a", version="1"))
            assert registry.lines() == []
            assert registry.bases() == []
            assert {path for path in home.rglob("*") if "registry.db" not in path.name} == stored
        folder = write_bundle(bundle, tmp_path / "good")
        assert publish(registry, folder, name="a", version="1").is_new


def test_hostile_manifest_is_refused_before_another_file_is_opened(bundle, tmp_path):
    folder = tmp_path / "lock"
    folder.mkdir()
    (folder / MANIFEST).write_bytes(spelled(bundle, b'"alpha":2,', b'"alpha":NaN,'))
    os.mkfifo(folder / TENSORS)
    os.mkfifo(folder / BASE)
    refused(UnsafeFormatError, folder, "NaN is not a JSON number")


def test_bundle_in_memory_with_a_file_too_many_keeps_only_its_own(bundle):
    kept = check_files({**bundle.files, "evil.pkl": b"\x80\x04."})
    assert set(kept.files) == {MANIFEST, TENSORS, BASE}
