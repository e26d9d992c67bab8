"""A registry per test: SQLite, or the PostgreSQL server in SAFELATCH_TEST_POSTGRESQL."""

from __future__ import annotations

import os
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


@pytest.fixture
def registry(settings: Settings) -> Iterator[Registry]:
    if SERVER is not None:
        engine = session.connect(settings)
        migrate.upgrade(engine)
        engine.dispose()
    with Registry.create(settings=settings) as opened:
        yield opened


@pytest.fixture
def sqlite_registry(sqlite_settings: Settings) -> Iterator[Registry]:
    with Registry.create(settings=sqlite_settings) as opened:
        yield opened
