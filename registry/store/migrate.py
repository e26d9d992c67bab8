"""Schema revisions: which one a database is at, and the way to the newest.

- Only a brand-new SQLite file is migrated without being asked (``Registry.create``); every other
  database waits for ``safelatch db upgrade``.
- An upgrade is one writing transaction (see ``session.write``), so of several at once one
  migrates and the others find it done; a crash leaves the old revision.
- alembic is imported when it is needed, prints nothing and leaves logging alone. Its state is
  global to the process: one thread at a time.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from sqlalchemy import String, column, inspect, select, table

from registry.errors import CorruptStoreError, DatabaseOutdatedError, StoreError
from registry.resources import bundled_dir
from registry.store import triggers
from registry.store.session import location, read, write
from registry.store.tables import metadata
from registry.wording import INSTALL_NEWER, listed

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection, Engine

HEAD = "0004"
"""The revision this release works with: the last file of ``migrations/versions``."""

_VERSION_TABLE = "alembic_version"
_ALEMBIC = threading.Lock()


def current(engine: Engine) -> str | None:
    """Return the revision of the database; ``None`` when it is empty.

    Raises:
        StoreError: there are tables, and they are not a registry's.
    """
    with read(engine) as connection:
        return _revision(connection)


def require_current(engine: Engine) -> None:
    """Raise ``DatabaseOutdatedError`` unless the database is at ``HEAD``."""
    found = current(engine)
    if found != HEAD:
        raise _outdated(found, location(engine))


def upgrade(engine: Engine) -> tuple[str | None, str]:
    """Bring the database to ``HEAD``; return the revision before and after.

    Raises:
        DatabaseOutdatedError: the database is newer than this release.
        CorruptStoreError: it would be left with rows that name missing ones, or without the
            triggers that keep events; it is as it was.
        StoreError: there are tables, and they are not a registry's.
    """
    from alembic import command

    with _ALEMBIC, write(engine, rebuilds=True) as connection:
        before = _revision(connection)
        if before is not None and before > HEAD:
            raise _outdated(before, location(engine))
        if before != HEAD:
            command.upgrade(_config(connection), "head")
            _require_whole(connection)
        return before, HEAD


def check(engine: Engine) -> list[str]:
    """Return what differs between the database and this release; empty when nothing does.

    On SQLite the file's own consistency and its foreign keys are checked too, everywhere the
    triggers that keep events as they are.

    Raises:
        DatabaseOutdatedError: the database is at another revision.
    """
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    require_current(engine)
    with _ALEMBIC, read(engine) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        findings = [f"schema: {difference}" for difference in compare_metadata(context, metadata)]
        if connection.dialect.name == "sqlite":
            for (line,) in connection.exec_driver_sql("PRAGMA integrity_check"):
                if line != "ok":
                    findings.append(f"file: {line}")
        findings += _broken_references(connection)
        findings += triggers.findings(connection)
    return findings


def _require_whole(connection: Connection) -> None:
    """Raise unless what a rebuilt table can lose is there: named rows and the events' triggers."""
    findings = _broken_references(connection)
    if findings:
        raise CorruptStoreError(
            f"{location(connection.engine)}: expected rows that name rows which are there, got "
            f"{len(findings)} that do not:{listed(findings)}",
            hint="Nothing was changed. Restore the database from a backup.",
        )
    findings = triggers.findings(connection)
    if findings:
        raise CorruptStoreError(
            f"{location(connection.engine)}: expected the triggers that keep events as they are, "
            f"got {len(findings)} differences:{listed(findings)}",
            hint="Nothing was changed. Restore the database from a backup.",
        )


def _broken_references(connection: Connection) -> list[str]:
    if connection.dialect.name != "sqlite":
        return []  # a server checks at all times
    return [
        f"foreign key: {name} row {row} names a missing row of {parent}"
        for name, row, parent, _ in connection.exec_driver_sql("PRAGMA foreign_key_check")
    ]


def _revision(connection: Connection) -> str | None:
    names = set(inspect(connection).get_table_names())
    if _VERSION_TABLE not in names:
        if names:
            raise StoreError(
                f"{location(connection.engine)}: expected a registry, got a database with the "
                f"tables {', '.join(sorted(names)[:5])}.",
                hint="Name another place: safelatch --db URL init",
            )
        return None
    versions = table(_VERSION_TABLE, column("version_num", String))
    found = connection.scalars(select(versions.c.version_num)).all()
    if len(found) != 1:
        raise CorruptStoreError(
            f"{location(connection.engine)}: expected one revision, got {len(found)}.",
            hint="Restore the database from a backup.",
        )
    return str(found[0])


def _outdated(found: str | None, where: str) -> DatabaseOutdatedError:
    if found is not None and found > HEAD:
        return DatabaseOutdatedError(
            f"{where}: expected revision {HEAD}, which this release works with, got {found}, "
            "which a newer release made.",
            hint=INSTALL_NEWER,
        )
    if found is None:
        return DatabaseOutdatedError(
            f"{where}: expected revision {HEAD}, got an empty database.",
            hint="Make its tables: safelatch db upgrade",
        )
    return DatabaseOutdatedError(
        f"{where}: expected revision {HEAD}, got {found}.",
        hint="Back it up, then run: safelatch db upgrade",
    )


def _config(connection: Connection) -> Config:
    from alembic.config import Config

    config = Config()
    folder = str(bundled_dir("migrations")).replace("%", "%%")  # configparser interpolates
    config.set_main_option("script_location", folder)
    config.attributes["connection"] = connection
    return config
