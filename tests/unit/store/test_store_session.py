from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import make_url, text
from support.store_builders import make_record, publish
from support.store_migrations import rows
from support.store_permissions import needs_permissions, obeying_permissions

from registry.errors import (
    DatabaseBusyError,
    MissingDependencyError,
    RegistryMissingError,
    StoreError,
    UsageError,
)
from registry.settings import Settings
from registry.store import session, sqlite_file
from registry.store.catalog import Registry

if TYPE_CHECKING:
    from collections.abc import Iterator


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
    statement = text("DELETE FROM registry")

    def delete_and_fail() -> None:
        with session.write(registry._engine) as connection:
            connection.execute(statement)
            raise KeyError

    with pytest.raises(KeyError):
        delete_and_fail()
    assert len(rows(registry._engine)["registry"]) == 1


def test_a_database_held_too_long_is_busy_for_writers_and_not_for_readers(
    registry: Registry, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "PATIENCE_S", 0.05)
    with (
        session.write(registry._engine),
        Registry.open(settings=settings) as other,
    ):
        assert other.events() == []
        with pytest.raises(DatabaseBusyError) as caught:
            other.append_event("x", "y", {})
    held = f"expected {registry.location} within 0.05 s, another process held it longer ("
    assert caught.value.message.startswith(held)
    assert caught.value.hint == "Try again when the other process is done."
    assert registry.append_event("x", "y", {}).sequence == 1


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
    monkeypatch.setattr(sqlite_file, "_may_write", lambda _: False)
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
    assert len(list(read_only.blobs.glob("??/*"))) == 3


def test_registering_a_known_base_needs_no_writing(read_only: Settings) -> None:
    with Registry.open(settings=read_only) as registry:
        assert registry.add_base("base", make_record(), b"record of base").name == "base"


def test_a_read_only_connection_cannot_write_even_by_hand(read_only: Settings) -> None:
    connection = sqlite_file.open_read_only(read_only.sqlite_path, patience_s=1)
    try:
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            connection.execute("DELETE FROM events")
    finally:
        connection.close()


def locked_away(path: Path, left: tuple[str, ...] = ()) -> None:
    """Take the right to write to a registry away, with these files of a crashed writer beside it."""
    writer = sqlite3.connect(path)
    writer.execute("CREATE TABLE unfinished (x)")
    writer.commit()
    copies = {ending: Path(f"{path}{ending}").read_bytes() for ending in left}
    main = path.read_bytes()
    writer.close()
    if left:  # as if the writer had not lived to close it
        path.write_bytes(main)
    for ending, data in copies.items():
        Path(f"{path}{ending}").write_bytes(data)
    for file in path.parent.iterdir():
        file.chmod(0o444 if file.is_file() else 0o555)
    path.parent.chmod(0o555)


@pytest.fixture
def away(sqlite_settings: Settings) -> Iterator[Path]:
    """The file of a registry in a folder of its own, made writable again at the end."""
    path = sqlite_settings.sqlite_path.parent / "away" / "registry.db"
    Registry.create(str(path)).close()
    yield path
    path.parent.chmod(0o755)


@needs_permissions
@pytest.mark.parametrize("left", [(), ("-wal", "-shm")], ids=["closed", "with its index"])
def test_a_folder_that_cannot_be_written_is_read(away: Path, left: tuple[str, ...]) -> None:
    locked_away(away, left)

    def look() -> tuple[bool, list[Any], int]:
        with Registry.open(str(away)) as registry, session.read(registry._engine) as connection:
            count = connection.exec_driver_sql("SELECT count(*) FROM unfinished").scalar_one()
            return registry.is_read_only, registry.events(), count

    before = sorted(away.parent.iterdir())
    assert obeying_permissions(look) == (True, [], 0)
    assert sorted(away.parent.iterdir()) == before


@needs_permissions
def test_a_transaction_to_be_rolled_back_in_a_folder_that_cannot_be_written_is_not_passed_over(
    away: Path,
) -> None:
    with sqlite3.connect(away) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    connection.close()
    Path(f"{away}-journal").write_bytes(b"\xd9\xd5\x05\xf9 \xa1c\xd7".ljust(512, b"\0"))
    locked = [away, Path(f"{away}-journal")]
    for file in locked:
        file.chmod(0o444)
    away.parent.chmod(0o555)
    with pytest.raises(StoreError, match=r"got unfinished writes in registry\.db-journal"):
        obeying_permissions(lambda: Registry.open(str(away)))


@needs_permissions
def test_writes_left_unfinished_in_a_folder_that_cannot_be_written_are_not_passed_over(
    away: Path,
) -> None:
    locked_away(away, ("-wal",))
    with pytest.raises(StoreError) as caught:
        obeying_permissions(lambda: Registry.open(str(away)))
    assert caught.value.message == (
        f"expected a registry that can be read at {away}, got unfinished writes in "
        "registry.db-wal, which cannot be settled here: it is read-only."
    )
    assert caught.value.hint == ("Let somebody who may write there settle them: safelatch db check")
    away.parent.chmod(0o755)
    away.chmod(0o644)
    with Registry.open(str(away)) as registry, session.read(registry._engine) as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM unfinished").scalar_one() == 0


@needs_permissions
def test_an_empty_rest_of_a_writer_hides_nothing(away: Path) -> None:
    Path(f"{away}-wal").touch()
    away.parent.chmod(0o555)
    away.chmod(0o444)
    assert obeying_permissions(lambda: Registry.open(str(away)).events()) == []


@needs_permissions
def test_a_file_that_cannot_be_written_is_read(away: Path) -> None:
    away.chmod(0o444)

    def look() -> tuple[bool, list[Any]]:
        with Registry.open(str(away)) as registry:
            return registry.is_read_only, registry.events()

    assert obeying_permissions(look) == (True, [])


@needs_permissions
def test_a_folder_that_cannot_be_entered_is_not_called_empty(away: Path) -> None:
    away.parent.chmod(0o000)
    with pytest.raises(StoreError, match="got: Permission denied") as caught:
        obeying_permissions(lambda: Registry.open(str(away)))
    assert "safelatch --db PATH init" in str(caught.value.hint)
    assert not isinstance(caught.value, RegistryMissingError)


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
    assert caught.value.hint == "Install it: pip install 'safelatch[postgres]'"


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
