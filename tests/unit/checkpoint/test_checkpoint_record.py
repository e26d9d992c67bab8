from __future__ import annotations

import json

import pytest
from support.tiny_models import llama_config, make_tensors, write_checkpoint

from registry.checkpoint.fingerprint import fingerprint
from registry.checkpoint.reader import Checkpoint
from registry.checkpoint.record import BaseRecord
from registry.digest import canonical_json, digest_bytes, digest_json
from registry.errors import (
    DigestMismatchError,
    EvidenceError,
    SchemaViolationError,
    UnsafeFormatError,
    UnsupportedArchitectureError,
    UnsupportedSchemaVersionError,
)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    folder = write_checkpoint(tmp_path_factory.mktemp("record"), llama_config())
    (folder / "tokenizer.json").write_text("{}")
    with Checkpoint.open(folder) as checkpoint:
        return fingerprint(checkpoint)


def edited(record, change):
    """Return the payloads with ``change`` applied to the parsed record."""
    payloads = record.to_tensors()
    document = json.loads(payloads["record"])
    change(document)
    return payloads | {"record": canonical_json(document)}


def with_entries(record, change):
    """Return payloads whose entries were edited and whose weights digest was made to fit."""
    payloads = record.to_tensors()
    rows = json.loads(payloads["entries"])
    change(rows)
    entries = canonical_json(rows)
    document = json.loads(payloads["record"]) | {"weights": digest_bytes(entries)}
    return payloads | {"entries": entries, "record": canonical_json(document)}


def test_a_record_round_trips_byte_for_byte(record):
    payloads = record.to_tensors()
    read = BaseRecord.from_tensors(payloads)
    assert read == record
    assert read.to_tensors() == payloads
    views = {name: memoryview(data) for name, data in payloads.items()}
    assert BaseRecord.from_tensors(views) == record


def test_the_digest_of_the_entries_is_the_weights_digest(record):
    rows = [[e.name, e.dtype, list(e.shape), e.digest] for e in record.entries]
    assert digest_bytes(record.to_tensors()["entries"]) == record.weights == digest_json(rows)
    assert [e.name for e in record.entries] == sorted(e.name for e in record.entries)


def test_a_layer_digest_covers_the_entries_of_its_layer(record):
    rows = [e.to_list() for e in record.entries if e.name.startswith("model.layers.1.")]
    assert len(rows) == 9
    assert record.layer_digests()[1] == digest_json(rows)
    assert len(set(record.layer_digests())) == record.geometry.layers == 2


def test_numel_counts_the_weights(record):
    expected = sum(len(item.data) // 4 for item in make_tensors(llama_config()).values())
    assert record.numel == expected


@pytest.mark.parametrize("name", ["record", "entries", "samples"])
def test_a_missing_or_additional_payload_is_refused(record, name):
    payloads = record.to_tensors()
    del payloads[name]
    with pytest.raises(SchemaViolationError, match=f"{name}: missing"):
        BaseRecord.from_tensors(payloads)
    with pytest.raises(SchemaViolationError, match="extra: unknown"):
        BaseRecord.from_tensors(record.to_tensors() | {"extra": b""})


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document.update(schema="safelatch/base-record/v2"),
        lambda document: document.update(samples={"version": 3}),
        lambda document: document.update(samples={"version": 1, "per_tensor": 1024}),
    ],
)
def test_another_version_is_told_apart_from_a_broken_record(record, change):
    with pytest.raises(UnsupportedSchemaVersionError, match="expected s"):
        BaseRecord.from_tensors(edited(record, change))


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (lambda d: d.update(schema="x"), SchemaViolationError, r"\$\.schema"),
        (lambda d: d.update(samples=None), SchemaViolationError, r"\$\.samples"),
        (lambda d: d.pop("tokenizer"), SchemaViolationError, "tokenizer: missing"),
        (lambda d: d.update(extra=1), SchemaViolationError, "extra: unknown"),
        (lambda d: d.update(config=[]), SchemaViolationError, r"\$\.config"),
        (lambda d: d.update(weights="sha256:0"), SchemaViolationError, r"\$\.weights"),
        (lambda d: d.update(weights=None), SchemaViolationError, r"\$\.weights"),
        (lambda d: d.update(tokenizer=7), SchemaViolationError, r"\$\.tokenizer"),
        (lambda d: d.update(weights=digest_bytes(b"")), DigestMismatchError, "entries"),
        (lambda d: d["config"].update(vocab_size=7), DigestMismatchError, "config"),
        (lambda d: d["geometry"].update(head_dim=8), SchemaViolationError, "stated 8"),
        (lambda d: d["geometry"].update(heads=0), SchemaViolationError, "positive integer"),
        (lambda d: d.update(geometry=None), SchemaViolationError, "geometry"),
    ],
)
def test_a_tampered_record_is_refused(record, change, error, said):
    with pytest.raises(error, match=said):
        BaseRecord.from_tensors(edited(record, change))


def test_a_config_edit_with_its_digest_made_to_fit_is_refused_by_the_shapes(record):
    def change(document):
        document["config"]["num_attention_heads"] = 8
        document["config_digest"] = digest_json(document["config"])

    with pytest.raises(SchemaViolationError, match="head_dim"):
        BaseRecord.from_tensors(edited(record, change))


def test_an_unknown_family_is_refused(record):
    def change(document):
        document["config"]["model_type"] = "opt"
        document["config_digest"] = digest_json(document["config"])

    with pytest.raises(UnsupportedArchitectureError):
        BaseRecord.from_tensors(edited(record, change))


def test_tampered_entries_are_refused_by_their_digest(record):
    payloads = record.to_tensors()
    payloads["entries"] = payloads["entries"].replace(b"F32", b"F64", 1)
    with pytest.raises(DigestMismatchError, match="entries"):
        BaseRecord.from_tensors(payloads)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows.reverse(), "sorted"),
        (lambda rows: rows.append(rows[-1]), "each once"),
        (lambda rows: rows[0].append(1), r"\$\[0\]: expected \[name"),
        (lambda rows: rows.__setitem__(0, {}), r"\$\[0\]"),
        (lambda rows: rows[0].__setitem__(0, "a\n"), r"\$\[0\]\[0\]"),
        (lambda rows: rows[0].__setitem__(1, "F7"), r"\$\[0\]\[1\]"),
        (lambda rows: rows[0].__setitem__(2, [-1]), r"\$\[0\]\[2\]"),
        (lambda rows: rows[0].__setitem__(2, [True]), r"\$\[0\]\[2\]"),
        (lambda rows: rows[0].__setitem__(3, "x"), r"\$\[0\]\[3\]"),
        (lambda rows: rows[0].__setitem__(1, "F64"), "bytes, got"),
        (lambda rows: rows.clear(), "bytes, got"),
    ],
)
def test_entries_that_break_their_form_are_refused(record, change, said):
    with pytest.raises(SchemaViolationError, match=said):
        BaseRecord.from_tensors(with_entries(record, change))


def test_bytes_that_are_not_canonical_are_refused(record):
    payloads = record.to_tensors()
    pretty = json.dumps(json.loads(payloads["record"]), indent=1).encode()
    with pytest.raises(SchemaViolationError, match="canonical"):
        BaseRecord.from_tensors(payloads | {"record": pretty})


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b'{"a":1,"a":1}'])
def test_a_record_that_is_no_object_is_refused(record, data):
    with pytest.raises(EvidenceError):
        BaseRecord.from_tensors(record.to_tensors() | {"record": data})


def test_a_number_without_a_common_meaning_is_refused(record):
    data = record.to_tensors()["record"].replace(b'"vocab_size":96', b'"vocab_size":1e999')
    with pytest.raises(UnsafeFormatError):
        BaseRecord.from_tensors(record.to_tensors() | {"record": data})


@pytest.mark.parametrize("cut", [-1, 1])
def test_samples_of_another_size_are_refused(record, cut):
    payloads = record.to_tensors()
    data = payloads["samples"]
    payloads["samples"] = data[:-1] if cut < 0 else data + b"\0"
    with pytest.raises(SchemaViolationError, match="samples"):
        BaseRecord.from_tensors(payloads)
