"""What comes out of a remote that an attacker may write to, or stands between: refused whole.

The attacker has the repository or the folder and the network, and keys of their own; not the
publisher's key, and not the user's machine. Whatever is refused leaves nothing: no base, no
version, no file, nothing in the client's cache. What may be left is the memory of a line that the
publisher did sign.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
from support.hub import (
    ALICE,
    Fault,
    client_at,
    extra_file,
    moved_ref,
    other_commit,
    other_size,
    renamed,
    serving,
    stale,
)
from support.refusals import refusal
from support.sharing import KEY, MALLORY, REPO, Place, copied, holdings, publisher_at, put
from support.signed import kept, line_of, make_site, signed

from registry.artifact.bundle import make_bundle
from registry.artifact.trust import signed_line
from registry.digest import canonical_json
from registry.errors import (
    ArtifactNotFoundError,
    DigestMismatchError,
    HubError,
    LineForkError,
    RemoteError,
    RevokedError,
    RollbackError,
    SchemaViolationError,
    SignatureError,
    UnsafeFormatError,
    UnsignedError,
    UntrustedKeyError,
    VersionConflictError,
    VersionNotFoundError,
)
from registry.reference import Reference
from registry.workflows.fetch import line_in
from registry.workflows.pull import pull
from registry.workflows.push import push_all
from registry.workflows.sign import Signer, change_state

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.hub import Hub

    from registry.store.catalog import Registry

LOCK = Reference.parse("lock")
OLD, NEW = "1.0.0", "1.1.0"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def published(site: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The publisher's registry, with lock@1.0.0 and lock@1.1.0."""
    folder = tmp_path_factory.mktemp("published")
    with publisher_at(folder / "publisher") as registry:
        put(registry, site, folder, OLD)
        put(registry, site, folder, NEW, alpha=0.5)
    return folder / "publisher"


@pytest.fixture
def publisher(published: Path, tmp_path: Path) -> Iterator[Registry]:
    with copied(published, tmp_path / "publisher") as registry:
        yield registry


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr("registry.remote.hub_remote.time.sleep", lambda _: None)
    with serving() as opened, client_at(opened.url, tmp_path / "hub-cache", ALICE):
        yield opened


@dataclass
class Victim:
    """Somebody who trusts the publisher for acme, and pulls."""

    registry: Registry
    place: Place
    home: Path
    cache: Path

    def pull(self, what: Reference | None = None) -> Any:
        return pull(self.registry, what or self.place.reference)

    def refused(self, kind: Any, *said: str, what: Reference | None = None) -> Any:
        """Pull, and check that it is refused with this error and leaves nothing."""
        before = self.left()
        error = refusal(kind, lambda: self.pull(what), *said)
        assert self.left() == before
        return error

    def left(self) -> Any:
        cached = [path for path in self.cache.rglob("*") if path.is_file()]
        return holdings(self.registry, self.home / "blobs"), cached


@pytest.fixture(params=["hub", "folder"])
def place(request: Any, publisher: Registry, tmp_path: Path) -> Place:
    """A remote with both versions of the publisher."""
    if request.param == "hub":
        made = Place(Reference("hf", location=REPO), request.getfixturevalue("hub"), None)
    else:
        made = Place(Reference.of_folder(tmp_path / "remote"), None, tmp_path / "remote")
    push_all(publisher, LOCK, made.remote)
    return made


@pytest.fixture
def victim(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Victim]:
    monkeypatch.setenv("SAFELATCH_LINES", str(tmp_path / "lines"))
    with publisher_at(tmp_path / "victim") as registry:
        yield Victim(registry, place, tmp_path / "victim", tmp_path / "hub-cache")


def flipped(data: bytes, at: int = -2) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


def path(name: str, version: str = NEW) -> str:
    return f"versions/{version}/{name}"


def stripped(envelope: bytes) -> bytes:
    return json.dumps({**json.loads(envelope), "signatures": []}).encode()


def forged(envelope: bytes) -> bytes:
    """Return the envelope with a signature of other bytes."""
    document = json.loads(envelope)
    signature = base64.b64decode(document["signatures"][0]["sig"])
    document["signatures"][0]["sig"] = base64.b64encode(flipped(signature)).decode()
    return json.dumps(document).encode()


# The line


def test_a_line_that_was_rolled_back_is_refused(
    victim: Victim, place: Place, publisher: Registry
) -> None:
    was = place.read("line.json")
    change_state(publisher, publisher.versions("lock")[0], "yanked", "weak", Signer([KEY]))
    push_all(publisher, LOCK, place.remote)
    victim.pull()
    place.attack({"line.json": was})
    victim.refused(RollbackError, "expected sequence 3 or later, which was seen here, got 2")


def test_a_stale_answer_is_not_taken_for_the_newest(
    hub: Hub, publisher: Registry, tmp_path: Path
) -> None:
    place = Place(Reference("hf", location=REPO), hub, None)
    push_all(publisher, LOCK, place.remote)
    replica = stale(hub, "/")
    change_state(publisher, publisher.versions("lock")[0], "revoked", "leaks", Signer([KEY]))
    push_all(publisher, LOCK, place.remote)
    with publisher_at(tmp_path / "victim") as registry:
        reader = Victim(registry, place, tmp_path / "victim", tmp_path / "hub-cache")
        reader.pull()
        hub.faults.append(replica)
        reader.refused(RollbackError)


def test_the_line_of_another_publisher_under_the_same_name_is_refused(
    victim: Victim, place: Place, site: Any
) -> None:
    theirs = signed(site.bundle(NEW, alpha=1.5), MALLORY)
    files = {path(name): data for name, data in theirs.files.items()}
    signature = {path("signature.json"): theirs.signature}
    place.attack({**files, **signature, "line.json": theirs.line})
    victim.refused(UntrustedKeyError, "line.json")


def test_their_line_is_a_fork_where_their_key_is_trusted_too(
    victim: Victim, place: Place, site: Any
) -> None:
    victim.pull()
    victim.registry.trust_key(MALLORY.key_id, namespaces=["acme/*"])
    bundle = site.bundle(NEW, alpha=1.5)
    theirs = signed(bundle, MALLORY, line=line_of(site.bundle(OLD, alpha=1.5), bundle))
    files = {path(name): data for name, data in theirs.files.items()}
    signature = {path("signature.json"): theirs.signature}
    place.attack({**files, **signature, "line.json": theirs.line})
    victim.refused(LineForkError, "two lines of one name")


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (stripped, UnsignedError),
        (forged, SignatureError),
        (lambda _: b"{}", UnsafeFormatError),
        (lambda _: b"", UnsafeFormatError),
        (lambda data: data[:-40], UnsafeFormatError),
        (lambda _: b"[" * 100_000, UnsafeFormatError),
    ],
)
def test_a_line_that_is_not_what_was_signed_is_refused(
    victim: Victim, place: Place, change: Any, kind: Any
) -> None:
    place.attack({"line.json": change(place.read("line.json"))})
    victim.refused(kind)


def test_a_line_in_which_a_revoked_version_came_back_is_refused(
    victim: Victim, place: Place, publisher: Registry
) -> None:
    """Somebody has the key, and does not continue what was seen."""
    change_state(publisher, publisher.versions("lock")[1], "revoked", "leaks", Signer([KEY]))
    push_all(publisher, LOCK, place.remote)
    victim.pull()
    line = line_in(place.read("line.json"))
    entry = replace(line.versions[OLD], state="active", reason=None)
    back = line.renewed(created=line.created, expires=None)
    back = replace(back, versions={**line.versions, OLD: entry})
    place.attack({"line.json": signed_line(back, [KEY])})
    victim.refused(VersionConflictError, "expected it to stay revoked")


def test_a_commit_that_names_a_version_that_was_revoked_since_is_refused(
    hub: Hub, publisher: Registry, tmp_path: Path
) -> None:
    place = Place(Reference("hf", location=REPO), hub, None)
    push_all(publisher, LOCK, place.remote)
    pinned = place.now().commit
    change_state(publisher, publisher.versions("lock")[0], "revoked", "leaks", Signer([KEY]))
    push_all(publisher, LOCK, place.remote)
    hub.log.clear()
    with publisher_at(tmp_path / "victim") as registry:
        reader = Victim(registry, place, tmp_path / "victim", tmp_path / "hub-cache")
        for revision in (pinned, NEW):  # a tag is no other thing
            what = Reference.parse(f"{place.reference}@{revision}")
            reader.refused(RevokedError, "leaks", what=what)
    assert hub.asked(f"GET /{REPO}/resolve/{hub.history(REPO)[0].sha}/line.json")
    assert not hub.asked(".safetensors")


# The version


@pytest.mark.parametrize("part", ["manifest.json", "tensors.safetensors", "base.safetensors"])
def test_a_flipped_bit_is_found(victim: Victim, place: Place, part: str) -> None:
    place.attack({path(part): flipped(place.read(path(part)))})
    victim.refused(DigestMismatchError, part)


def test_the_manifest_of_another_version_is_found(victim: Victim, place: Place) -> None:
    place.attack({path("manifest.json"): place.read(path("manifest.json", OLD))})
    victim.refused(DigestMismatchError, "manifest.json")


def test_the_record_of_another_base_is_found(victim: Victim, place: Place) -> None:
    other = place.read(path("base.safetensors"))
    place.attack({path("base.safetensors"): other[: len(other) // 2] * 2})
    victim.refused(DigestMismatchError, "base.safetensors")


@pytest.mark.parametrize("part", ["tensors.safetensors", "base.safetensors"])
def test_a_file_that_is_longer_than_was_signed_is_not_read(
    victim: Victim, place: Place, part: str
) -> None:
    place.attack({path(part): place.read(path(part)) + b"x"})
    victim.refused(UnsafeFormatError, part, "expected at most")


def test_a_manifest_of_the_attackers_own_needs_a_line_of_the_publishers(
    victim: Victim, place: Place, site: Any
) -> None:
    theirs = make_bundle(
        site.bundle(NEW, alpha=1.5).manifest, site.draft.tensors(), site.draft.base_tensors()
    )
    place.attack({path(name): data for name, data in theirs.files.items()})
    victim.refused(DigestMismatchError, "manifest.json")


@pytest.mark.parametrize(("change", "kind"), [(stripped, UnsignedError), (forged, SignatureError)])
def test_a_signature_that_is_none_is_refused(
    victim: Victim, place: Place, change: Any, kind: Any
) -> None:
    place.attack({path("signature.json"): change(place.read(path("signature.json")))})
    victim.refused(kind, "signature.json")


def test_the_signature_of_another_version_is_refused(victim: Victim, place: Place) -> None:
    place.attack({path("signature.json"): place.read(path("signature.json", OLD))})
    victim.refused(SignatureError, "one of another manifest")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("line.json", UnsignedError),
        (path("signature.json"), UnsignedError),
        (path("manifest.json"), RemoteError),
        (path("tensors.safetensors"), RemoteError),
        (path("base.safetensors"), RemoteError),
    ],
)
def test_a_file_that_was_taken_away_is_missed(
    hub: Hub, publisher: Registry, tmp_path: Path, name: str, kind: Any
) -> None:
    place = Place(Reference("hf", location=REPO), hub, None)
    push_all(publisher, LOCK, place.remote)
    place.attack({name: None})
    with publisher_at(tmp_path / "victim") as registry:
        reader = Victim(registry, place, tmp_path / "victim", tmp_path / "hub-cache")
        reader.refused(kind, name.rpartition("/")[2])


def test_a_version_that_is_yanked_comes_only_when_it_is_named(
    victim: Victim, place: Place, publisher: Registry
) -> None:
    for version in publisher.versions("lock"):
        change_state(publisher, version, "yanked", "too weak", Signer([KEY]))
    push_all(publisher, LOCK, place.remote)
    error = victim.refused(
        VersionNotFoundError, "expected an active version of lock, got 1.1.0 yanked, 1.0.0 yanked"
    )
    assert error.hint == f"A yanked one must be named: {place.remote.url}#lock@1.1.0"
    assert victim.pull(place.at(NEW)).version.state == "yanked"


# The listing


def test_files_that_nobody_asked_for_are_not_read(victim: Victim, place: Place) -> None:
    place.attack({
        "evil.pkl": b"\x80\x04", "versions/1.1.0/evil.py": b"import os", "versions/9/x": b"",
        "line.json.bak": b"x",
    })  # fmt: skip
    victim.pull()
    assert sorted(victim.registry.bundle_files(victim.registry.versions("lock")[0])) == [
        "base.safetensors", "manifest.json", "tensors.safetensors",
    ]  # fmt: skip
    if place.hub:
        assert not place.hub.asked("evil")
        assert not place.hub.asked("bak")


@pytest.fixture
def at_hub(hub: Hub, publisher: Registry, tmp_path: Path) -> Iterator[Victim]:
    """The victim of a repository on the hub."""
    place = Place(Reference("hf", location=REPO), hub, None)
    push_all(publisher, LOCK, place.remote)
    hub.log.clear()
    with publisher_at(tmp_path / "victim") as registry:
        yield Victim(registry, place, tmp_path / "victim", tmp_path / "hub-cache")


@pytest.mark.parametrize("name", ["../../escape.json", "/etc/passwd", "a\\..\\b", "versions/../x"])
def test_a_name_that_leads_elsewhere_is_no_file_of_ours(
    at_hub: Victim, hub: Hub, tmp_path: Path, name: str
) -> None:
    hub.faults.append(extra_file(name))
    at_hub.pull()
    assert not hub.asked("escape")
    assert not list(tmp_path.rglob("escape*"))


def test_a_file_that_is_listed_under_such_a_name_is_missed(at_hub: Victim, hub: Hub) -> None:
    hub.faults.append(renamed(path("tensors.safetensors"), "../../tensors.safetensors"))
    at_hub.refused(RemoteError, "tensors.safetensors")


@pytest.mark.parametrize(
    "name",
    ["line.json", path("manifest.json"), path("signature.json"), path("tensors.safetensors")],
)
def test_a_file_that_is_said_to_be_huge_is_not_asked_for(
    at_hub: Victim, hub: Hub, name: str
) -> None:
    hub.faults.append(other_size(name, 1 << 40))
    at_hub.refused(UnsafeFormatError, "got 1,099,511,627,776")
    assert not hub.asked(f"/{name}")


def test_large_files_of_somebody_whom_nobody_trusts_are_not_asked_for(
    at_hub: Victim, hub: Hub, site: Any
) -> None:
    theirs = signed(site.bundle(NEW, alpha=1.5), MALLORY)
    files = {path(name): data for name, data in theirs.files.items()}
    signature = {path("signature.json"): theirs.signature}
    at_hub.place.attack({**files, **signature, "line.json": theirs.line})
    at_hub.refused(UntrustedKeyError)
    assert hub.asked("manifest.json")
    assert not hub.asked(".safetensors")


@pytest.mark.parametrize("part", ["line.json", "manifest.json", "tensors.safetensors"])
def test_bytes_that_changed_on_the_way_are_found(at_hub: Victim, hub: Hub, part: str) -> None:
    hub.faults.append(Fault(part, flip_at=60))
    error = at_hub.refused(
        {
            "line.json": UnsafeFormatError,
            "manifest.json": DigestMismatchError,
            "tensors.safetensors": HubError,  # whose SHA-256 the hub states
        }[part]
    )
    assert error.exit_code in {3, 4}


def test_an_answer_of_another_commit_is_refused(at_hub: Victim, hub: Hub) -> None:
    hub.faults.append(other_commit("e" * 40))
    at_hub.refused(HubError, "the Hub answered with " + "e" * 40)


@pytest.mark.parametrize("nth", range(1, 7))
@pytest.mark.parametrize("revision", [None, NEW, "main"])
def test_a_branch_or_tag_that_moves_between_two_requests_mixes_nothing(
    at_hub: Victim, hub: Hub, publisher: Registry, nth: int, revision: str | None
) -> None:
    """What is read is whole: of the commit before, or of the one after."""
    before, tagged = hub.history(REPO)[0].sha, hub.repos[REPO].tags[NEW]
    change_state(publisher, publisher.versions("lock")[1], "yanked", "weak", Signer([KEY]))
    push_all(publisher, LOCK, at_hub.place.remote)
    after = hub.history(REPO)[0].sha
    hub.repos[REPO].branches["main"] = before
    hub.faults.append(moved_ref(REPO, revision or "main", after, "GET ", nth=nth))
    at = f"@{revision}" if revision else ""
    done = at_hub.pull(Reference.parse(f"{at_hub.place.reference}{at}"))
    assert done.version.label == "lock@1.1.0"
    asked = {each.path.split("/")[4] for each in hub.asked("/resolve/")}
    assert asked <= {before, after, tagged}
    bundle = kept(publisher, NEW)
    assert at_hub.registry.bundle_files(done.version) == dict(bundle.files)


# Something else


@pytest.mark.parametrize("is_made", [False, True])
def test_an_empty_place_is_told(hub: Hub, tmp_path: Path, is_made: bool) -> None:
    if is_made:
        hub.create(REPO)
    place = Place(Reference("hf", location=REPO), hub, None)
    with publisher_at(tmp_path / "victim") as registry:
        reader = Victim(registry, place, tmp_path / "victim", tmp_path / "hub-cache")
        if is_made:
            reader.refused(UnsignedError, "hf://alice/lock: expected line.json at commit")
        else:
            error = reader.refused(ArtifactNotFoundError, "expected a line of artifacts at")
            assert error.hint == "Put one there: safelatch push NAME hf://alice/lock"


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "remote").mkdir()
    place = Place(Reference.of_folder(tmp_path / "remote"), None, tmp_path / "remote")
    with publisher_at(tmp_path / "victim") as registry:
        reader = Victim(registry, place, tmp_path / "victim", tmp_path / "hub-cache")
        reader.refused(ArtifactNotFoundError, "expected a line of artifacts at", "found nothing")


def test_a_model_is_no_line(hub: Hub, site: Any, tmp_path: Path) -> None:
    hub.add(REPO, site.tune)
    place = Place(Reference("hf", location=REPO), hub, None)
    with publisher_at(tmp_path / "victim") as registry:
        reader = Victim(registry, place, tmp_path / "victim", tmp_path / "hub-cache")
        reader.refused(UnsignedError, "expected line.json")
    assert not hub.asked("/resolve/")


def test_another_line_than_the_one_that_was_named_is_refused(victim: Victim, place: Place) -> None:
    error = victim.refused(
        VersionConflictError,
        f"{place.remote.url}: expected the line key, it holds lock.",
        what=Reference.parse(f"{place.reference}#key@1.0.0"),
    )
    assert error.hint == f"Name it as what it is: {place.remote.url}#lock"


@pytest.mark.parametrize("version", ["9", "not-a-version", "1.0.0.post1"])
def test_a_version_that_is_not_there_is_told(victim: Victim, place: Place, version: str) -> None:
    victim.refused(
        VersionNotFoundError,
        f"expected a version of lock (1.1.0, 1.0.0), got '{version}'",
        what=Reference.parse(f"{place.reference}#lock@{version}"),
    )


@pytest.mark.parametrize(
    "member", [{"name": "../../etc"}, {"versions": {"../../x": {}}}, {"sequence": 10**30}]
)
def test_a_line_of_nonsense_is_refused_before_anything_else_is_asked(
    at_hub: Victim, hub: Hub, member: dict[str, Any]
) -> None:
    envelope = json.loads(at_hub.place.read("line.json"))
    document = {**json.loads(base64.b64decode(envelope["payload"])), **member}
    try:
        payload = canonical_json(document)
    except ValueError:
        payload = json.dumps(document).encode()
    envelope["payload"] = base64.b64encode(payload).decode()
    at_hub.place.attack({"line.json": json.dumps(envelope).encode()})
    hub.log.clear()
    before = at_hub.left()
    with pytest.raises((SchemaViolationError, UnsafeFormatError)):
        at_hub.pull()
    assert at_hub.left() == before
    assert not hub.asked("manifest.json")
