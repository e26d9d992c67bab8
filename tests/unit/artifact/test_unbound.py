"""An import without a base is a document of its own: whole, checked, and never taken for a bundle."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from support.refusals import everything_under, refusal

from registry.artifact.bundle import read_bundle
from registry.artifact.unbound import (
    TENSORS,
    UNBOUND,
    Source,
    is_unbound,
    make_unbound,
    read_unbound,
    write_unbound,
)
from registry.digest import canonical_json, digest_bytes
from registry.errors import (
    ArtifactNotFoundError,
    DigestMismatchError,
    HostError,
    SchemaViolationError,
    UnboundArtifactError,
    UnsafeFormatError,
    UnsupportedSchemaVersionError,
)

TOOL = {"safelatch": "test"}


@pytest.fixture
def made():
    source = Source.of(b"bytes", name="their\x1b[2J.safelock", format="a file")
    return make_unbound(
        "safety-lock", source, {"heads": ["0:1"]}, {"sigma": np.ones(3, np.float32)}, tool=TOOL
    )


@pytest.fixture
def folder(made, tmp_path):
    return write_unbound(made, tmp_path / "unbound")


def test_what_is_written_is_what_is_read(made, folder):
    assert read_unbound(folder) == made
    assert read_unbound(folder).digest == digest_bytes((folder / UNBOUND).read_bytes())
    assert (read_unbound(folder).tensors()["sigma"] == np.ones(3, np.float32)).all()
    assert {path.name for path in folder.iterdir()} == {UNBOUND, TENSORS}
    assert is_unbound(folder)


def test_the_source_has_both_digests_and_a_name_that_can_be_printed(made):
    assert made.source.to_dict() == {
        "name": r"their\x1b[2J.safelock",
        "sha256": hashlib.sha256(b"bytes").hexdigest(),
        "digest": digest_bytes(b"bytes"),
        "size": 5,
        "format": "a file",
    }


def test_a_bundle_is_asked_for_and_an_unbound_import_is_there(folder):
    error = refusal(
        UnboundArtifactError, lambda: read_bundle(folder),
        f"expected a bundle with its base at {folder}, got an import that is bound to none",
    )  # fmt: skip
    assert error.hint == (
        f"Bind it to the base it was made from: safelatch import {folder} --base BASE --out DIR"
    )


def test_a_folder_with_a_manifest_is_a_bundle(folder):
    (folder / "manifest.json").write_text("{}")
    assert not is_unbound(folder)
    with pytest.raises(UnsupportedSchemaVersionError):
        read_bundle(folder)


def test_a_folder_that_is_there_is_never_overwritten(made, folder):
    before = everything_under(folder)
    refusal(
        HostError,
        lambda: write_unbound(made, folder),
        f"expected a new folder to write at {folder}",
    )
    assert everything_under(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["unbound"]


def test_other_tensors_are_refused(made, folder):
    other = replace(made, payload=made.payload[:-1] + b"\x01")
    (folder / TENSORS).write_bytes(other.payload)
    refusal(
        DigestMismatchError,
        lambda: read_unbound(folder),
        f"{TENSORS}: expected {digest_bytes(made.payload)}, got {digest_bytes(other.payload)}",
    )


@pytest.mark.parametrize("name", [UNBOUND, TENSORS])
def test_a_file_that_is_gone_or_a_link_is_refused(folder, name, tmp_path):
    (folder / name).rename(tmp_path / name)
    refusal(
        ArtifactNotFoundError,
        lambda: read_unbound(folder),
        f"expected an import (a folder with {UNBOUND} and {TENSORS}) at {folder}, found none.",
    )
    (folder / name).symlink_to(tmp_path / name)
    refusal(UnsafeFormatError, lambda: read_unbound(folder), "expected a readable file")


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        ({"schema": "safelatch/unbound/v2"}, UnsupportedSchemaVersionError, "'safelatch/unbound/v1'"),
        ({"kind": "Safety Lock"}, SchemaViolationError, "$.kind"),
        ({"more": 1}, SchemaViolationError, "'more' was unexpected"),
        ({"created": "2026-13-01T00:00:00Z"}, SchemaViolationError, "expected a moment"),
        ({"contents": {"x": "\x1b[2J"}}, SchemaViolationError, "expected text that can be printed"),
        ({"contents": {"x": 2**60}}, UnsafeFormatError, "beyond"),
        ({"files": {}}, SchemaViolationError, "is a required property"),
    ],
)  # fmt: skip
def test_a_document_that_is_changed_is_refused(made, folder, change, kind, said):
    document = {**made.to_dict(), **change}
    try:
        data = canonical_json(document)
    except ValueError:
        data = json.dumps(document).encode()
    (folder / UNBOUND).write_bytes(data)
    refusal(kind, lambda: read_unbound(folder), said)


def test_another_spelling_of_the_same_document_is_refused(made, folder):
    (folder / UNBOUND).write_text(json.dumps(made.to_dict(), indent=1))
    refusal(UnsafeFormatError, lambda: read_unbound(folder), "expected canonical JSON")
