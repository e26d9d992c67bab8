from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import insert
from support.store_builders import digest_of, key_of, make_line, publish

from registry.errors import NotFoundError, StoreError, UsageError, VersionConflictError
from registry.store import session
from registry.store.tables import keys, line_heads

if TYPE_CHECKING:
    from registry.store.catalog import Registry

NOON = dt.datetime(2030, 1, 1, 12, tzinfo=dt.timezone(dt.timedelta(hours=2)))
DAY = dt.timedelta(days=1)
ONE, TWO = key_of("one"), key_of("two")


def test_a_trusted_key_comes_back_with_its_facts(registry: Registry) -> None:
    made = registry.trust_key(
        ONE, label="acme\x00", namespaces=["b/*", "a/x", "b/*"], not_before=NOON, not_after=NOON + DAY
    )  # fmt: skip
    assert registry.trusted_keys() == [made]
    assert (made.key_id, made.label, made.namespaces) == (ONE, "acme\\x00", ("a/x", "b/*"))
    assert (made.not_before, made.not_after) == (NOON, NOON + DAY)
    assert (made.revoked_at, made.revoked_reason) == (None, None)
    assert made.trusted_at is not None
    event = registry.events()[-1]
    assert (event.action, event.subject) == ("key.trust", ONE)
    assert event.detail == {
        "label": "acme\\x00", "namespaces": ["a/x", "b/*"],
        "not_before": NOON.isoformat(), "not_after": (NOON + DAY).isoformat(),
    }  # fmt: skip


def test_trusting_a_key_again_with_the_same_facts_is_no_change(registry: Registry) -> None:
    facts: dict[str, Any] = {"label": "acme", "not_before": NOON, "not_after": NOON + DAY}
    first = registry.trust_key(ONE, namespaces=["a/*", "b/*"], **facts)
    assert registry.trust_key(ONE, namespaces=["b/*", "a/*"], **facts) == first
    assert len(registry.events()) == 1


@pytest.mark.parametrize(
    "other", [{"label": None}, {"namespaces": ["*"]}, {"not_before": None}, {"not_after": None}]
)
def test_other_facts_replace_those_before(registry: Registry, other: dict[str, Any]) -> None:
    facts: dict[str, Any] = {
        "label": "acme", "namespaces": ["a/*"], "not_before": NOON, "not_after": NOON + DAY,
    }  # fmt: skip
    first = registry.trust_key(ONE, **facts)
    second = registry.trust_key(ONE, **facts | other)
    assert registry.trusted_keys() == [second] != [first]
    assert [event.action for event in registry.events()] == ["key.trust", "key.trust"]


def test_keys_are_listed_in_the_order_in_which_they_were_trusted(registry: Registry) -> None:
    tags = ["c", "a", "d", "b"]
    for tag in tags[:3]:
        registry.trust_key(key_of(tag), namespaces=["*"])
    registry.revoke_key(key_of("b"), "never trusted")
    found = registry.trusted_keys()
    assert [key.key_id for key in found] == [key_of(tag) for tag in tags]


@pytest.mark.parametrize("text", ["", "ed25519:ab", "ED25519:" + "0" * 64, "ed25519:" + "G" * 64])
def test_what_is_no_key_is_not_trusted(registry: Registry, text: str) -> None:
    with pytest.raises(UsageError, match="expected a key as ed25519"):
        registry.trust_key(text, namespaces=["*"])
    assert registry.trusted_keys() == []


@pytest.mark.parametrize("pattern", ["acme*", "*/x", "", "a/b/*", "../*"])
def test_a_namespace_that_could_mean_more_than_it_says_is_refused(
    registry: Registry, pattern: str
) -> None:
    with pytest.raises(UsageError, match="expected a namespace"):
        registry.trust_key(ONE, namespaces=["acme/*", pattern])
    assert registry.trusted_keys() == []


def test_a_validity_that_ends_before_it_begins_is_refused(registry: Registry) -> None:
    for end in (NOON, NOON - DAY):
        with pytest.raises(UsageError, match="expected an end of validity after"):
            registry.trust_key(ONE, namespaces=["*"], not_before=NOON, not_after=end)
    assert registry.trusted_keys() == []


def test_a_revoked_key_is_never_trusted_again(registry: Registry) -> None:
    registry.trust_key(ONE, namespaces=["*"])
    revoked = registry.revoke_key(ONE, "lost")
    assert (revoked.revoked_reason, revoked.namespaces) == ("lost", ("*",))
    assert revoked.revoked_at is not None
    for namespaces in (["*"], ["a/*"]):
        with pytest.raises(VersionConflictError) as caught:
            registry.trust_key(ONE, namespaces=namespaces)
    assert str(caught.value) == (
        f"{ONE}: expected it to stay revoked (lost), got a request to trust it.\n"
        "Make a new key and trust that one: safelatch key generate --out NAME"
    )
    assert registry.trusted_keys() == [revoked]


def test_revoking_again_keeps_the_first_reason(registry: Registry) -> None:
    revoked = registry.revoke_key(ONE, "lost")
    assert registry.revoke_key(ONE, "found") == revoked
    assert [event.action for event in registry.events()] == ["key.revoke"]


def test_a_key_is_blocked_before_anybody_trusts_it(registry: Registry) -> None:
    blocked = registry.revoke_key(ONE, "published on a forum")
    assert (blocked.trusted_at, blocked.namespaces) == (None, ())
    with pytest.raises(VersionConflictError, match="expected it to stay revoked"):
        registry.trust_key(ONE, namespaces=["*"])


def test_a_key_that_is_none_is_answered_with_what_is_near(registry: Registry) -> None:
    registry.trust_key(ONE, label="acme", namespaces=["*"])
    for text in (ONE[:-1], "acme"):
        with pytest.raises(NotFoundError) as caught:
            registry.revoke_key(text, "lost")
        assert str(caught.value) == (
            f"expected a key as ed25519:<64 hex digits>, got {text!r}. Did you mean {ONE}?\n"
            "List those that are trusted: safelatch key list"
        )
    with pytest.raises(NotFoundError) as caught:
        registry.revoke_key("zzz", "lost")
    assert caught.value.message.endswith("got 'zzz'.")


def test_a_key_is_not_revoked_without_a_reason(registry: Registry) -> None:
    for reason in ("", " \n"):
        with pytest.raises(UsageError, match="expected a reason"):
            registry.revoke_key(ONE, reason)
    assert registry.trusted_keys() == []


def test_revoking_a_key_forgets_the_heads_it_vouched_for_and_names_them(
    registry: Registry,
) -> None:
    publish(registry, "lock", "1.0.0")
    stolen = make_line(sequence=2**53 - 1, keys=["one"])  # no true document could follow it
    registry.remember_line(stolen, follows=None)
    registry.remember_line(make_line("mask", 4, keys=["two"]), follows=None)
    registry.revoke_key(ONE, "stolen")
    assert [head.name for head in registry.line_heads()] == ["mask"]
    event = registry.events()[-1]
    assert event.detail == {
        "reason": "stolen",
        "forgotten": [
            {
                "name": "lock", "base": digest_of("base"), "sequence": 2**53 - 1,
                "digest": stolen.digest,
            }
        ],
        "kept": [],
    }  # fmt: skip
    assert registry.remember_line(make_line(sequence=3, keys=["two"]), follows=None)
    assert [line.sequence for line in registry.lines()] == [3]


def test_a_head_that_another_key_vouches_for_outlives_the_revocation_of_one(
    registry: Registry,
) -> None:
    line = make_line(sequence=9, keys=["one", "two"])
    registry.remember_line(line, follows=None)
    (head,) = registry.line_heads()
    named = {"name": "lock", "base": line.base, "sequence": 9, "digest": line.digest}
    registry.revoke_key(ONE, "retired")
    assert registry.line_heads() == [replace(head, key_ids=(TWO,))]
    assert registry.events()[-1].detail == {"reason": "retired", "forgotten": [], "kept": [named]}
    registry.revoke_key(TWO, "stolen")
    assert registry.line_heads() == []
    assert registry.events()[-1].detail == {"reason": "stolen", "forgotten": [named], "kept": []}


@pytest.mark.parametrize(
    "change",
    [
        {"key_id": "ed25519:" + "A" * 64},
        {"key_id": "ed25519:" + "0" * 63},
        {"trusted_at": None},
        {"revoked_at": NOON},
        {"revoked_reason": "why"},
    ],
)
def test_the_database_refuses_a_key_that_cannot_be(
    registry: Registry, change: dict[str, Any]
) -> None:
    row = {"key_id": ONE, "namespaces": "[]", "trusted_at": NOON, **change}
    with pytest.raises(StoreError, match="ck_keys_"), session.write(registry._engine) as connection:
        connection.execute(insert(keys).values(row))


@pytest.mark.parametrize(
    "change",
    [{"sequence": 0}, {"base": "x"}, {"digest": "x"}, {"key_ids": "[]"}, {"key_ids": ONE}],
)
def test_the_database_refuses_a_head_that_cannot_be(
    registry: Registry, change: dict[str, Any]
) -> None:
    line = make_line()
    row = {
        "name": "lock", "base": line.base, "sequence": 1, "digest": line.digest,
        "key_ids": f'["{ONE}"]', "document": b"", "seen_at": NOON, **change,
    }  # fmt: skip
    with (
        pytest.raises(StoreError, match="ck_line_heads_"),
        session.write(registry._engine) as connection,
    ):
        connection.execute(insert(line_heads).values(row))
