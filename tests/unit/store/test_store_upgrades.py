"""A database of every release becomes one of this release, and loses nothing.

``tests/golden/db/REVISION.sql`` is a database as the release with that revision left it. It is made
once, by ``python tests/unit/store/test_store_upgrades.py`` in the release that adds the revision, and
never edited: what it holds is what users have.
"""

from __future__ import annotations

import datetime as dt
import os
import re
import sqlite3
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

import pytest
from sqlalchemy import delete, insert, update
from support.store_builders import digest_of, key_of, make_line, make_record, publish
from support.store_migrations import (
    GOLDEN,
    NEXT,
    lost,
    next_release,
    old_database,
    released,
    revisions,
    rows,
)

from registry.digest import digest_bytes
from registry.errors import CorruptStoreError, StoreError
from registry.reference import Reference
from registry.store import migrate, session
from registry.store.catalog import Registry
from registry.store.identity import registry_id
from registry.store.tables import bases, identity

if TYPE_CHECKING:
    from registry.settings import Settings

FROZEN = {
    "0001": "blake3:f4d3e34349bd68094e140f1684e3b43d0d3fc313221bafbd2d71ae2928f371c4",
    "0002": "blake3:c277bc117bc662b7d528e1ba2b340751d503d0deb3d0adf25aff41de2f25d233",
    "0003": "blake3:d8731df5df0a4fd597a0b524d1719d57939e933ef429dc45409473d575bdf219",
    "0004": "blake3:f20add85a0bbabd059d1f2bbbf57ccb8903549852c0166a70dbfa100ee7e8730",
}
EXCHANGED = (
    "SELECT sequence, at, 'nobody', action, subject, detail, previous_digest, digest "
    "FROM events WHERE sequence = 1"
)
NOON = dt.datetime(2030, 1, 1, 12, tzinfo=dt.timezone.utc)


def populate(registry: Registry) -> None:
    """Give a registry rows in every table, and in every column that can have a value."""
    one = registry.add_base(
        "base", make_record(), b"record of base",
        [("path", "/models/base"), ("hub", "org/base@" + "0" * 40), ("sha256-set", "f" * 64)],
    )  # fmt: skip
    registry.add_base('it\'s a "bäse" ☃; --', make_record("other", like=1), b"record of other")
    first = publish(
        registry, "lock", "1.0.0", not_before="2030-01-01T00:00:00Z", expires="2031-01-01T00:00:00Z"
    )
    registry.set_state(first, "revoked", "negated 'directions'\n")
    second = publish(registry, "lock", "1.1rc1", tensors=b"second")
    registry.set_state(second, "yanked", "too weak")
    third = publish(registry, "lock", "1.10", tensors=b"third")
    publish(registry, "mask", "2!1.0+local.1", kind="esi_mask")
    registry.trust_key(
        key_of("key"), label="publisher's 'key'", namespaces=["org/*", "base"],
        not_before=NOON, not_after=NOON + dt.timedelta(days=365),
    )  # fmt: skip
    registry.revoke_key(key_of("thief"), "stolen ☃")
    line = make_line()
    registry.sign_version(third, b"signature of third", line.key_ids[0], line)
    elsewhere = make_line("elsewhere", 7, base="unknown", keys=("key", "other"))
    registry.remember_line(elsewhere, follows=None)
    for tag, base, relation, level, distance in (
        ("tune", one, "derived", 3, 1.25e-3),
        ("stranger", None, "unrelated", 2, 1.4),
    ):
        number = registry.record_checkpoint(
            digest_of(tag), base=base, relation=relation, evidence_level=level, distance=distance,
            config_digest=digest_of("config"), locator=f"/models/{tag} \x00",
        )  # fmt: skip
        for kind in ("lineage", "check", "inspect", "audit"):
            body = {"findings": [{"text": "a 'quote' and ☃"}], "ratio": 0.1, "none": None}
            registry.record_report(number, kind, relation, body, third)
        registry.record_application(
            number, third, third.digest, third.kind, 2.5, "cuda:0", NOON,
            NOON + dt.timedelta(seconds=1), {"modules": 2, "worst": 1e-7}, "enforce",
        )  # fmt: skip
        registry.record_application(
            number, None, digest_of("elsewhere"), "safety_lock", None, "cpu", NOON, None, {}, "warn"
        )
    registry.append_event("load.unprotected", digest_of("tune"), {"reason": "a test"})


def test_every_revision_has_its_frozen_database() -> None:
    assert {path.stem for path in GOLDEN.glob("*.sql")} == set(revisions())
    digests = {path.stem: digest_bytes(path.read_bytes()) for path in GOLDEN.glob("*.sql")}
    assert digests == FROZEN, "a frozen database was edited, or its digest is not noted here"


@pytest.mark.parametrize("revision", revisions())
def test_a_database_of_an_earlier_release_keeps_every_row(
    settings: Settings, revision: str
) -> None:
    engine = old_database(settings, revision)
    before = rows(engine)
    assert all(before.values()), "a table without rows shows nothing"
    assert migrate.upgrade(engine) == (revision, migrate.HEAD)
    assert lost(before, rows(engine)) == []
    assert migrate.check(engine) == []
    engine.dispose()
    with Registry.open(settings=settings) as registry:
        assert registry.verify_events() == []
        assert len(registry.events()) == len(before["events"])
        versions = [(version.version, version.state) for version in registry.versions("lock")]
        assert versions == [("1.10", "active"), ("1.1rc1", "yanked"), ("1.0.0", "revoked")]
        newest = registry.resolve(Reference.parse("lock"))
        assert [a.version for a in registry.applications(digest_of("tune"))] == [newest.label, None]
        assert len(registry.reports(digest_of("stranger"))) == 4
        assert len(registry.base("/models/base").aliases) == 3
        # and it can be written on
        registry.add_base("new", make_record("new"), b"record of new")
        assert publish(registry, "lock", "2.0.0").label == "lock@2.0.0"
        assert registry.verify_events() == []


def test_a_base_from_before_probes_is_still_found(settings: Settings) -> None:
    engine = old_database(settings, "0002")
    migrate.upgrade(engine)
    assert [row["probe"] for row in rows(engine)["bases"]] == [None, None]
    with pytest.raises(StoreError, match="probe_size"), session.write(engine) as connection:
        connection.execute(update(bases).values(probe=b"short"))
    engine.dispose()
    with Registry.open(settings=settings) as registry:
        registry.add_base("new", make_record("new", like=1), b"record of new")
        found = registry.bases_near(make_record("child", like=1), limit=1)
        assert [base.name for base in found] == sorted(base.name for base in registry.bases())


def test_a_registry_keeps_the_id_it_has_and_one_without_gets_one(settings: Settings) -> None:
    engine = old_database(settings, "0001")
    migrate.upgrade(engine)
    drawn = registry_id(engine)
    assert re.fullmatch("[0-9a-f]{32}", drawn)
    migrate.upgrade(engine)
    assert registry_id(engine) == drawn
    (row,) = rows(engine)["registry"]
    assert row == {"one": 1, "id": drawn}
    for refused in ({"one": 2, "id": "0" * 32}, {"one": 1, "id": "0" * 32}):
        with pytest.raises(StoreError), session.write(engine) as connection:
            connection.execute(insert(identity).values(**refused))
    engine.dispose()


def test_a_registry_whose_id_is_gone_is_corrupt(registry: Registry, settings: Settings) -> None:
    with session.write(registry._engine) as connection:
        connection.execute(delete(identity))
    with pytest.raises(CorruptStoreError) as caught:
        Registry.open(settings=settings)
    assert str(caught.value) == (
        f"{registry.location}: expected the id of the registry, found none.\n"
        "Restore the database from a backup."
    )


@pytest.mark.parametrize("revision", revisions())
@pytest.mark.parametrize(
    "change",
    [
        "UPDATE events SET actor = 'nobody'",
        "DELETE FROM events WHERE sequence = 1",
        f"INSERT INTO events {EXCHANGED} ON CONFLICT (sequence) DO UPDATE SET actor = 'nobody'",
    ],
)
def test_an_event_is_neither_changed_nor_removed(
    settings: Settings, revision: str, change: str
) -> None:
    engine = old_database(settings, revision)
    migrate.upgrade(engine)
    before = rows(engine)
    with (
        pytest.raises(StoreError, match="events are only appended: none is changed or removed"),
        session.write(engine) as connection,
    ):
        connection.exec_driver_sql(change)
    assert rows(engine) == before
    engine.dispose()


@pytest.mark.parametrize("revision", revisions())
@pytest.mark.parametrize(
    "event",
    [
        EXCHANGED,
        EXCHANGED.replace("sequence,", "(SELECT max(sequence) + 1 FROM events),", 1),  # its digest
        EXCHANGED.replace("sequence,", "NULL,", 1),
        EXCHANGED.replace("sequence,", "1000,", 1).replace(
            "digest FROM", "'blake3:" + "0" * 64 + "' FROM"
        ),
    ],
    ids=["sequence", "digest", "no sequence", "later"],
)
def test_an_event_is_not_exchanged_by_insert_or_replace(
    sqlite_settings: Settings, revision: str, event: str
) -> None:
    engine = old_database(sqlite_settings, revision)
    migrate.upgrade(engine)
    before = rows(engine)
    with (
        pytest.raises(StoreError, match="events are only appended: none is changed or removed"),
        session.write(engine) as connection,
    ):
        connection.exec_driver_sql(f"INSERT OR REPLACE INTO events {event}")
    assert rows(engine) == before
    engine.dispose()


def test_keys_and_lines_of_a_frozen_database_are_still_there(settings: Settings) -> None:
    engine = old_database(settings, "0004")
    migrate.upgrade(engine)
    engine.dispose()
    with Registry.open(settings=settings) as registry:
        trusted, blocked = registry.trusted_keys()
        assert trusted.key_id == key_of("key")
        assert (trusted.label, trusted.namespaces) == ("publisher's 'key'", ("base", "org/*"))
        assert (trusted.not_before, trusted.revoked_at) == (NOON, None)
        assert (blocked.key_id, blocked.trusted_at) == (key_of("thief"), None)
        assert blocked.revoked_reason == "stolen ☃"
        heads = [(h.name, h.sequence, h.document, h.key_ids) for h in registry.line_heads()]
        both = tuple(sorted([key_of("key"), key_of("other")]))
        assert heads == [
            ("elsewhere", 7, b"line elsewhere unknown 7", both),
            ("lock", 1, b"line lock base 1", (key_of("key"),)),
        ]
        assert {line.name: line.sequence for line in registry.lines()} == {"lock": 1, "mask": 0}
        signed = [version.version for version in registry.versions("lock") if version.key_id]
        assert signed == ["1.10"]
        assert registry.remember_line(make_line(sequence=2), follows=make_line().digest)


LOSE = """
    with op.batch_alter_table("events") as table:
        table.alter_column("actor", existing_type=sa.Text(), nullable=True)
"""
"""A change that SQLite makes by writing the events anew, in a table without triggers."""


def test_a_revision_that_loses_the_triggers_of_events_changes_nothing(
    sqlite_settings: Settings, tmp_path: Path
) -> None:
    engine = old_database(sqlite_settings, migrate.HEAD)
    before = rows(engine)
    with (
        released(next_release(tmp_path / "migrations", LOSE)),
        pytest.raises(CorruptStoreError) as caught,
    ):
        migrate.upgrade(engine)
    head, *lost_triggers = caught.value.message.split("\n")
    assert head == (
        f"{session.location(engine)}: expected the triggers that keep events as they are, got 3 "
        "differences:"
    )
    assert [line.split()[4] for line in lost_triggers] == [
        "events_refuse_delete", "events_refuse_replace", "events_refuse_update",
    ]  # fmt: skip
    assert all(line.endswith("END, got none") for line in lost_triggers)
    assert caught.value.hint == "Nothing was changed. Restore the database from a backup."
    assert rows(engine) == before
    assert migrate.current(engine) == migrate.HEAD
    assert migrate.check(engine) == []
    engine.dispose()


def test_a_revision_that_switches_a_trigger_off_changes_nothing(
    settings: Settings, tmp_path: Path
) -> None:
    engine = old_database(settings, migrate.HEAD)
    is_file = settings.sqlite_path is not None
    off = "DROP TRIGGER events_refuse_update"
    if not is_file:
        off = "ALTER TABLE events DISABLE TRIGGER events_refuse_change"
    with (
        released(next_release(tmp_path / "migrations", f"    op.execute({off!r})")),
        pytest.raises(CorruptStoreError, match="got none" if is_file else "switched to 'D'"),
    ):
        migrate.upgrade(engine)
    assert migrate.current(engine) == migrate.HEAD
    assert migrate.check(engine) == []
    engine.dispose()


def test_a_table_that_others_name_can_be_rebuilt(settings: Settings, tmp_path: Path) -> None:
    engine = old_database(settings, migrate.HEAD)
    before = rows(engine)
    with released(next_release(tmp_path / "migrations")):
        assert migrate.upgrade(engine) == (revisions()[-1], NEXT)
        after = rows(engine)
        (finding,) = migrate.check(engine)
    assert "colour" in finding  # what the release after this one adds, and nothing else
    assert lost(before, after) == []
    assert [row["colour"] for row in after["bases"]] == ["red", "red"]
    engine.dispose()


def test_a_row_that_a_revision_loses_is_seen(settings: Settings, tmp_path: Path) -> None:
    engine = old_database(settings, migrate.HEAD)
    before = rows(engine)
    with released(
        next_release(tmp_path / "migrations", "    op.execute('DELETE FROM reports WHERE id = 2')")
    ):
        migrate.upgrade(engine)
    (gone,) = lost(before, rows(engine))
    assert gone.startswith("reports: {'id': 2,")
    engine.dispose()


def test_a_revision_that_leaves_rows_without_what_they_name_changes_nothing(
    sqlite_settings: Settings, tmp_path: Path
) -> None:
    engine = old_database(sqlite_settings, migrate.HEAD)
    before = rows(engine)
    with (
        released(next_release(tmp_path / "migrations", "    op.execute('DELETE FROM blobs')")),
        pytest.raises(CorruptStoreError, match=r"foreign key: .* names a missing row of blobs"),
    ):
        migrate.upgrade(engine)
    assert rows(engine) == before
    assert migrate.current(engine) == migrate.HEAD
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar_one() == 1
    engine.dispose()


if __name__ == "__main__":
    os.environ["LOGNAME"] = "publisher"  # the actor of its events
    path = GOLDEN / f"{migrate.HEAD}.sql"
    if path.exists():
        raise SystemExit(f"{path} is there: a frozen database is never made again")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        database = Path(work) / "registry.db"
        with Registry.create(str(database)) as made:
            populate(made)
        with sqlite3.connect(database) as connection:
            path.write_text("\n".join(connection.iterdump()) + "\n", "utf-8")
    print(f'"{migrate.HEAD}": "{digest_bytes(path.read_bytes())}",')
