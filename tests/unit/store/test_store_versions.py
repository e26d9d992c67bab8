from __future__ import annotations

import datetime as dt
import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import update
from support.store_builders import digest_of, make_bundle, make_record, publish

from registry.errors import (
    ArtifactNotFoundError,
    BaseNotFoundError,
    CorruptStoreError,
    DigestMismatchError,
    EvidenceError,
    ReferenceSyntaxError,
    SchemaViolationError,
    UnsafeFormatError,
    UsageError,
    VersionConflictError,
    VersionNotFoundError,
)
from registry.reference import Reference
from registry.store import session
from registry.store.tables import version_files

if TYPE_CHECKING:
    from registry.store.catalog import Registry


def resolve(registry: Registry, text: str) -> str:
    return registry.resolve(Reference.parse(text)).label


def stored_files(registry: Registry) -> int:
    return len(list(registry._blobs.folder.glob("??/*")))


def test_a_published_version_comes_back_with_its_bytes(registry: Registry) -> None:
    registry.add_base("base", make_record(), b"record of base")
    manifest, files = make_bundle(expires="2031-01-01T00:00:00Z", not_before="2030-01-01T00:00:00Z")
    version, is_new = registry.add_version(manifest, files, base_name="base")
    assert is_new
    assert (version.label, version.kind, version.state) == ("lock@1.0.0", "safety_lock", "active")
    assert (version.digest, version.base_weights) == (manifest.digest, digest_of("base"))
    assert version.expires_at == dt.datetime(2031, 1, 1, tzinfo=dt.timezone.utc)
    assert version.not_before == dt.datetime(2030, 1, 1, tzinfo=dt.timezone.utc)
    assert registry.bundle_files(version) == files
    assert registry.versions("lock") == [version]
    event = registry.events(limit=1)[0]
    assert (event.action, event.subject) == ("version.publish", "lock@1.0.0")
    assert event.detail["digest"] == manifest.digest


def test_the_same_content_again_is_no_news(registry: Registry) -> None:
    version = publish(registry, "lock", "1.0.0")
    publish(registry, "lock", "2.0.0", tensors=b"two")
    count = len(registry.events())
    manifest, files = make_bundle("lock", "1.0.0")
    assert registry.add_version(manifest, files, base_name="base") == (version, False)
    assert len(registry.events()) == count


def test_other_content_under_a_published_version_is_refused(registry: Registry) -> None:
    first = publish(registry, "lock", "1.0.0")
    before = stored_files(registry)
    for spelling in ("1.0.0", "1.0"):
        with pytest.raises(VersionConflictError, match=f"expected {first.digest}, as it is"):
            publish(registry, "lock", spelling, tensors=b"other")
    assert stored_files(registry) == before


@pytest.mark.parametrize("older", ["1.9.9", "2.0.0rc1", "2.0.0.dev1", "0.1"])
def test_a_version_that_is_not_newer_is_refused(registry: Registry, older: str) -> None:
    publish(registry, "lock", "2.0.0")
    with pytest.raises(VersionConflictError, match=r"expected a version newer than lock@2\.0\.0"):
        publish(registry, "lock", older, tensors=b"older")


def test_a_yanked_version_still_counts_as_published(registry: Registry) -> None:
    version = publish(registry, "lock", "2.0.0")
    registry.set_state(version, "yanked", "wrong alpha")
    with pytest.raises(VersionConflictError, match="newer than"):
        publish(registry, "lock", "1.0.0")


def test_versions_are_ordered_as_pep_440_says_and_not_as_text(registry: Registry) -> None:
    for version in ("1.9", "1.10rc1", "1.10", "1.10.post1", "2!0.1"):
        publish(registry, "lock", version, tensors=version.encode())
    found = [version.version for version in registry.versions("lock")]
    assert found == ["2!0.1", "1.10.post1", "1.10", "1.10rc1", "1.9"]


def test_a_line_keeps_its_kind_and_its_base(registry: Registry) -> None:
    publish(registry, "lock", "1.0.0")
    with pytest.raises(VersionConflictError, match="expected kind safety_lock, got esi_mask"):
        publish(registry, "lock", "2.0.0", kind="esi_mask")
    with pytest.raises(VersionConflictError, match=f"expected base {digest_of('base')}"):
        publish(registry, "lock", "2.0.0", base="another")


def test_the_base_must_be_registered_and_be_the_one_it_was_made_from(registry: Registry) -> None:
    manifest, files = make_bundle()
    with pytest.raises(BaseNotFoundError):
        registry.add_version(manifest, files, base_name="base")
    registry.add_base("other", make_record("other"), b"record of other")
    with pytest.raises(
        DigestMismatchError, match=f"expected a base with weights {digest_of('base')}"
    ):
        registry.add_version(manifest, files, base_name="other")


def test_files_that_are_not_the_manifests_are_refused_before_any_is_stored(
    registry: Registry,
) -> None:
    registry.add_base("base", make_record(), b"record of base")
    before = stored_files(registry)
    manifest, files = make_bundle()
    exchanged = {**files, "tensors.safetensors": b"tensorS"}
    other_manifest = {**files, "manifest.json": replace(manifest, kind="esi_mask").to_bytes()}
    for wrong in (exchanged, other_manifest):
        with pytest.raises(DigestMismatchError, match=r"lock@1\.0\.0"):
            registry.add_version(manifest, wrong, base_name="base")
    missing = {name: data for name, data in files.items() if name != "base.safetensors"}
    for wrong in (missing, {**files, "extra.py": b"import os"}):
        with pytest.raises(UnsafeFormatError, match="expected the files"):
            registry.add_version(manifest, wrong, base_name="base")
    assert stored_files(registry) == before
    assert registry.lines() == []


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/b", ".hidden", "a\\b", "c:x", ""])
def test_a_file_with_the_name_of_a_path_is_refused(registry: Registry, name: str) -> None:
    registry.add_base("base", make_record(), b"record of base")
    manifest, files = make_bundle()
    manifest = replace(manifest, files={**manifest.files, name: manifest.files["base.safetensors"]})
    files = {**files, name: files["base.safetensors"], "manifest.json": manifest.to_bytes()}
    with pytest.raises(UnsafeFormatError, match="expected the files"):
        registry.add_version(manifest, files, base_name="base")


def test_a_draft_and_names_that_cannot_be_are_refused(registry: Registry) -> None:
    with pytest.raises(UsageError, match="got a draft"):
        publish(registry, None, None)
    with pytest.raises(UsageError, match="PEP 440"):
        publish(registry, "lock", "newest")
    with pytest.raises(ReferenceSyntaxError):
        publish(registry, "Lock'; DROP TABLE versions; --", "1.0.0")
    with pytest.raises(SchemaViolationError, match=r"\$\.validity\.expires"):
        publish(registry, "lock", "1.0.0", expires="tomorrow")
    assert registry.lines() == []


def test_without_a_version_the_newest_active_one_is_meant(registry: Registry) -> None:
    publish(registry, "lock", "1.0rc1")
    assert resolve(registry, "lock") == "lock@1.0rc1"  # nothing else is there
    publish(registry, "lock", "1.0")
    newest = publish(registry, "lock", "1.1")
    publish(registry, "lock", "2.0rc1")
    assert resolve(registry, "lock") == "lock@1.1"
    assert resolve(registry, "lock@2.0rc1") == "lock@2.0rc1"
    registry.set_state(newest, "yanked", "wrong alpha")
    assert resolve(registry, "lock") == "lock@1.0"


def test_a_version_is_pinned_by_value_and_by_digest(registry: Registry) -> None:
    version = publish(registry, "lock", "1.0.0")
    for text in ("lock@1.0.0", "lock@1.0", version.digest):
        assert resolve(registry, text) == "lock@1.0.0"


def test_a_yanked_version_resolves_by_exact_pin_only(registry: Registry) -> None:
    version = publish(registry, "lock", "1.0.0")
    assert registry.set_state(version, "yanked", "wrong alpha").state_reason == "wrong alpha"
    assert resolve(registry, "lock@1.0.0") == resolve(registry, version.digest) == "lock@1.0.0"
    with pytest.raises(VersionNotFoundError, match=r"active version of lock, got 1\.0\.0 yanked"):
        resolve(registry, "lock")
    assert registry.versions_for_base(digest_of("base")) == []
    assert registry.set_state(version, "active").state == "active"
    assert resolve(registry, "lock") == "lock@1.0.0"


def test_a_revoked_version_never_resolves_and_never_comes_back(registry: Registry) -> None:
    version = publish(registry, "lock", "1.0.0")
    registry.set_state(version, "revoked", "negated directions")
    for text in ("lock@1.0.0", version.digest):
        with pytest.raises(EvidenceError, match="revoked: negated directions"):
            resolve(registry, text)
    with pytest.raises(VersionNotFoundError):
        resolve(registry, "lock")
    for state in ("active", "yanked"):
        with pytest.raises(VersionConflictError, match="expected it to stay revoked"):
            registry.set_state(version, state)
    assert registry.versions("lock")[0].state == "revoked"


def test_a_state_is_an_event_only_when_it_changes(registry: Registry) -> None:
    version = publish(registry, "lock", "1.0.0")
    for _ in range(2):
        registry.set_state(version, "yanked", "why")
    with pytest.raises(UsageError, match="expected a reason"):
        registry.set_state(version, "revoked", "")
    registry.set_state(version, "revoked", "why")
    actions = [event.action for event in registry.events()][-2:]
    assert actions == ["version.yank", "version.revoke"]


def test_what_is_not_there_is_answered_with_what_is_near(registry: Registry) -> None:
    publish(registry, "tiny-lock", "1.0.0")
    with pytest.raises(ArtifactNotFoundError, match="Did you mean tiny-lock"):
        resolve(registry, "tinylock")
    with pytest.raises(ArtifactNotFoundError, match="Did you mean tiny-lock"):
        registry.versions("tiny-locks")
    with pytest.raises(VersionNotFoundError, match=r"1\.0\.0"):
        resolve(registry, "tiny-lock@1.0.1")
    with pytest.raises(VersionNotFoundError, match="'newest'"):
        resolve(registry, "tiny-lock@newest")
    with pytest.raises(ArtifactNotFoundError, match=digest_of("nothing")):
        resolve(registry, digest_of("nothing"))


@pytest.mark.parametrize("text", ["hf://org/lock", "file:///dir#lock@1.0.0"])
def test_a_reference_to_another_place_is_not_looked_up_here(registry: Registry, text: str) -> None:
    with pytest.raises(UsageError, match="for the registry") as caught:
        resolve(registry, text)
    assert "safelatch publish DIR" in str(caught.value.hint)


def test_versions_for_a_base_are_the_newest_of_each_of_its_lines(registry: Registry) -> None:
    publish(registry, "b-lock", "1.0")
    publish(registry, "b-lock", "1.1")
    publish(registry, "a-mask", "3.0", kind="esi_mask")
    publish(registry, "other", "1.0", base="another")
    found = registry.versions_for_base(digest_of("base"))
    assert [version.label for version in found] == ["a-mask@3.0", "b-lock@1.1"]
    assert registry.versions_for_base("nonsense") == []


def test_lines_say_what_they_hold(registry: Registry) -> None:
    publish(registry, "lock", "1.0")
    newest = publish(registry, "lock", "1.1")
    registry.set_state(newest, "yanked", "why")
    (line,) = registry.lines()
    assert (line.name, line.kind, line.base_name) == ("lock", "safety_lock", "base")
    assert (line.newest, line.count, line.sequence) == ("1.0", 2, 0)


def test_one_changed_byte_in_any_stored_file_is_refused(registry: Registry) -> None:
    version = publish(registry, "lock", "1.0.0")
    files = registry.bundle_files(version)
    for path in sorted(registry._blobs.folder.glob("??/*")):
        good = path.read_bytes()
        bad = bytearray(good)
        bad[random.Random(0).randrange(len(bad))] ^= 1
        path.chmod(0o644)
        path.write_bytes(bad)
        with pytest.raises(DigestMismatchError, match=r"lock@1\.0\.0"):
            registry.bundle_files(version)
        path.write_bytes(good)
    assert registry.bundle_files(version) == files


def test_a_lost_file_is_put_back_by_publishing_again(registry: Registry) -> None:
    version = publish(registry, "lock", "1.0.0")
    manifest, files = make_bundle()
    registry._blobs.path(manifest.files["tensors.safetensors"].digest).unlink()
    with pytest.raises(CorruptStoreError, match=r"tensors\.safetensors"):
        registry.bundle_files(version)
    assert registry.add_version(manifest, files, base_name="base") == (version, False)
    assert registry.bundle_files(version) == files


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("tensors.safetensors", {"path": "../../x"}),
        ("manifest.json", {"path": "other.json"}),
    ],
)
def test_rows_that_were_changed_are_no_bundle(
    registry: Registry, path: str, change: dict[str, str]
) -> None:
    version = publish(registry, "lock", "1.0.0")
    with session.write(registry._engine) as connection:
        rows = update(version_files).where(version_files.c.path == path)
        connection.execute(rows.values(change))
    with pytest.raises(CorruptStoreError, match="expected plain file names"):
        registry.bundle_files(version)


def test_a_manifest_exchanged_for_another_stored_file_is_refused(registry: Registry) -> None:
    one = publish(registry, "lock", "1.0.0")
    two = publish(registry, "lock", "2.0.0", tensors=b"two")
    with session.write(registry._engine) as connection:
        rows = update(version_files).where(version_files.c.blob == one.digest)
        connection.execute(rows.values(blob=two.digest))
    with pytest.raises(CorruptStoreError, match=one.digest):
        registry.bundle_files(one)
