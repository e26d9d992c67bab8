"""SQLite under a disk that is full or fails, and under Ctrl-C: what leaves, and what is left."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

import pytest

from registry.errors import StoreError
from registry.store import migrate, session
from registry.store.catalog import Registry

if TYPE_CHECKING:
    from collections.abc import Callable

    from registry.settings import Settings

    Striking = Callable[[str, BaseException], list[str]]

FULL = sqlite3.OperationalError("database or disk is full")
FAILING = sqlite3.OperationalError("disk I/O error")


@pytest.fixture
def striking(monkeypatch: pytest.MonkeyPatch) -> Striking:
    """Let the driver raise an error at every statement that begins so; return those tried."""

    def strike(beginning: str, error: BaseException) -> list[str]:
        tried: list[str] = []
        real = sqlite3.connect

        class Cursor(sqlite3.Cursor):
            def execute(self, sql: str, *args: Any) -> Any:
                if sql.lstrip().startswith(beginning):
                    tried.append(sql)
                    raise error
                return super().execute(sql, *args)

        class Connection(sqlite3.Connection):
            def cursor(self, *_: Any) -> Any:
                return super().cursor(Cursor)

            def execute(self, sql: str, *args: Any) -> Any:
                return self.cursor().execute(sql, *args)

        def connect(*args: Any, **kwargs: Any) -> Any:
            return real(*args, factory=Connection, **kwargs)

        monkeypatch.setattr(sqlite3, "connect", connect)
        return tried

    return strike


def test_a_full_disk_is_told_with_the_way_out(sqlite_registry: Registry) -> None:
    with session.read(sqlite_registry._engine) as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1")  # as many as there are
    with pytest.raises(StoreError, match="cannot serve the request: database or disk is full") as e:
        sqlite_registry.append_event("x", "y", {"z": "z" * 100_000})
    assert e.value.hint == "Make room on the disk it is on, then run the same again."
    assert sqlite_registry.events() == []
    assert sqlite_registry.append_event("x", "y", {}).sequence == 1


def test_a_registry_that_has_no_room_is_refused_at_once(
    sqlite_settings: Settings, striking: Striking
) -> None:
    tried = striking("PRAGMA journal_mode", FULL)
    with pytest.raises(StoreError, match=r"expected a place .* got: database or disk is full") as e:
        Registry.create(settings=sqlite_settings)
    assert e.value.hint == "Make room on the disk it is on, then run the same again."
    assert len(tried) == 1  # it is no other process that is waited for


@pytest.mark.parametrize("beginning", ["PRAGMA foreign_keys = OFF", "CREATE TABLE", "BEGIN"])
def test_a_disk_that_fails_under_an_upgrade_is_an_error_of_the_store(
    sqlite_settings: Settings, striking: Striking, beginning: str
) -> None:
    striking(beginning, FAILING)
    with pytest.raises(StoreError, match="disk I/O error") as caught:
        Registry.create(settings=sqlite_settings)
    assert "safelatch db check" in str(caught.value.hint)


@pytest.mark.parametrize("beginning", ["BEGIN IMMEDIATE", "CREATE TABLE events", "INSERT"])
def test_an_interrupted_upgrade_is_an_interrupt_and_leaves_the_database_as_it_was(
    sqlite_settings: Settings,
    striking: Striking,
    monkeypatch: pytest.MonkeyPatch,
    beginning: str,
) -> None:
    striking(beginning, KeyboardInterrupt())
    engine = session.connect(sqlite_settings, create=True)
    with pytest.raises(KeyboardInterrupt):
        migrate.upgrade(engine)
    engine.dispose()
    monkeypatch.undo()
    engine = session.connect(sqlite_settings)
    assert migrate.current(engine) is None
    assert migrate.upgrade(engine) == (None, migrate.HEAD)
    assert migrate.check(engine) == []
    engine.dispose()
