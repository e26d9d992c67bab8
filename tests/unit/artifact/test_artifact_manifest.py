from __future__ import annotations

import copy
import json

import pytest
from support.locks import bundle_of, make_lock, read_record
from support.tiny_models import llama_config, write_checkpoint

from registry.artifact.bundle import MANIFEST
from registry.artifact.manifest import MANIFEST_LIMIT, Manifest
from registry.digest import canonical_json, digest_bytes
from registry.errors import (
    EvidenceError,
    ReferenceSyntaxError,
    SchemaViolationError,
    UnsafeFormatError,
    UnsupportedSchemaVersionError,
    UsageError,
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    record = read_record(write_checkpoint(tmp_path_factory.mktemp("manifest"), llama_config()))
    return bundle_of(record, make_lock())


@pytest.fixture
def document(bundle):
    return copy.deepcopy(json.loads(bundle.files[MANIFEST]))


def test_a_manifest_round_trips_byte_for_byte(bundle):
    data = bundle.files[MANIFEST]
    manifest = Manifest.from_bytes(data)
    assert manifest.to_bytes() == data
    assert manifest.digest == digest_bytes(data)
    assert manifest.label == "(draft)"
    assert manifest.base_weights == manifest.base.weights


@pytest.mark.parametrize(
    "spell",
    [
        lambda d: json.dumps(d, indent=2).encode(),
        lambda d: json.dumps(d).encode(),
        lambda d: canonical_json(d) + b"\n",
        lambda d: b" " + canonical_json(d),
        lambda d: canonical_json(d).replace(b'"alpha":2,', b'"alpha":2.0,'),
        lambda d: canonical_json(d).replace(b'"alpha":2,', b'"alpha":2e0,'),
        lambda d: canonical_json(d).replace(b'"kind"', b'"k\\u0069nd"'),
        lambda d: canonical_json(dict(d, license="MIT")).replace(b"MIT", b"M\\u0049T"),
        lambda d: json.dumps(dict(reversed(d.items())), separators=(",", ":")).encode(),
    ],
    ids=["pretty", "blanks", "newline", "blank before", "2.0", "2e0", "escaped name",
         "escaped text", "other order"],
)  # fmt: skip
def test_another_spelling_of_the_same_values_is_refused(document, spell):
    data = spell(document)
    assert data != canonical_json(document)
    with pytest.raises(UnsafeFormatError, match="canonical JSON"):
        Manifest.from_bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"\xff\xfe{}", b'{"schema":NaN}', b'{"a":1,"a":2}', b"[" * 100_000,
        b'{"seed":' + b"1" * 5000 + b"}",
    ],
    ids=["empty", "cut", "utf-16", "NaN", "twice", "deep", "long number"],
)  # fmt: skip
def test_what_is_not_strict_json_is_refused(data):
    with pytest.raises(UnsafeFormatError):
        Manifest.from_bytes(data)


def test_a_manifest_of_more_than_a_mebibyte_is_refused(document):
    document["license"] = "x" * MANIFEST_LIMIT
    with pytest.raises(UnsafeFormatError, match="at most 1,048,576 bytes"):
        Manifest.from_bytes(canonical_json(document))


@pytest.mark.parametrize("schema", ["safelatch/manifest/v2", "", None, 1, {"v": 1}])
def test_an_unknown_schema_version_is_called_unsupported_and_not_broken(document, schema):
    document["schema"] = schema
    document["anything"] = "new"
    with pytest.raises(UnsupportedSchemaVersionError, match="manifest/v1"):
        Manifest.from_bytes(canonical_json(document))


@pytest.mark.parametrize("data", [b"[]", b"null", b'"text"', b"1"])
def test_a_document_that_is_no_object_is_refused(data):
    with pytest.raises(UnsupportedSchemaVersionError):
        Manifest.from_bytes(data)


@pytest.mark.parametrize(
    "text",
    ['{"seed":9007199254740993}', '{"x":1e999}', '{"x":-1e999}', '{"x":"\\ud800"}',
     '{"\\udfff":1}'],
    ids=["integer beyond 2^53", "overflow", "negative overflow", "lone surrogate",
         "surrogate name"],
)  # fmt: skip
def test_values_without_a_canonical_form_are_refused_as_unsafe(bundle, text):
    data = bundle.files[MANIFEST].replace(
        b'"provenance":{', b'"provenance":' + text[:-1].encode() + b","
    )
    assert data != bundle.files[MANIFEST]
    data = data.replace(b'"seed":0,', b"") if b'"seed":9' in data else data
    with pytest.raises(UnsafeFormatError):
        Manifest.from_bytes(data)


def test_every_violation_is_listed_with_its_path(document):
    document["kind"] = "Safety Lock"
    document["base"]["weights"] = "sha256:00"
    document["geometry"]["heads"] = 0
    document["files"]["evil/../x"] = {"digest": "x", "size": -1}
    document["extra"] = 1
    del document["license"]
    with pytest.raises(SchemaViolationError) as caught:
        Manifest.from_bytes(canonical_json(document))
    assert "safelatch extract" in caught.value.hint
    listed = "\n".join(caught.value.violations)
    for path in ("$.kind", "$.base.weights", "$.geometry.heads", "$.files"):
        assert path in listed
    assert "'extra'" in listed
    assert "'license'" in listed


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/x.safetensors", "a\\b.safetensors",
                                  "x.bin", "X.safetensors", "x.safetensors\n"])  # fmt: skip
def test_a_manifest_that_names_a_file_by_path_is_refused(document, name):
    document["files"][name] = document["files"]["base.safetensors"]
    with pytest.raises(EvidenceError):
        Manifest.from_bytes(canonical_json(document))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("name",), "a\n"), (("version",), "1.0\n"), (("kind",), "safety-lock\n"),
        (("created",), "2030-01-01T00:00:00Z\n"),
        (("base", "weights"), "blake3:" + "0" * 64 + "\n"),
    ],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
def test_a_line_break_at_the_end_of_a_value_is_refused(document, path, value):
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(EvidenceError):
        Manifest.from_bytes(canonical_json(document))


def test_naming_normalises_the_version_and_changes_the_identity(bundle):
    named = bundle.named("my-lock", "v1.0")
    assert named.manifest.label == "my-lock@1.0"
    assert named.manifest.digest != bundle.manifest.digest
    assert Manifest.from_bytes(named.files[MANIFEST]).label == "my-lock@1.0"
    assert named.files["tensors.safetensors"] == bundle.files["tensors.safetensors"]


@pytest.mark.parametrize("name", ["", "My-Lock", "../x", "a..b", "-a", "a" * 97])
def test_a_name_that_cannot_name_a_line_is_refused(bundle, name):
    with pytest.raises(ReferenceSyntaxError):
        bundle.named(name, "1.0")


@pytest.mark.parametrize("version", ["", "one", "1.0/../2", "1..0", "latest"])
def test_a_version_that_is_not_pep_440_is_refused(bundle, version):
    with pytest.raises(UsageError, match="PEP 440"):
        bundle.named("lock", version)


def test_a_publisher_cannot_ask_for_a_bound_that_strangers_pass(document):
    document["compatibility"]["max_distance"] = 1.5
    with pytest.raises(SchemaViolationError, match=r"\$.compatibility.max_distance"):
        Manifest.from_bytes(canonical_json(document))
