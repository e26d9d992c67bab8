"""A registry per test: SQLite, or the PostgreSQL server in SAFELATCH_TEST_POSTGRESQL."""

from __future__ import annotations

import os
import shutil
import uuid
from typing import TYPE_CHECKING

import pytest

from registry.settings import Settings
from registry.store import migrate, session
from registry.store.catalog import Registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SERVER = os.environ.get("SAFELATCH_TEST_POSTGRESQL")


@pytest.fixture
def sqlite_settings(tmp_path: Path) -> Settings:
    return Settings.load(str(tmp_path / "registry.db"), environ={"SAFELATCH_CACHE": str(tmp_path)})


@pytest.fixture
def settings(tmp_path: Path, sqlite_settings: Settings) -> Iterator[Settings]:
    if SERVER is None:
        yield sqlite_settings
        return
    import psycopg

    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(f"{SERVER}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield Settings(db_url=f"{SERVER}/{name}", blobs=tmp_path / "blobs", cache=tmp_path)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def new_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "new.db"
    Registry.create(str(path)).close()
    return path


@pytest.fixture
def registry(settings: Settings, new_file: Path) -> Iterator[Registry]:
    if settings.sqlite_path is None:
        engine = session.connect(settings)
        migrate.upgrade(engine)
        engine.dispose()
    else:
        shutil.copy(new_file, settings.sqlite_path)
    with Registry.create(settings=settings) as opened:
        yield opened


@pytest.fixture
def sqlite_registry(sqlite_settings: Settings, new_file: Path) -> Iterator[Registry]:
    shutil.copy(new_file, sqlite_settings.sqlite_path)
    with Registry.create(settings=sqlite_settings) as opened:
        yield opened
