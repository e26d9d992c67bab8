from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from support.locks import edited, read_record
from support.tiny_models import llama_config, write_checkpoint

from registry.artifact.bundle import make_bundle, write_bundle
from registry.digest import canonical_json, digest_bytes
from registry.errors import (
    DigestMismatchError,
    EvidenceError,
    GeometryError,
    SchemaViolationError,
    UnsupportedSchemaVersionError,
    UsageError,
    VersionConflictError,
)
from registry.reference import Reference
from registry.workflows.find import stored_bundle
from registry.workflows.publish import publish


def put(registry, world, tmp_path, bundle=None, *, name="lock", version="1.0", at="b"):
    folder = world.lock if bundle is None else write_bundle(bundle, tmp_path / at)
    return publish(registry, folder, name=name, version=version)


def test_a_published_bundle_comes_back_byte_for_byte(world, empty_registry, tmp_path):
    done = put(empty_registry, world, tmp_path)
    assert done.is_new
    assert done.version.label == "lock@1.0"
    bundle, version = stored_bundle(empty_registry, Reference.parse("lock@1.0"))
    assert version == done.version
    assert bundle.manifest.digest == version.digest
    assert bundle.manifest.label == "lock@1.0"
    assert dict(bundle.files) == dict(world.bundle.named("lock", "1.0").files)
    assert empty_registry.base("planted-base").weights == bundle.manifest.base_weights


def test_publishing_the_same_again_is_no_news(world, empty_registry, tmp_path):
    first = put(empty_registry, world, tmp_path)
    events = len(empty_registry.events())
    again = put(empty_registry, world, tmp_path, version="v1.0")
    assert not again.is_new
    assert again.version == first.version
    assert len(empty_registry.events()) == events


@pytest.mark.parametrize("change", ["tensors", "strength", "receipt"])
def test_other_content_under_a_published_version_is_refused(
    world, empty_registry, tmp_path, change
):
    put(empty_registry, world, tmp_path)
    other = {
        "tensors": lambda: world.edited(directions=world.directions[:, ::-1].copy()),
        "strength": lambda: world.edited(alpha=0.5),
        "receipt": lambda: world.bundle.with_manifest(replace(world.bundle.manifest, receipts=())),
    }[change]()
    with pytest.raises(VersionConflictError, match=r"lock@1\.0"):
        put(empty_registry, world, tmp_path, other)
    stored, _ = stored_bundle(empty_registry, Reference.parse("lock@1.0"))
    assert stored.files == world.bundle.named("lock", "1.0").files


def test_a_version_that_is_not_newer_is_refused(world, empty_registry, tmp_path):
    put(empty_registry, world, tmp_path, version="2.0")
    with pytest.raises(VersionConflictError):
        put(empty_registry, world, tmp_path, version="1.5")
    assert put(empty_registry, world, tmp_path, version="2.1").is_new


def test_a_named_bundle_cannot_be_published_as_another(world, empty_registry, tmp_path):
    named = world.bundle.named("lock", "1.0")
    with pytest.raises(UsageError, match=r"expected a draft or a bundle of other@1\.0"):
        put(empty_registry, world, tmp_path, named, name="other")
    assert put(empty_registry, world, tmp_path, named, at="c").is_new


def test_a_bundle_whose_base_record_is_of_another_model_is_refused(world, empty_registry, tmp_path):
    record = read_record(write_checkpoint(tmp_path / "other", llama_config()))
    mixed = make_bundle(world.bundle.manifest, world.bundle.tensors(), record.to_tensors())
    with pytest.raises(DigestMismatchError, match="its base record has"):
        put(empty_registry, world, tmp_path, mixed)
    assert empty_registry.bases() == []
    assert empty_registry.lines() == []


@pytest.mark.parametrize("field", ["config", "tokenizer", "chat_template"])
def test_a_manifest_that_names_another_identity_beside_the_weights_is_refused(
    world, empty_registry, tmp_path, field
):
    base = replace(world.bundle.manifest.base, **{field: digest_bytes(b"other")})
    bundle = world.bundle.with_manifest(replace(world.bundle.manifest, base=base))
    with pytest.raises(DigestMismatchError, match=field.replace("_", " ")):
        put(empty_registry, world, tmp_path, bundle)


def test_a_manifest_of_another_geometry_than_its_base_is_refused(world, empty_registry, tmp_path):
    geometry = dict(world.bundle.manifest.geometry) | {"layers": 7}
    bundle = world.bundle.with_manifest(replace(world.bundle.manifest, geometry=geometry))
    with pytest.raises((EvidenceError, GeometryError), match="layers"):
        put(empty_registry, world, tmp_path, bundle)


def test_a_base_record_that_contradicts_itself_is_refused(world, empty_registry, tmp_path):
    payloads = dict(world.bundle.base_tensors())
    record = json.loads(payloads["record"])
    record["geometry"]["heads"] = 2
    payloads["record"] = canonical_json(record)
    bundle = make_bundle(world.bundle.manifest, world.bundle.tensors(), payloads)
    with pytest.raises(SchemaViolationError, match="geometry"):
        put(empty_registry, world, tmp_path, bundle)


def test_a_lock_that_breaks_its_own_rules_is_refused(world, empty_registry, tmp_path):
    tensors = world.bundle.tensors() | {"sigma": np.zeros(4, np.float32)}
    bundle = make_bundle(world.bundle.manifest, tensors, world.bundle.base_tensors())
    with pytest.raises(SchemaViolationError, match="sigma above 0"):
        put(empty_registry, world, tmp_path, bundle)
    assert empty_registry.lines() == []


def test_an_unknown_kind_is_refused(world, empty_registry, tmp_path):
    bundle = world.bundle.with_manifest(replace(world.bundle.manifest, kind="other-kind"))
    with pytest.raises(UnsupportedSchemaVersionError, match="safety-lock"):
        put(empty_registry, world, tmp_path, bundle)


def test_a_base_of_the_same_name_with_other_weights_gets_a_name_of_its_own(
    world, empty_registry, tmp_path
):
    put(empty_registry, world, tmp_path)
    record = read_record(write_checkpoint(tmp_path / "other", llama_config()))
    base = replace(
        world.bundle.manifest.base, weights=record.weights, config=record.config_digest,
        tokenizer=None, chat_template=None,
    )  # fmt: skip
    manifest = replace(world.bundle.manifest, base=base, geometry=record.geometry.to_dict())
    other = make_bundle(manifest, world.bundle.tensors(), record.to_tensors())
    done = put(empty_registry, world, tmp_path, other, name="other")
    assert done.version.base_name.startswith("planted-base-")
    assert empty_registry.base(record.weights).name == done.version.base_name


def test_a_bundle_that_was_moved_is_published_the_same(world, empty_registry, tmp_path):
    shutil.copytree(world.lock, tmp_path / "moved")
    first = put(empty_registry, world, tmp_path)
    again = publish(empty_registry, tmp_path / "moved", name="lock", version="1.0")
    assert (again.is_new, again.version.digest) == (False, first.version.digest)
    assert edited(world.bundle).manifest.digest == world.bundle.manifest.digest


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ("1.0", "1.0.0", r"\(1\.0 and 1\.0\.0 are one version under PEP 440\)\.$"),
        ("0.65", "0.7", r"\(versions compare part by part: 65 is more than 7\)\.$"),
        ("2.0", "1.5", r"got 1\.5\.$"),
    ],
)
def test_a_refused_version_says_how_versions_compare(
    world, empty_registry, tmp_path, first, second, said
):
    put(empty_registry, world, tmp_path, version=first)
    with pytest.raises(VersionConflictError) as caught:
        put(empty_registry, world, tmp_path, world.edited(alpha=0.5), version=second, at="c")
    assert re.search(said, caught.value.message)
