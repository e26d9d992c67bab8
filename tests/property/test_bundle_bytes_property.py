"""Bundles under attack: flipped bytes, and hostile documents whose digests were made to fit."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.locks import bundle_of, make_lock, read_record
from support.tiny_models import llama_config, write_checkpoint

from registry.artifact.bundle import BASE, MANIFEST, TENSORS, check_files
from registry.artifact.tensors import read_payloads, read_tensors, write_payloads
from registry.checkpoint.record import BaseRecord
from registry.digest import canonical_json, digest_bytes
from registry.errors import EvidenceError, SafelatchError
from registry.kinds import parse_body
from registry.workflows.check import check

quick = settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return read_record(write_checkpoint(tmp_path_factory.mktemp("bytes"), llama_config()))


@pytest.fixture(scope="module")
def files(record):
    return dict(bundle_of(record, make_lock()).files)


@pytest.mark.parametrize("name", [MANIFEST, TENSORS, BASE])
@quick
@given(data=st.data())
def test_every_flipped_byte_is_refused(files, name, data):
    at = data.draw(st.integers(0, len(files[name]) - 1))
    mask = data.draw(st.integers(1, 255))
    flipped = bytearray(files[name])
    flipped[at] ^= mask
    changed = {**files, name: bytes(flipped)}
    expected = digest_bytes(files[MANIFEST])
    with pytest.raises(EvidenceError):
        check_files(changed, expected=expected)
    if name != MANIFEST:  # nor without knowing the manifest's digest
        with pytest.raises(EvidenceError):
            check_files(changed)


@quick
@given(data=st.data())
def test_a_flipped_byte_of_an_unsigned_manifest_is_another_artifact_or_none(files, data):
    at = data.draw(st.integers(0, len(files[MANIFEST]) - 1))
    flipped = bytearray(files[MANIFEST])
    flipped[at] ^= data.draw(st.integers(1, 255))
    try:
        bundle = check_files({**files, MANIFEST: bytes(flipped)})
    except EvidenceError:
        return
    assert bundle.manifest.digest != digest_bytes(files[MANIFEST])
    assert bundle.manifest.to_bytes() == bytes(flipped)


@cache
def places(document):
    """Return the path of every value in a JSON text."""

    def walk(value, path):
        yield path
        if isinstance(value, dict):
            for key, item in value.items():
                yield from walk(item, (*path, key))
        if isinstance(value, list):
            for index, item in enumerate(value[:3]):
                yield from walk(item, (*path, index))

    return [path for path in walk(json.loads(document), ()) if path]


def planted(document, path, value):
    root = json.loads(document)
    place = root
    for step in path[:-1]:
        place = place[step]
    if value is DROP:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return root


DROP = object()
HOSTILE = st.sampled_from(
    [DROP, None, True, -1, 0, 0.5, 2**53 - 1, 1e308, "", "x", "\n", "../x", "\u0000", [], [[]], {},
     {"a": 1}, "llama", [1, 2], "F32", "blake3:" + "0" * 64]
)  # fmt: skip


@quick
@given(data=st.data())
def test_a_manifest_with_a_hostile_value_is_refused_by_name_or_read(files, record, data):
    """No value makes anything but an error of ours: no crash, no half-read artifact."""
    path = data.draw(st.sampled_from(places(files[MANIFEST])))
    document = planted(files[MANIFEST], path, data.draw(HOSTILE))
    try:
        bundle = check_files({**files, MANIFEST: canonical_json(document)})
        parse_body(bundle)
        check(bundle, record)
    except SafelatchError:
        return
    assert bundle.manifest.to_bytes() == canonical_json(document)
    is_same = canonical_json(document) == files[MANIFEST]
    assert (bundle.manifest.digest == digest_bytes(files[MANIFEST])) == is_same


@pytest.mark.parametrize("part", ["record", "entries"])
@quick
@given(data=st.data())
def test_a_base_record_with_a_hostile_value_is_refused_by_name_or_read(record, part, data):
    payloads = record.to_tensors()
    path = data.draw(st.sampled_from(places(payloads[part].decode())))
    document = planted(payloads[part], path, data.draw(HOSTILE))
    changed = payloads | {part: canonical_json(document)}
    if part == "entries":  # the digest is made to fit, as an attacker would
        stated = json.loads(payloads["record"]) | {"weights": digest_bytes(changed["entries"])}
        changed["record"] = canonical_json(stated)
    try:
        again = BaseRecord.from_tensors(read_payloads(write_payloads(changed), what="base"))
    except SafelatchError:
        return
    assert again.to_tensors() == changed


@quick
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_no_tensors_or_are_refused(data):
    try:
        read = read_tensors(data, what="x")
    except EvidenceError:
        return
    held = sum(array.nbytes for array in read.values())
    assert held == len(data) - 8 - int.from_bytes(data[:8], "little")


@quick
@given(data=st.data())
def test_a_tensor_file_with_a_flipped_header_byte_is_read_alike_or_refused(files, data):
    original = files[TENSORS]
    length = 8 + int.from_bytes(original[:8], "little")
    flipped = bytearray(original)
    flipped[data.draw(st.integers(0, length - 1))] ^= data.draw(st.integers(1, 255))
    try:
        tensors = read_tensors(bytes(flipped), what="x")
    except EvidenceError:
        return
    assert sum(array.nbytes for array in tensors.values()) == len(original) - length
    assert all(isinstance(array, np.ndarray) for array in tensors.values())
