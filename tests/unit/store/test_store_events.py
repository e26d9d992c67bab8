from __future__ import annotations

import getpass
import os
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import insert, select, update
from sqlalchemy.sql import delete
from support.store_builders import let_events_change

from registry.digest import digest_json
from registry.errors import CorruptStoreError
from registry.store import session
from registry.store.events import GENESIS, current_actor
from registry.store.tables import events

if TYPE_CHECKING:
    from registry.store.catalog import Registry


@pytest.fixture
def log(registry: Registry) -> Registry:
    for number in range(1, 6):
        registry.append_event("test.step", f"subject {number}", {"number": number})
    return registry


def _tamper(log: Registry, *statements: object) -> list[str]:
    with session.write(log._engine) as connection:
        let_events_change(connection)
        for statement in statements:
            connection.execute(statement)
    return log.verify_events()


def test_each_digest_covers_all_other_fields_and_the_link_before(log: Registry) -> None:
    found = log.events()
    assert [event.sequence for event in found] == [1, 2, 3, 4, 5]
    assert [event.previous for event in found] == [GENESIS, *(e.digest for e in found[:-1])]
    for event in found:
        fields = {name: getattr(event, name) for name in event.__slots__ if name != "digest"}
        assert event.digest == digest_json(fields)
    assert log.verify_events() == []


def test_the_limit_keeps_the_last_ones_in_order(log: Registry) -> None:
    assert [event.sequence for event in log.events(limit=2)] == [4, 5]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("at", "2030-01-01T00:00:00.000000Z"),
        ("actor", "somebody else"),
        ("action", "test.other"),
        ("subject", "another subject"),
        ("detail", '{"number":4}'),
        ("detail", '{"number": 3}'),
        ("detail", '{"number":3,"number":3}'),
        ("detail", "no json"),
        ("previous_digest", "blake3:" + "1" * 64),
        ("digest", "blake3:" + "1" * 64),
    ],
)
def test_an_edited_field_is_found(log: Registry, column: str, value: str) -> None:
    findings = _tamper(log, update(events).where(events.c.sequence == 3).values({column: value}))
    assert findings
    assert findings[0].startswith("event 3: ")


def test_a_removed_event_is_found(log: Registry) -> None:
    findings = _tamper(log, delete(events).where(events.c.sequence == 2))
    assert findings[0] == "event 3: expected event 2; 2 to 2 are missing"
    assert findings[1].startswith("event 3: expected previous")


def test_a_removed_beginning_is_found(log: Registry) -> None:
    assert _tamper(log, delete(events).where(events.c.sequence < 3))[0].startswith("event 3: ")


def test_events_that_changed_places_are_found(log: Registry) -> None:
    def move(old: int, new: int) -> object:
        return update(events).where(events.c.sequence == old).values(sequence=new)

    findings = _tamper(log, move(2, 99), move(3, 2), move(99, 3))
    assert {finding.partition(":")[0] for finding in findings} == {"event 2", "event 3", "event 4"}


def test_a_closed_gap_is_found(log: Registry) -> None:
    renumber = [
        update(events).where(events.c.sequence == n).values(sequence=n - 1) for n in (3, 4, 5)
    ]
    assert _tamper(log, delete(events).where(events.c.sequence == 2), *renumber)


def test_an_edit_with_its_digest_made_anew_breaks_the_next_link(log: Registry) -> None:
    event = log.events()[2]
    fields = {name: getattr(event, name) for name in event.__slots__ if name != "digest"}
    fields["actor"] = "somebody else"
    change = update(events).where(events.c.sequence == 3)
    findings = _tamper(log, change.values(actor="somebody else", digest=digest_json(fields)))
    assert [finding.partition(":")[0] for finding in findings] == ["event 4"]


def test_a_cut_end_is_found_by_an_anchor_kept_elsewhere(log: Registry) -> None:
    anchor = log.events()[-1].digest
    assert log.verify_events(anchor) == []
    assert _tamper(log, delete(events).where(events.c.sequence == 5)) == []
    assert log.verify_events(anchor) == [f"expected an event with digest {anchor}, found none"]


def test_an_unreadable_event_is_an_error_and_not_a_wrong_answer(log: Registry) -> None:
    _tamper(log, update(events).where(events.c.sequence == 3).values(detail="{"))
    with pytest.raises(CorruptStoreError, match="detail of event 3") as caught:
        log.events()
    assert "safelatch log verify" in str(caught.value.hint)


def test_text_that_no_database_holds_is_escaped_before_it_is_hashed(log: Registry) -> None:
    log.append_event("test.bytes", "a\x00b\udc80", {"path\x00": ["\udcff", 1.5, None, True]})
    event = log.events(limit=1)[0]
    assert event.subject == "a\\x00b\\udc80"
    assert event.detail == {"path\\x00": ["\\udcff", 1.5, None, True]}
    assert log.verify_events() == []


def test_a_rolled_back_change_leaves_no_event(log: Registry) -> None:
    from registry.store import events as chain

    def append_and_fail() -> None:
        with session.write(log._engine) as connection:
            chain.append(connection, "ann", "test.undone", "x", {})
            raise KeyError

    with pytest.raises(KeyError):
        append_and_fail()
    assert len(log.events()) == 5


def test_a_detail_that_is_no_json_is_refused_and_nothing_is_written(log: Registry) -> None:
    with pytest.raises(ValueError, match="not a JSON number"):
        log.append_event("test.nan", "x", {"value": float("nan")})
    assert len(log.events()) == 5


def test_a_second_genesis_cannot_be_inserted_at_the_front(log: Registry) -> None:
    with session.write(log._engine) as connection:
        first = connection.execute(select(events).where(events.c.sequence == 1)).one()._asdict()
    first |= {"sequence": 6, "digest": "blake3:" + "2" * 64}
    assert _tamper(log, insert(events).values(first))


def test_the_actor_is_the_user_or_the_bare_uid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "ann")
    assert current_actor() == "ann"

    def no_entry() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr(getpass, "getuser", no_entry)
    monkeypatch.setattr(os, "getuid", lambda: 4711, raising=False)
    assert current_actor() == "uid:4711"
