from __future__ import annotations

import csv
import io
import sqlite3
from typing import TYPE_CHECKING

import pytest
from support.command_line import safelatch
from support.store_builders import let_events_change, publish

from registry.store.catalog import Registry

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def database(home: Path) -> Path:
    assert safelatch("init").status == 0
    return home / "registry.db"


def test_init_says_where_and_whether_it_made_it(home: Path) -> None:
    first = safelatch("init", "--format", "json").document
    assert first == {
        "registry": f"sqlite:///{home / 'registry.db'}",
        "blobs": str(home / "blobs"),
        "created": True,
    }
    assert safelatch("init").out == f"opened  sqlite:///{home / 'registry.db'}\n"


def test_db_option_wins_over_the_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFELATCH_DB", str(home / "environment.db"))
    assert safelatch("init").out.endswith("environment.db\n")
    assert safelatch("--db", home / "option.db", "init").out.endswith("option.db\n")


@pytest.mark.parametrize("verb", [("list",), ("base", "list")])
def test_empty_list_prints_a_hint_on_stderr_only(database: Path, verb: tuple[str, ...]) -> None:
    outcome = safelatch(*verb)
    assert (outcome.status, outcome.out) == (0, "")
    assert "safelatch" in outcome.err
    assert safelatch("--quiet", *verb).err == ""
    assert safelatch(*verb, "--format", "json").document == []


def test_list_shows_every_state_newest_first(database: Path) -> None:
    with Registry.open(str(database)) as registry:
        old = publish(registry, "lock", "1.0.0")
        publish(registry, "lock", "1.1.0", tensors=b"other")
        registry.set_state(old, "yanked", "too weak")
    rows = [line.split() for line in safelatch("list").out.splitlines()]
    assert [row[:2] for row in rows[1:]] == [["lock@1.1.0", "active"], ["lock@1.0.0", "yanked"]]


def test_log_shows_the_last_events_and_their_detail(database: Path) -> None:
    with Registry.open(str(database)) as registry:
        for number in range(3):
            registry.append_event("test.event", f"subject {number}", {"number": number})
    shown = safelatch("log", "show", "--limit", 2, "--format", "json").document
    assert [event["detail"] for event in shown] == [{"number": 1}, {"number": 2}]
    rows = list(csv.DictReader(io.StringIO(safelatch("log", "show", "--format", "csv").out)))
    assert [row["subject"] for row in rows] == ["subject 0", "subject 1", "subject 2"]
    assert all(row["digest"] == event["digest"] for row, event in zip(rows[1:], shown, strict=True))


def test_log_verify_finds_an_edited_event_and_a_cut_end(database: Path) -> None:
    with Registry.open(str(database)) as registry:
        for number in range(3):
            last = registry.append_event("test.event", "subject", {"number": number})
    assert safelatch("log", "verify").out == f"whole  3 events  {last.digest}\n"
    with sqlite3.connect(database) as connection:
        let_events_change(connection)
        connection.execute("DELETE FROM events WHERE sequence = 3")
    assert safelatch("log", "verify").status == 0
    cut = safelatch("log", "verify", "--anchor", last.digest)
    assert (cut.status, cut.out.partition("\n")[0]) == (3, "broken  1 findings")
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE events SET actor = 'someone' WHERE sequence = 1")
    edited = safelatch("log", "verify", "--format", "json")
    assert edited.status == 3
    assert edited.document["verdict"] == "broken"
    assert edited.document["findings"][0].startswith("event 1: expected digest")


def test_db_verbs_follow_an_empty_file_to_a_sound_registry(home: Path) -> None:
    path = home / "new.db"
    path.touch()
    current = safelatch("--db", path, "db", "current")
    assert (current.status, current.out) == (0, "none\n")
    assert "db upgrade" in current.err
    assert safelatch("--db", path, "db", "check").status == 4
    assert safelatch("--db", path, "db", "upgrade").out.startswith("upgraded  ")
    assert safelatch("--db", path, "db", "upgrade").out.startswith("already  ")
    check = safelatch("--db", path, "db", "check")
    assert (check.status, check.out) == (0, "sound\n")


def test_db_check_finds_a_missing_index(database: Path) -> None:
    with sqlite3.connect(database) as connection:
        (name,) = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
        ).fetchone()
        connection.execute(f"DROP INDEX {name}")
    check = safelatch("db", "check")
    assert check.status == 3
    assert check.out.startswith("broken\n")
    assert name in check.out
