"""A registry per test: SQLite, or the PostgreSQL server in SAFELATCH_TEST_POSTGRESQL.

The variable is a URL without a database: postgresql://USER@HOST:PORT. Each test makes its own there.
"""

from __future__ import annotations

import os
import shutil
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from registry.settings import Settings
from registry.store import migrate, session
from registry.store.catalog import Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

SERVER = os.environ.get("SAFELATCH_TEST_POSTGRESQL")


@contextmanager
def _new_settings(folder: Path) -> Iterator[Settings]:
    if SERVER is None:
        environ = {"SAFELATCH_CACHE": str(folder)}
        yield Settings.load(str(folder / "registry.db"), environ=environ)
        return
    import psycopg

    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(f"{SERVER}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield Settings(db_url=f"{SERVER}/{name}", blobs=folder / "blobs", cache=folder)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def new_settings() -> Callable[[Path], AbstractContextManager[Settings]]:
    """Return the way to a database that nothing was made in yet."""
    return _new_settings


@pytest.fixture
def sqlite_settings(tmp_path: Path) -> Settings:
    return Settings.load(str(tmp_path / "registry.db"), environ={"SAFELATCH_CACHE": str(tmp_path)})


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    with _new_settings(tmp_path) as made:
        yield made


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
