"""Old databases and a release that is not there yet, for tests of upgrading."""

from __future__ import annotations

import datetime as dt
import shutil
import sqlite3
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import MetaData, String, create_engine, delete, func, insert, select

from registry.resources import bundled_dir
from registry.store import migrate, session

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

    from registry.settings import Settings

GOLDEN = Path(__file__).parents[1] / "golden" / "db"
NEXT = f"{int(migrate.HEAD) + 1:04d}"
_NEXT_REVISION = """
import time
from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = {revision!r}, {before!r}, None, None
FOLDER = Path(__file__).parent


def upgrade():
{body}


def wait_to_be_killed():
    if (FOLDER / "wait").exists():
        (FOLDER / "reached").touch()
        time.sleep(600)
"""
REBUILD = """
    with op.batch_alter_table("bases") as table:
        table.add_column(sa.Column("colour", sa.Text(), server_default="red"))
        table.create_check_constraint("colour_known", "colour = 'red'")
    wait_to_be_killed()
    op.execute("UPDATE versions SET state_reason = state_reason")
"""
"""A change that SQLite can only make by writing the table anew: others name its rows."""


def next_release(folder: Path, body: str = REBUILD) -> Path:
    """Return the migrations with one more revision that does ``body``."""
    shutil.copytree(bundled_dir("migrations"), folder)
    revision = _NEXT_REVISION.format(revision=NEXT, before=migrate.HEAD, body=body)
    (folder / "versions" / f"{NEXT}_next.py").write_text(revision)
    return folder


@contextmanager
def released(folder: Path) -> Iterator[None]:
    """Let this process be of the release with the migrations in ``folder``."""
    before = migrate.HEAD, migrate.bundled_dir
    migrate.HEAD, migrate.bundled_dir = NEXT, lambda _: folder
    try:
        yield
    finally:
        migrate.HEAD, migrate.bundled_dir = before


def revisions() -> list[str]:
    """Return every revision there is, oldest first."""
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(bundled_dir("migrations")))
    found = ScriptDirectory.from_config(config).walk_revisions()
    return [script.revision for script in found][::-1]


def old_database(settings: Settings, revision: str) -> Engine:
    """Return an engine of the frozen database of ``revision``, loaded as ``settings`` say."""
    path = settings.sqlite_path
    if path is not None:
        _load(path, revision)
        return session.connect(settings)
    from alembic import command

    engine = session.connect(settings)
    with session.write(engine) as connection:
        command.upgrade(migrate._config(connection), revision)
    copy = settings.blobs.with_name("frozen.db")
    _load(copy, revision)
    frozen = create_engine(f"sqlite:///{copy}")
    with session.write(engine) as connection:
        _fill(connection, frozen)
    frozen.dispose()
    return engine


def rows(engine: Engine) -> dict[str, list[dict[str, Any]]]:
    """Return every row of every table, each as a dict, in the order of the primary keys."""
    found = {}
    with session.read(engine) as connection:
        tables = MetaData()
        tables.reflect(connection)
        for table in tables.sorted_tables:
            if table.name != "alembic_version":
                result = connection.execute(select(table).order_by(*table.primary_key))
                found[table.name] = [_plain(row._asdict()) for row in result]
    return found


def lost(
    before: dict[str, list[dict[str, Any]]], after: dict[str, list[dict[str, Any]]]
) -> list[str]:
    """Return every row of ``before`` that ``after`` does not have with the same values."""
    return [
        f"{table}: {row}"
        for table, old in before.items()
        for row in old
        if not any(row.items() <= new.items() for new in after.get(table, []))
    ]


def _load(path: Path, revision: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript((GOLDEN / f"{revision}.sql").read_text("utf-8"))
    connection.close()


def _fill(connection: Any, frozen: Engine) -> None:
    tables, target = MetaData(), MetaData()
    tables.reflect(frozen)
    target.reflect(connection)
    with frozen.connect() as source:
        for table in tables.sorted_tables:
            if table.name == "alembic_version":
                continue
            content = [_plain(row._asdict()) for row in source.execute(select(table))]
            filled = target.tables[table.name]
            if table.name == "registry":  # the revision draws an id; that of the frozen one counts
                connection.execute(delete(filled))
            connection.execute(insert(filled), content)
            if "id" in filled.c and not isinstance(filled.c.id.type, String):
                sequence = func.pg_get_serial_sequence(table.name, "id")
                connection.execute(select(func.setval(sequence, func.max(filled.c.id))))


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _utc(value) if isinstance(value, dt.datetime) else value
        for name, value in row.items()
    }


def _utc(moment: dt.datetime) -> dt.datetime:
    if moment.tzinfo is None:
        return moment.replace(tzinfo=dt.timezone.utc)
    return moment.astimezone(dt.timezone.utc)
