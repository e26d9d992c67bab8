"""Pull: what comes, what comes the second time, and into which registries."""

from __future__ import annotations

import pytest
from support.hub import ALICE, Fault, client_at, serving
from support.sharing import KEY, REPO, Place, copied, holdings, publisher_at, put
from support.signed import kept, make_site

from registry.artifact.bundle import write_bundle
from registry.errors import (
    HubError,
    RevokedError,
    StoreError,
    UnsignedError,
    UsageError,
    VersionConflictError,
    VersionNotFoundError,
)
from registry.reference import Reference
from registry.store.catalog import Registry
from registry.workflows.publish import publish, receive
from registry.workflows.pull import pull
from registry.workflows.push import push_all
from registry.workflows.sign import Signer, change_state

LOCK = Reference.parse("lock")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return make_site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def published(site, tmp_path_factory):
    """A publisher's registry with lock@1.0.0 and lock@1.1.0."""
    folder = tmp_path_factory.mktemp("published")
    with publisher_at(folder / "publisher") as registry:
        put(registry, site, folder, "1.0.0")
        put(registry, site, folder, "1.1.0", alpha=0.5)
    return folder / "publisher"


@pytest.fixture
def publisher(published, tmp_path):
    with copied(published, tmp_path / "publisher") as registry:
        yield registry


@pytest.fixture
def hub(tmp_path):
    with serving() as opened, client_at(opened.url, tmp_path / "hub-cache", ALICE):
        yield opened


@pytest.fixture(params=["hub", "folder"])
def place(request, publisher, tmp_path):
    if request.param == "hub":
        made = Place(Reference("hf", location=REPO), request.getfixturevalue("hub"), None)
    else:
        made = Place(Reference.of_folder(tmp_path / "remote"), None, tmp_path / "remote")
    push_all(publisher, LOCK, made.remote)
    return made


@pytest.fixture
def reader(tmp_path):
    with publisher_at(tmp_path / "reader") as registry:
        yield registry


def test_what_was_pulled_is_what_was_published(publisher, place, reader):
    done = pull(reader, place.reference)
    mine, theirs = kept(reader, "1.1.0"), kept(publisher, "1.1.0")
    assert (dict(mine.files), mine.signature, mine.line) == (
        dict(theirs.files), theirs.signature, theirs.line
    )  # fmt: skip
    assert (done.is_new, done.url, done.commit) == (True, place.remote.url, place.now().commit)
    assert (done.version.label, done.version.key_id) == ("lock@1.1.0", KEY.key_id)
    assert reader.base("acme/base").weights == publisher.bases()[0].weights
    assert reader.base_record_bytes(reader.bases()[0]) == theirs.files["base.safetensors"]
    (event,) = (dict(e.detail) for e in reader.events() if e.action == "version.publish")
    assert event["digest"] == done.version.digest
    assert (event["remote"], event["commit"]) == (place.remote.url, done.commit)


def test_a_reader_passes_it_on_unchanged(publisher, place, reader, tmp_path):
    pull(reader, place.reference)
    second = Reference.of_folder(tmp_path / "second")
    push_all(reader, LOCK, Place(second, None, None).remote)
    with publisher_at(tmp_path / "third") as third:
        assert pull(third, second).version.digest == publisher.versions("lock")[0].digest


def test_the_same_again_is_no_news(place, reader, tmp_path):
    first = pull(reader, place.reference)
    before = holdings(reader, tmp_path / "reader"), len(reader.events())
    again = pull(reader, place.reference)
    assert (again.is_new, again.version) == (False, first.version)
    assert (holdings(reader, tmp_path / "reader"), len(reader.events())) == before


def test_an_older_version_comes_after_a_newer_one(place, reader):
    pull(reader, place.reference)
    assert pull(reader, place.at("1.0")).version.label == "lock@1.0.0"
    assert [each.version for each in reader.versions("lock")] == ["1.1.0", "1.0.0"]


def test_a_newer_line_alone_changes_the_states(publisher, place, reader):
    pull(reader, place.reference)
    pull(reader, place.at("1.0.0"))
    change_state(publisher, publisher.versions("lock")[0], "yanked", "weak", Signer([KEY]))
    push_all(publisher, LOCK, place.remote)
    done = pull(reader, place.reference)
    assert (done.version.label, done.is_new) == ("lock@1.0.0", False)
    assert [each.state for each in reader.versions("lock")] == ["yanked", "active"]
    assert reader.line_bytes("lock") == publisher.line_bytes("lock")


def test_what_was_revoked_meanwhile_is_revoked_here_too(publisher, place, reader):
    pull(reader, place.reference)
    for version in publisher.versions("lock"):
        change_state(publisher, version, "revoked", "leaks", Signer([KEY]))
    push_all(publisher, LOCK, place.remote)
    with pytest.raises(VersionNotFoundError, match=r"got 1\.1\.0 revoked, 1\.0\.0 revoked"):
        pull(reader, place.reference)
    for _ in range(2):
        with pytest.raises(RevokedError, match="leaks"):
            pull(reader, place.at("1.1.0"))
        assert reader.versions("lock")[0].state == "revoked"


def test_into_a_registry_that_has_the_line_unsigned_the_signatures_come(
    site, publisher, place, tmp_path
):
    with Registry.create(str(tmp_path / "unsigned" / "registry.db")) as registry:
        write_bundle(kept(publisher, "1.1.0").named("lock", "1.1.0"), tmp_path / "bare")
        publish(registry, tmp_path / "bare", name="lock", version="1.1.0")
        assert registry.versions("lock")[0].key_id is None
        registry.trust_key(KEY.key_id, namespaces=["acme/*"])
        done = pull(registry, place.reference)
        assert (done.is_new, done.version.key_id) == (False, KEY.key_id)
        assert registry.line_bytes("lock") == publisher.line_bytes("lock")


def test_other_content_under_a_version_is_a_conflict(site, place, tmp_path):
    with Registry.create(str(tmp_path / "unsigned" / "registry.db")) as registry:
        write_bundle(site.bundle("1.1.0", alpha=1.25), tmp_path / "other")
        publish(registry, tmp_path / "other", name="lock", version="1.1.0")
        before = registry.versions("lock")
        registry.trust_key(KEY.key_id, namespaces=["acme/*"])
        with pytest.raises(VersionConflictError, match=r"lock@1\.1\.0: expected blake3:"):
            pull(registry, place.reference)
        assert registry.versions("lock") == before


def test_a_name_that_is_taken_for_another_lines_is_refused(site, place, tmp_path):
    with publisher_at(tmp_path / "reader2") as registry:
        write_bundle(site.draft, tmp_path / "draft")
        publish(registry, tmp_path / "draft", name="l-ock", version="1", signer=Signer([KEY]))
        pull(registry, place.reference)  # lock is no l-ock
    with publisher_at(tmp_path / "reader3") as registry:
        write_bundle(site.draft, tmp_path / "draft3")
        publish(registry, tmp_path / "draft3", name="my-lock", version="1", signer=Signer([KEY]))
        other = Reference.of_folder(tmp_path / "twin")
        with publisher_at(tmp_path / "twin-publisher") as twin:
            publish(twin, tmp_path / "draft3", name="my.lock", version="1", signer=Signer([KEY]))
            push_all(twin, Reference.parse("my.lock"), Place(other, None, None).remote)
        with pytest.raises(UsageError, match="taken for no other line's"):
            pull(registry, other)


def test_a_registry_that_can_only_be_read_is_told_before_anything_is_asked(
    place, reader, tmp_path, monkeypatch
):
    reader.close()
    monkeypatch.setattr("registry.store.sqlite_file._may_write", lambda _: False)
    if place.hub:
        place.hub.log.clear()
    with Registry.open(str(tmp_path / "reader" / "registry.db")) as registry:
        with pytest.raises(StoreError) as caught:
            pull(registry, place.reference)
        assert caught.value.message == (
            f"expected a registry that can be written at {registry.location}, it is read-only."
        )
    assert caught.value.hint == "Pull into another one: safelatch --db PATH init"
    assert not place.hub or not place.hub.log


def test_a_registry_that_can_only_be_read_can_be_pushed_from(
    publisher, place, tmp_path, monkeypatch
):
    publisher.close()
    monkeypatch.setattr("registry.store.sqlite_file._may_write", lambda _: False)
    with Registry.open(str(tmp_path / "publisher" / "registry.db")) as registry:
        second = Place(Reference.of_folder(tmp_path / "second"), None, None)
        assert [each.plan.is_new for each in push_all(registry, LOCK, second.remote)] == [True] * 2


def test_a_bundle_that_nobody_signed_is_not_received(site, tmp_path):
    with Registry.create(str(tmp_path / "open" / "registry.db")) as registry:
        with pytest.raises(UnsignedError):
            receive(registry, site.bundle("1.0.0"))
        assert registry.lines() == []
        assert registry.bases() == []


def test_what_is_asked_of_the_hub_is_the_line_and_one_version(publisher, hub, reader):
    place = Place(Reference("hf", location=REPO), hub, None)
    push_all(publisher, LOCK, place.remote)
    hub.log.clear()
    pull(reader, place.reference)
    sha = hub.history(REPO)[0].sha
    files = ["manifest.json", "signature.json", "tensors.safetensors", "base.safetensors"]
    lines = [each.line for each in hub.log if "agent-harnesses" not in each.line]
    assert lines == [
        f"GET /api/models/{REPO}?blobs=true",
        f"GET /{REPO}/resolve/{sha}/line.json",
        *(f"GET /{REPO}/resolve/{sha}/versions/1.1.0/{name}" for name in files),
    ]


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
def test_a_hub_that_refuses_is_told_and_leaves_nothing(
    publisher, hub, reader, tmp_path, status, monkeypatch
):
    monkeypatch.setattr("registry.remote.hub_remote.time.sleep", lambda _: None)
    place = Place(Reference("hf", location=REPO), hub, None)
    push_all(publisher, LOCK, place.remote)
    before = holdings(reader, tmp_path / "reader")
    hub.faults.append(Fault("tensors.safetensors", status))
    with pytest.raises(HubError):
        pull(reader, place.reference)
    assert holdings(reader, tmp_path / "reader")["versions"] == before["versions"]
    hub.faults.clear()
    assert pull(reader, place.reference).is_new
