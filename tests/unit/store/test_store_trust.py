from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from support.store_builders import (
    digest_of,
    key_of,
    make_bundle,
    make_line,
    make_record,
    publish,
)

from registry.errors import (
    CorruptStoreError,
    DigestMismatchError,
    StoreError,
    UsageError,
    VersionConflictError,
)
from registry.store import session
from registry.store.tables import versions as version_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from registry.store.catalog import Registry
    from registry.store.values import SignedLine, Version

BASE = digest_of("base")


def events_of(registry: Registry, *actions: str) -> list[str]:
    return [event.action for event in registry.events() if event.action in actions]


def state_of(registry: Registry) -> object:
    """Return all that a refused change must leave as it was."""
    versions = [v for line in registry.lines() for v in registry.versions(line.name)]
    signatures = [registry.signature_bytes(version) for version in versions]
    return registry.lines(), versions, signatures, registry.line_heads(), registry.events()


# The head of a line


def test_the_first_document_of_a_line_is_remembered(registry: Registry) -> None:
    line = make_line(sequence=3)
    assert registry.line_head("lock", BASE) is None
    assert registry.remember_line(line, follows=None)
    head = registry.line_head("lock", BASE)
    assert head is not None
    assert (head.sequence, head.digest, head.key_ids) == (3, line.digest, (key_of("key"),))
    assert (head.document, head.seen_at.utcoffset()) == (line.document, dt.timedelta(0))
    assert registry.line_heads() == [head]
    event = registry.events()[-1]
    assert (event.action, event.subject) == ("line.accept", "lock")
    assert event.detail == {
        "name": "lock", "base": BASE, "sequence": 3, "digest": line.digest,
        "key_ids": [key_of("key")],
    }  # fmt: skip


def test_the_same_document_again_is_no_change_and_no_event(registry: Registry) -> None:
    line = make_line()
    registry.remember_line(line, follows=None)
    before = state_of(registry)
    assert not registry.remember_line(line, follows=None)
    assert not registry.remember_line(line, follows=digest_of("whatever"))
    assert state_of(registry) == before


def test_the_same_document_with_another_key_is_vouched_for_by_both(registry: Registry) -> None:
    one, two = make_line(keys=("one",)), make_line(keys=("two", "two"))
    registry.remember_line(one, follows=None)
    (before,) = registry.line_heads()
    assert not registry.remember_line(two, follows=digest_of("whatever"))
    both = tuple(sorted([key_of("one"), key_of("two")]))
    assert registry.line_heads() == [replace(before, key_ids=both)]
    event = registry.events()[-1]
    assert (event.action, event.detail["key_ids"]) == ("line.accept", list(both))
    known = state_of(registry)
    for line in (one, two, make_line(keys=("two", "one"))):
        assert not registry.remember_line(line, follows=None)
    assert state_of(registry) == known


def test_what_follows_is_vouched_for_by_its_own_keys_alone(registry: Registry) -> None:
    first = make_line(keys=("one", "two"))
    registry.remember_line(first, follows=None)
    registry.remember_line(make_line(sequence=2, keys=("one",)), follows=first.digest)
    (head,) = registry.line_heads()
    assert (head.sequence, head.key_ids) == (2, (key_of("one"),))


def test_another_key_of_a_line_in_force_leaves_its_envelope(registry: Registry) -> None:
    publish_signed(registry)
    assert not registry.remember_line(make_line(keys=("other",)), follows=None)
    assert len(registry.line_heads()[0].key_ids) == 2
    assert registry.line_bytes("lock") == make_line().envelope


def test_a_head_moves_to_what_follows_it(registry: Registry) -> None:
    one, two = make_line(sequence=1), make_line(sequence=2)
    registry.remember_line(one, follows=None)
    assert registry.remember_line(two, follows=one.digest)
    (head,) = registry.line_heads()
    assert (head.sequence, head.digest) == (2, two.digest)


def test_lines_of_one_name_and_two_bases_have_a_head_each(registry: Registry) -> None:
    registry.remember_line(make_line(sequence=5), follows=None)
    registry.remember_line(make_line(sequence=1, base="other"), follows=None)
    assert sorted(head.sequence for head in registry.line_heads()) == [1, 5]


@pytest.mark.parametrize(
    ("line", "follows"),
    [
        (make_line(sequence=1), None),  # a rollback by whoever saw no head
        (make_line(sequence=3), None),
        (make_line(sequence=2, tag=" fork"), make_line(sequence=1).digest),
        (make_line(sequence=3), make_line(sequence=1).digest),  # the head moved meanwhile
        (make_line(sequence=2, tag=" fork"), make_line(sequence=2).digest),
        (make_line(sequence=1), make_line(sequence=2).digest),
    ],
    ids=["rollback", "unseen", "fork", "raced", "same sequence", "lower sequence"],
)
def test_a_document_that_does_not_follow_the_head_is_refused(
    registry: Registry, line: SignedLine, follows: str | None
) -> None:
    one, two = make_line(sequence=1), make_line(sequence=2)
    registry.remember_line(one, follows=None)
    registry.remember_line(two, follows=one.digest)
    before = state_of(registry)
    with pytest.raises(VersionConflictError) as caught:
        registry.remember_line(line, follows=follows)
    assert str(caught.value) == (
        f"line 'lock': expected a document that follows sequence 2 ({two.digest}), got sequence "
        f"{line.sequence}, which follows {follows or 'none'}.\n"
        "Somebody else changed the line meanwhile: run the same again."
    )
    assert state_of(registry) == before


def test_a_document_whose_head_was_forgotten_meanwhile_is_refused(registry: Registry) -> None:
    with pytest.raises(VersionConflictError) as caught:
        registry.remember_line(make_line(sequence=2), follows=make_line().digest)
    assert caught.value.message == (
        f"line 'lock': expected the document {make_line().digest} before sequence 2, found none."
    )
    assert registry.line_heads() == []


def test_a_document_of_another_digest_is_refused(registry: Registry) -> None:
    with pytest.raises(DigestMismatchError, match="line of lock"):
        registry.remember_line(replace(make_line(), document=b"other"), follows=None)
    assert registry.line_heads() == []


def test_a_line_that_is_not_published_here_leaves_no_file(registry: Registry) -> None:
    registry.remember_line(make_line("elsewhere"), follows=None)
    assert not registry._blobs.folder.exists() or not list(registry._blobs.folder.glob("??/*"))
    assert registry.line_bytes("elsewhere") is None


def test_a_known_line_is_remembered_where_nothing_can_be_written(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = make_line()
    registry.remember_line(line, follows=None)
    monkeypatch.setattr(session, "is_read_only", lambda _: True)
    for known in (line, make_line(keys=("key", "other"))):
        assert not registry.remember_line(known, follows=None)
    assert registry.line_heads()[0].key_ids == line.key_ids
    with pytest.raises(StoreError, match="it is read-only"):
        registry.remember_line(make_line(sequence=2), follows=line.digest)


# Signed versions


def publish_signed(registry: Registry, version: str = "1.0.0", sequence: int = 1) -> Version:
    registry.add_base("base", make_record(), b"record of base")
    manifest, files = make_bundle("lock", version, tensors=version.encode())
    line = make_line(sequence=sequence)
    head = registry.line_head("lock", BASE)
    published, is_new = registry.add_version(
        manifest, files, base_name="base", signature=f"signature of {version}".encode(),
        key_id=line.key_ids[0], line=line, follows=None if head is None else head.digest,
    )  # fmt: skip
    assert is_new
    return published


def test_a_signed_version_and_its_line_come_back_with_their_bytes(registry: Registry) -> None:
    version = publish_signed(registry)
    assert version.key_id == key_of("key")
    assert registry.signature_bytes(version) == b"signature of 1.0.0"
    assert registry.line_bytes("lock") == make_line().envelope
    assert [line.sequence for line in registry.lines()] == [1]
    assert registry.versions("lock") == [version]
    publish_event, line_event = registry.events()[-2:]
    assert (publish_event.action, line_event.action) == ("version.publish", "line.accept")
    assert publish_event.detail["key_id"] == key_of("key")
    second = publish_signed(registry, "2.0.0", 2)
    assert registry.line_bytes("lock") == make_line(sequence=2).envelope
    assert registry.signature_bytes(second) == b"signature of 2.0.0"
    assert registry.signature_bytes(version) == b"signature of 1.0.0"


def test_an_unsigned_version_has_neither(registry: Registry) -> None:
    version = publish(registry, "lock", "1.0.0")
    assert registry.signature_bytes(version) is None
    assert registry.line_bytes("lock") is None
    assert registry.line_bytes("nowhere") is None


def _publish_second(registry: Registry, line: SignedLine, follows: str | None) -> None:
    manifest, files = make_bundle("lock", "2.0.0", tensors=b"two")
    registry.add_version(
        manifest, files, base_name="base", signature=b"second", key_id=line.key_ids[0],
        line=line, follows=follows,
    )  # fmt: skip


def _sign_first(registry: Registry, line: SignedLine, follows: str | None) -> None:
    (version,) = registry.versions("lock")
    registry.sign_version(version, b"another", key_of("other"), line, follows)


def _yank_first(registry: Registry, line: SignedLine, follows: str | None) -> None:
    (version,) = registry.versions("lock")
    registry.set_state(version, "yanked", "why", line=line, follows=follows)


def _revoke_first(registry: Registry, line: SignedLine, follows: str | None) -> None:
    states = {"1.0.0": ("revoked", "why")}
    registry.apply_states("lock", states, line=line, follows=follows)


@pytest.mark.parametrize("change", [_publish_second, _sign_first, _yank_first, _revoke_first])
def test_of_a_change_and_its_line_both_happen_or_neither(
    registry: Registry, change: Callable[[Registry, SignedLine, str | None], None]
) -> None:
    publish_signed(registry)
    before = state_of(registry)
    for line, follows in (
        (make_line(sequence=2), None),
        (make_line(sequence=2), digest_of("another head")),
        (make_line(sequence=1, tag=" fork"), make_line().digest),
    ):
        with pytest.raises(VersionConflictError, match="expected a document that follows"):
            change(registry, line, follows)
        assert state_of(registry) == before
    change(registry, make_line(sequence=2), make_line().digest)
    assert registry.line_bytes("lock") == make_line(sequence=2).envelope
    assert [line.sequence for line in registry.lines()] == [2]


@pytest.mark.parametrize("change", [_publish_second, _sign_first, _yank_first, _revoke_first])
@pytest.mark.parametrize("line", [make_line("other", 2), make_line("lock", 2, base="other")])
def test_the_line_of_something_else_is_refused(
    registry: Registry,
    line: SignedLine,
    change: Callable[[Registry, SignedLine, str | None], None],
) -> None:
    publish_signed(registry)
    before = state_of(registry)
    if change is _revoke_first and line.name == "lock":
        change(registry, line, None)  # another line of that name: its states are not ours
        assert registry.versions("lock")[0].state == "active"
        assert registry.line_bytes("lock") == make_line().envelope
        return
    with pytest.raises(VersionConflictError, match="expected the signed line of 'lock' on"):
        change(registry, line, None)
    assert state_of(registry) == before


def test_a_signature_without_its_key_is_a_mistake(registry: Registry) -> None:
    registry.add_base("base", make_record(), b"record of base")
    manifest, files = make_bundle()
    for half in ({"signature": b"x"}, {"key_id": key_of("key")}):
        with pytest.raises(TypeError, match="together"):
            registry.add_version(manifest, files, base_name="base", **half)


def test_a_published_version_is_signed_later(registry: Registry) -> None:
    version = publish(registry, "lock", "1.0.0")
    line = make_line()
    signed = registry.sign_version(version, b"signature", line.key_ids[0], line)
    assert signed == replace(version, key_id=line.key_ids[0])
    assert registry.signature_bytes(version) == b"signature"
    assert registry.line_bytes("lock") == line.envelope
    assert [event.action for event in registry.events()][-2:] == ["version.sign", "line.accept"]
    before = state_of(registry)
    assert registry.sign_version(version, b"signature", line.key_ids[0], line) == signed
    assert state_of(registry) == before
    other = registry.sign_version(version, b"by another key", key_of("other"))
    assert other.key_id == key_of("other")
    assert registry.signature_bytes(version) == b"by another key"


def test_publishing_again_with_a_signature_signs_what_is_there(registry: Registry) -> None:
    version = publish(registry, "lock", "1.0.0")
    manifest, files = make_bundle("lock", "1.0.0")
    line = make_line()
    signed, is_new = registry.add_version(
        manifest, files, base_name="base", signature=b"s", key_id=line.key_ids[0], line=line
    )
    assert (signed, is_new) == (replace(version, key_id=line.key_ids[0]), False)
    assert events_of(registry, "version.publish", "version.sign") == [
        "version.publish", "version.sign",
    ]  # fmt: skip


def test_a_line_seen_before_it_is_published_here_is_put_in_force(registry: Registry) -> None:
    registry.remember_line(make_line(), follows=None)
    publish_signed(registry)
    assert registry.line_bytes("lock") == make_line().envelope
    assert events_of(registry, "line.accept") == ["line.accept"]


def test_a_newer_line_seen_elsewhere_is_the_one_in_force_here(registry: Registry) -> None:
    publish_signed(registry)
    two = make_line(sequence=2)
    registry.remember_line(two, follows=make_line().digest)
    assert registry.line_bytes("lock") == two.envelope
    assert [line.sequence for line in registry.lines()] == [2]


def test_garbage_collection_leaves_signatures_and_lines(registry: Registry) -> None:
    version = publish_signed(registry)
    registry.remember_line(make_line(sequence=2), follows=make_line().digest)
    leftover = registry._blobs.put(b"nobody's")
    (removed,) = registry.collect_garbage(dt.timedelta(0)).removed
    assert removed.digest == leftover
    assert registry.signature_bytes(version) == b"signature of 1.0.0"
    assert registry.line_bytes("lock") == make_line(sequence=2).envelope


def test_an_envelope_collected_while_it_is_published_is_put_back(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = publish(registry, "lock", "1.0.0")
    put = type(registry)._put

    def put_and_lose(*args: object, **options: object) -> None:
        put(*args, **options)  # type: ignore[arg-type]
        registry.collect_garbage(dt.timedelta(0))

    monkeypatch.setattr(type(registry), "_put", put_and_lose)
    registry.sign_version(version, b"signature", key_of("key"), make_line())
    assert registry.signature_bytes(version) == b"signature"
    assert registry.line_bytes("lock") == make_line().envelope


def test_a_changed_or_lost_envelope_is_refused(registry: Registry) -> None:
    version = publish_signed(registry)
    for read in (lambda: registry.signature_bytes(version), lambda: registry.line_bytes("lock")):
        data = read()
        assert data is not None
        path = registry._blobs.path(registry._blobs.put(data))
        path.chmod(0o644)
        path.write_bytes(data[:-1] + b"!")
        with pytest.raises(DigestMismatchError, match="lock"):
            read()
        path.unlink()
        with pytest.raises(CorruptStoreError, match="lock"):
            read()


def test_a_signature_must_have_been_stored(registry: Registry) -> None:
    version = publish(registry, "lock", "1.0.0")
    with pytest.raises(StoreError), session.write(registry._engine) as connection:
        connection.execute(version_rows.update().values(signature_blob=digest_of("nothing")))
    assert registry.signature_bytes(version) is None


# States


def test_a_state_and_its_line_are_one_change(registry: Registry) -> None:
    version = publish_signed(registry)
    two, three = make_line(sequence=2), make_line(sequence=3)
    yanked = registry.set_state(version, "yanked", line=two, follows=make_line().digest)
    assert (yanked.state, yanked.state_reason) == ("yanked", None)
    with pytest.raises(UsageError, match="expected a reason"):
        registry.set_state(version, "revoked", line=three, follows=two.digest)
    revoked = registry.set_state(version, "revoked", "why", line=three, follows=two.digest)
    assert revoked.state == "revoked"
    assert registry.line_bytes("lock") == three.envelope
    changes = ["version.yank", "version.revoke", "line.accept"]
    assert events_of(registry, *changes) == [
        "line.accept", "version.yank", "line.accept", "version.revoke", "line.accept",
    ]  # fmt: skip


def test_states_from_elsewhere_are_given_to_what_is_published_here(registry: Registry) -> None:
    for number in ("1.0", "2.0", "3.0", "4.0"):
        publish(registry, "lock", number, tensors=number.encode())
    versions = {version.version: version for version in registry.versions("lock")}
    registry.set_state(versions["1.0"], "revoked", "our own reason")
    registry.set_state(versions["4.0"], "yanked", "ours")
    changed = registry.apply_states(
        "lock",
        {
            "1.0.0": ("active", None),  # revoked here, which is final
            "2.0.0": ("revoked", None),
            "3": ("yanked", "too weak"),
            "4.0": ("active", None),
            "9.0": ("revoked", "not published here"),
        },
        line=make_line(),
        follows=None,
    )
    assert [version.version for version in changed] == ["4.0", "3.0", "2.0"]
    found = {v.version: (v.state, v.state_reason) for v in registry.versions("lock")}
    assert found == {
        "1.0": ("revoked", "our own reason"),
        "2.0": ("revoked", "the signed line gives no reason"),
        "3.0": ("yanked", "too weak"),
        "4.0": ("active", None),
    }
    assert registry.line_bytes("lock") == make_line().envelope
    count = len(registry.events())
    again = {"2.0": ("revoked", "another reason"), "3.0": ("yanked", "too weak")}
    assert registry.apply_states("lock", again, line=make_line(), follows=None) == []  # type: ignore[arg-type]
    assert len(registry.events()) == count


def test_states_of_a_line_that_is_not_published_here_only_move_its_head(
    registry: Registry,
) -> None:
    states = {"1.0": ("revoked", "why")}
    assert registry.apply_states("lock", states, line=make_line(), follows=None) == []  # type: ignore[arg-type]
    assert [head.sequence for head in registry.line_heads()] == [1]
