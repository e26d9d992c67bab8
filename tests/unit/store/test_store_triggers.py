from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.store_builders import let_events_change

from registry.store import migrate, session

if TYPE_CHECKING:
    from registry.store.catalog import Registry


def _check_after(registry: Registry, *changes: str) -> list[str]:
    with session.write(registry._engine) as connection:
        for change in changes:
            connection.exec_driver_sql(change)
    return migrate.check(registry._engine)


def test_check_finds_the_triggers_gone(registry: Registry) -> None:
    with session.write(registry._engine) as connection:
        let_events_change(connection)
        count = 3 if connection.dialect.name == "sqlite" else 1
    findings = migrate.check(registry._engine)
    assert len(findings) == count
    assert all(one.startswith("trigger: expected CREATE TRIGGER events_re") for one in findings)


@pytest.mark.parametrize("change", ["update", "delete", "replace"])
def test_check_finds_one_trigger_gone(sqlite_registry: Registry, change: str) -> None:
    name = f"events_refuse_{change}"
    (finding,) = _check_after(sqlite_registry, f"DROP TRIGGER {name}")
    assert finding.startswith(f"trigger: expected CREATE TRIGGER {name} BEFORE ")
    assert finding.endswith("END, got none")


def test_check_finds_a_trigger_that_refuses_nothing(sqlite_registry: Registry) -> None:
    empty = "CREATE TRIGGER events_refuse_update BEFORE UPDATE ON events BEGIN SELECT 1; END"
    (finding,) = _check_after(sqlite_registry, "DROP TRIGGER events_refuse_update", empty)
    assert finding.endswith(f"END, got {empty}")


def test_check_finds_a_trigger_that_no_release_made(sqlite_registry: Registry) -> None:
    other = 'CREATE TRIGGER "other" AFTER INSERT ON Events BEGIN DELETE FROM blobs; END'
    (finding,) = _check_after(sqlite_registry, other)
    assert finding == f"trigger: expected no other on events, got {other}"


def test_check_finds_a_trigger_of_a_server_whose_function_was_exchanged(registry: Registry) -> None:
    if registry._engine.dialect.name == "sqlite":
        pytest.skip("SAFELATCH_TEST_POSTGRESQL names no server")
    empty = "CREATE OR REPLACE FUNCTION events_refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
    (finding,) = _check_after(registry, empty + "$$ BEGIN RETURN NULL; END $$")
    assert finding.endswith("events_refuse_change() AS BEGIN RETURN NULL; END")
