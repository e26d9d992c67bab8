from __future__ import annotations

import io
import logging
import multiprocessing
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine, text
from support import store_workers
from support.store_migrations import (
    NEXT,
    lost,
    next_release,
    old_database,
    released,
    revisions,
    rows,
)

from registry.errors import CorruptStoreError, DatabaseOutdatedError, StoreError
from registry.resources import bundled_dir
from registry.store import migrate, session
from registry.store.catalog import Registry
from registry.store.tables import metadata

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from registry.settings import Settings


def _set_revision(registry: Registry, revision: str) -> None:
    with session.write(registry._engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :r"), {"r": revision})


def test_the_head_is_the_last_revision_of_one_line() -> None:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(bundled_dir("migrations")))
    assert ScriptDirectory.from_config(config).get_heads() == [migrate.HEAD]


def test_a_new_registry_is_at_head_and_differs_in_nothing(registry: Registry) -> None:
    assert migrate.current(registry._engine) == migrate.HEAD
    assert migrate.check(registry._engine) == []


def test_alembics_own_check_finds_no_difference(registry: Registry) -> None:
    from alembic import command

    with session.write(registry._engine) as connection:
        config = migrate._config(connection)
        config.stdout = io.StringIO()
        command.check(config)
        assert "No new upgrade operations" in config.stdout.getvalue()


def test_the_migrations_make_every_constraint_of_the_tables(
    sqlite_registry: Registry, tmp_path: Path
) -> None:
    direct = create_engine(f"sqlite:///{tmp_path / 'direct.db'}")
    metadata.create_all(direct)
    assert _definitions(sqlite_registry._engine) == _definitions(direct)
    direct.dispose()


def _definitions(engine: Engine) -> dict[str, list[str]]:
    query = "SELECT name, sql FROM sqlite_master WHERE type IN ('table', 'index') AND sql NOT NULL"
    with engine.connect() as connection:
        found = dict(connection.exec_driver_sql(query).all())
    found.pop("alembic_version", None)
    return {
        name: sorted(re.sub(r'["\s]+', " ", line).strip(" ,") for line in sql.splitlines())
        for name, sql in found.items()
    }


def test_upgrade_from_nothing_reports_both_revisions_and_repeats(settings: Settings) -> None:
    engine = session.connect(settings, create=True)
    assert migrate.upgrade(engine) == (None, migrate.HEAD)
    assert migrate.upgrade(engine) == (migrate.HEAD, migrate.HEAD)
    engine.dispose()


def test_an_older_database_is_refused_with_both_revisions_and_the_command(
    registry: Registry, settings: Settings
) -> None:
    _set_revision(registry, "0000")
    for opening in (Registry.open, Registry.create):
        with pytest.raises(DatabaseOutdatedError) as got:
            opening(settings=settings)
        assert str(got.value) == (
            f"{registry.location}: expected revision {migrate.HEAD}, got 0000.\n"
            "Back it up, then run: safelatch db upgrade"
        )


def test_a_database_of_a_newer_release_is_neither_opened_nor_upgraded(
    registry: Registry, settings: Settings
) -> None:
    _set_revision(registry, "0999")
    for refuse in (
        lambda: Registry.open(settings=settings),
        lambda: Registry.create(settings=settings),
        lambda: migrate.upgrade(registry._engine),
        lambda: migrate.check(registry._engine),
    ):
        with pytest.raises(DatabaseOutdatedError) as got:
            refuse()
        assert str(got.value) == (
            f"{registry.location}: expected revision {migrate.HEAD}, which this release works "
            "with, got 0999, which a newer release made.\n"
            "Install a newer release of safelatch (in a checkout: git pull, then pip install .)"
        )
    assert migrate.current(registry._engine) == "0999"


def test_an_empty_database_is_refused_with_the_command(settings: Settings) -> None:
    engine = session.connect(settings, create=True)
    with pytest.raises(DatabaseOutdatedError) as got:
        migrate.require_current(engine)
    assert str(got.value) == (
        f"{session.location(engine)}: expected revision {migrate.HEAD}, got an empty database.\n"
        "Make its tables: safelatch db upgrade"
    )
    engine.dispose()


def test_a_server_without_tables_waits_for_the_command(settings: Settings) -> None:
    if settings.sqlite_path is not None:
        pytest.skip("SAFELATCH_TEST_POSTGRESQL names no server")
    for opening in (Registry.open, Registry.create):
        with pytest.raises(DatabaseOutdatedError, match="got an empty database"):
            opening(settings=settings)


def test_two_revisions_in_one_database_are_corrupt(registry: Registry) -> None:
    with session.write(registry._engine) as connection:
        connection.execute(text("INSERT INTO alembic_version VALUES ('0999')"))
    with pytest.raises(CorruptStoreError, match="expected one revision, got 2"):
        migrate.current(registry._engine)


def test_a_database_of_something_else_is_left_alone(sqlite_settings: Settings) -> None:
    other = sqlite3.connect(str(sqlite_settings.sqlite_path))
    other.execute("CREATE TABLE cookies (id INTEGER)")
    other.commit()
    for opening in (Registry.open, Registry.create):
        with pytest.raises(StoreError, match="got a database with the tables cookies"):
            opening(settings=sqlite_settings)
    assert [name for (name,) in other.execute("SELECT name FROM sqlite_master")] == ["cookies"]
    other.close()


def test_a_failing_upgrade_leaves_an_empty_database(
    sqlite_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "migrations 100%s"
    shutil.copytree(bundled_dir("migrations"), broken)
    last = broken / "versions" / "0001_initial.py"
    last.write_text(last.read_text().replace("    create_journal()\n", "    1 / 0\n"))
    monkeypatch.setattr(migrate, "bundled_dir", lambda _: broken)
    engine = session.connect(sqlite_settings, create=True)
    with pytest.raises(ZeroDivisionError):
        migrate.upgrade(engine)
    assert migrate.current(engine) is None
    monkeypatch.undo()
    assert migrate.upgrade(engine) == (None, migrate.HEAD)
    engine.dispose()


def test_an_upgrade_that_is_killed_leaves_the_old_revision_and_a_second_one_finishes(
    settings: Settings, tmp_path: Path
) -> None:
    engine = old_database(settings, migrate.HEAD)
    before = rows(engine)
    engine.dispose()
    migrations = next_release(tmp_path / "migrations")
    wait, reached = migrations / "versions" / "wait", migrations / "versions" / "reached"
    wait.touch()
    process = multiprocessing.get_context("spawn").Process(
        target=store_workers.upgrade_to_next, args=(0, settings, migrations)
    )
    process.start()
    try:
        while not reached.exists():  # a table is rebuilt, the transaction is open
            assert process.is_alive()
            time.sleep(0.02)
    finally:
        process.kill()
        process.join()
    assert migrate.current(engine) == migrate.HEAD
    assert rows(engine) == before
    assert migrate.check(engine) == []
    wait.unlink()
    with released(migrations):
        assert migrate.upgrade(engine) == (revisions()[-1], NEXT)
    assert lost(before, rows(engine)) == []
    engine.dispose()


def test_downgrade_leaves_no_table(registry: Registry) -> None:
    from alembic import command
    from sqlalchemy import inspect

    with session.write(registry._engine) as connection:
        command.downgrade(migrate._config(connection), "base")
        assert inspect(connection).get_table_names() == ["alembic_version"]


def test_check_finds_a_changed_schema_and_a_broken_reference(sqlite_registry: Registry) -> None:
    raw = sqlite3.connect(sqlite_registry._engine.url.database)
    raw.execute("ALTER TABLE bases ADD COLUMN colour TEXT")
    raw.execute("INSERT INTO version_files VALUES (99, 'x', 'blake3:0')")
    raw.commit()
    raw.close()
    findings = migrate.check(sqlite_registry._engine)
    assert any("colour" in finding for finding in findings)
    assert any(finding.startswith("foreign key: version_files") for finding in findings)


def test_migrating_prints_nothing_and_leaves_logging_alone(
    sqlite_settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    before = (logging.root.level, list(logging.root.handlers), logging.getLogger("alembic").level)
    with Registry.create(settings=sqlite_settings) as registry:
        migrate.check(registry._engine)
    assert capfd.readouterr() == ("", "")
    now = (logging.root.level, list(logging.root.handlers), logging.getLogger("alembic").level)
    assert now == before


def test_importing_the_package_loads_neither_sqlalchemy_nor_alembic() -> None:
    code = (
        "import sys, registry, registry.store, registry.settings, registry.reference\n"
        "print(sorted({'sqlalchemy', 'alembic'} & set(sys.modules)))\n"
        "import registry.store.catalog\n"
        "print('alembic' in sys.modules)"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:2] == ["[]", "False"]
