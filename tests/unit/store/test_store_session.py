from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import make_url, text
from support.store_builders import make_record, publish

from registry.errors import (
    DatabaseBusyError,
    MissingDependencyError,
    RegistryMissingError,
    StoreError,
    UsageError,
)
from registry.settings import Settings
from registry.store import session
from registry.store.catalog import Registry


def test_sqlite_enforces_foreign_keys_waits_and_uses_wal(sqlite_registry: Registry) -> None:
    with session.read(sqlite_registry._engine) as connection:
        values = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("foreign_keys", "busy_timeout", "journal_mode", "trusted_schema")
        ]
    assert values == [1, 30_000, "wal", 0]


def test_a_reader_sees_one_state_while_another_writes(registry: Registry) -> None:
    count = text("SELECT count(*) FROM events")
    with session.read(registry._engine) as reader:
        before = reader.scalar(count)
        registry.append_event("x", "y", {})
        assert reader.scalar(count) == before
    assert len(registry.events()) == before + 1


def test_a_second_writer_waits_for_the_first(registry: Registry) -> None:
    order: list[str] = []

    def write_second() -> None:
        registry.append_event("second", "y", {})
        order.append("second")

    with session.write(registry._engine):
        thread = threading.Thread(target=write_second)
        thread.start()
        thread.join(timeout=0.2)
        assert thread.is_alive()
        order.append("first")
    thread.join(timeout=10)
    assert order == ["first", "second"]


def test_an_error_inside_a_transaction_leaves_nothing(registry: Registry) -> None:
    statement = text("DELETE FROM events")
    registry.append_event("x", "y", {})

    def delete_and_fail() -> None:
        with session.write(registry._engine) as connection:
            connection.execute(statement)
            raise KeyError

    with pytest.raises(KeyError):
        delete_and_fail()
    assert len(registry.events()) == 1


def test_a_database_held_too_long_is_busy(
    sqlite_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    Registry.create(settings=sqlite_settings).close()
    monkeypatch.setattr(session, "PATIENCE_S", 0.05)
    holder = sqlite3.connect(str(sqlite_settings.sqlite_path), isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        with Registry.open(settings=sqlite_settings) as registry:
            assert registry.events() == []
            with pytest.raises(DatabaseBusyError, match="database is locked"):
                registry.append_event("x", "y", {})
    finally:
        holder.close()


def test_opening_a_missing_file_makes_none(sqlite_settings: Settings) -> None:
    with pytest.raises(RegistryMissingError) as caught:
        session.connect(sqlite_settings)
    assert caught.value.hint == "Make one: safelatch init"
    assert not sqlite_settings.sqlite_path.exists()


def test_a_file_deleted_under_an_engine_is_not_made_again(sqlite_registry: Registry) -> None:
    sqlite_registry.close()
    path = Path(sqlite_registry._engine.url.database)
    path.unlink()
    with pytest.raises(StoreError, match="unable to open"):
        sqlite_registry.events()
    assert not path.exists()


def test_a_file_that_is_no_database_is_refused(sqlite_settings: Settings) -> None:
    sqlite_settings.sqlite_path.write_bytes(b"this is not a database, it is a letter" * 20)
    for opening in (Registry.open, Registry.create):
        with pytest.raises(StoreError, match="not a database"):
            opening(settings=sqlite_settings)


@pytest.fixture
def read_only(sqlite_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    with Registry.create(settings=sqlite_settings) as registry:
        publish(registry, "lock", "1.0.0")
    monkeypatch.setattr(session, "_is_writable", lambda _: False)
    return sqlite_settings


def test_a_read_only_registry_answers_and_refuses_changes(read_only: Settings) -> None:
    with Registry.open(settings=read_only) as registry:
        assert registry.is_read_only
        version = registry.versions("lock")[0]
        assert registry.bundle_files(version)["tensors.safetensors"] == b"tensors"
        assert registry.verify_events() == []
        with pytest.raises(StoreError, match="it is read-only"):
            registry.append_event("x", "y", {})
        with pytest.raises(StoreError, match="it is read-only"):
            publish(registry, "lock", "2.0.0")
        with pytest.raises(StoreError, match="it is read-only"):
            registry.add_base("other", make_record("other"), b"new record")
    blobs = [path for path in read_only.blobs.rglob("*") if path.is_file()]
    assert len(blobs) == 3


def test_registering_a_known_base_needs_no_writing(read_only: Settings) -> None:
    with Registry.open(settings=read_only) as registry:
        assert registry.add_base("base", make_record(), b"record of base").name == "base"


def test_a_read_only_connection_cannot_write_even_by_hand(read_only: Settings) -> None:
    connection = session._open_read_only(read_only.sqlite_path)
    try:
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            connection.execute("DELETE FROM events")
    finally:
        connection.close()


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX permissions")
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_read(sqlite_settings: Settings) -> None:
    Registry.create(settings=sqlite_settings).close()
    path = sqlite_settings.sqlite_path
    path.chmod(0o444)
    path.parent.chmod(0o555)
    try:
        with Registry.open(settings=sqlite_settings) as registry:
            assert registry.is_read_only
            assert registry.events() == []
    finally:
        path.parent.chmod(0o755)


def test_where_the_index_cannot_be_made_the_file_alone_is_read(
    sqlite_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    Registry.create(settings=sqlite_settings).close()
    monkeypatch.setattr(session, "_is_writable", lambda _: False)
    opened: list[str] = []

    class Stubborn:
        def execute(self, _: str) -> None:
            raise sqlite3.OperationalError("unable to open database file")

        def close(self) -> None:
            opened.append("closed")

    def open_stubborn(path: Path, query: str) -> Any:
        opened.append(query)
        return Stubborn()

    monkeypatch.setattr(session, "_open", open_stubborn)
    session._open_read_only(sqlite_settings.sqlite_path)
    assert opened == ["mode=ro", "closed", "immutable=1"]
    sqlite_settings.sqlite_path.with_name("registry.db-wal").touch()  # somebody is writing
    with pytest.raises(sqlite3.OperationalError):
        session._open_read_only(sqlite_settings.sqlite_path)


def test_the_location_shows_no_password() -> None:
    url = make_url("postgresql+psycopg://ann:secret@host:5432/locks?password=secret2")
    engine: Any = SimpleNamespace(dialect=SimpleNamespace(name="postgresql"), url=url)
    assert session.location(engine) == "postgresql+psycopg://ann:***@host:5432/locks"


@pytest.mark.parametrize("url", ["mysql://ann:secret@h/d", "sqlite://", "://ann:secret@h"])
def test_another_database_is_refused_without_its_password(url: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected sqlite:///FILE or postgresql") as caught:
        session.connect(Settings(db_url=url, blobs=tmp_path, cache=tmp_path))
    assert "secret" not in str(caught.value)


def test_a_missing_driver_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_driver(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'psycopg'", name="psycopg")

    monkeypatch.setattr(session, "create_engine", no_driver)
    with pytest.raises(MissingDependencyError, match="package psycopg") as caught:
        session.connect(Settings("postgresql://ann:secret@h/d", blobs=tmp_path, cache=tmp_path))
    assert "secret" not in str(caught.value)


def test_errors_of_the_driver_show_no_parameters(sqlite_registry: Registry) -> None:
    statement = text("INSERT INTO aliases (base_id, scheme, value) VALUES (1, 'x', :value)")
    with (
        pytest.raises(StoreError) as caught,
        session.write(sqlite_registry._engine) as connection,
    ):
        connection.execute(statement, {"value": "hidden-value"})
    assert "hidden-value" not in f"{caught.value}{caught.value.__cause__}"


def test_a_place_where_no_registry_can_be_made_is_told_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="expected a place for a registry") as caught:
        Registry.create(str(tmp_path / "file" / "registry.db"))
    assert "--db PATH init" in str(caught.value.hint)
