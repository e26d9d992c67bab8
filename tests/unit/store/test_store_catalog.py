from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.store_builders import publish

from registry.errors import DatabaseOutdatedError, RegistryMissingError
from registry.store import migrate, session
from registry.store.catalog import Registry

if TYPE_CHECKING:
    from pathlib import Path

    from registry.settings import Settings


@pytest.mark.parametrize(
    "name", ["plain.db", "50% off %s %20.db", "two words.db", 'it\'s "quoted".db', "a?b=c#d&e.db"]
)
def test_any_file_name_is_a_registry(tmp_path: Path, name: str) -> None:
    path = tmp_path / "folder 1%" / name
    with Registry.create(str(path)) as registry:
        publish(registry, "lock", "1.0.0")
        assert registry.location == f"sqlite:///{path}"
        assert migrate.check(registry._engine) == []
    with Registry.open(f"sqlite:///{path}") as registry:
        assert [line.name for line in registry.lines()] == ["lock"]
    assert sorted(p.name for p in path.parent.iterdir()) == sorted([name, "blobs"])


def test_create_is_safe_to_repeat(sqlite_settings: Settings) -> None:
    for version in ("1.0", "2.0"):
        with Registry.create(settings=sqlite_settings) as registry:
            publish(registry, "lock", version)
    with Registry.open(settings=sqlite_settings) as registry:
        assert len(registry.versions("lock")) == 2


def test_open_refuses_what_is_not_there_and_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(RegistryMissingError) as caught:
        Registry.open(str(tmp_path / "none" / "registry.db"))
    assert "safelatch init" in str(caught.value.hint)
    assert list(tmp_path.iterdir()) == []


def test_a_file_left_empty_by_a_crash_is_missing_and_create_completes_it(
    sqlite_settings: Settings,
) -> None:
    sqlite_settings.sqlite_path.touch()
    with pytest.raises(RegistryMissingError):
        Registry.open(settings=sqlite_settings)
    with Registry.create(settings=sqlite_settings) as registry:
        assert registry.lines() == []
        with session.read(registry._engine) as connection:
            mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
    assert mode == "wal"


def test_a_stale_registry_is_not_migrated_by_opening(
    registry: Registry, settings: Settings
) -> None:
    with session.write(registry._engine) as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0000'")
    with pytest.raises(DatabaseOutdatedError):
        Registry.open(settings=settings)
    assert migrate.current(registry._engine) == "0000"


def test_url_and_settings_together_are_a_mistake(sqlite_settings: Settings) -> None:
    with pytest.raises(TypeError, match="url or settings"):
        Registry.open("x.db", settings=sqlite_settings)


def test_closing_twice_is_fine(registry: Registry) -> None:
    location = registry.location
    registry.close()
    registry.close()
    assert registry.location == location
    assert registry.lines() == []


def test_the_public_name_is_the_catalog() -> None:
    import registry

    assert registry.Registry is Registry
