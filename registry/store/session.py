"""Engines and transactions: the same promises on SQLite and PostgreSQL.

- ``write`` is one transaction at a time in the whole registry: BEGIN IMMEDIATE on SQLite, an
  advisory lock on PostgreSQL. What is read inside it is still true when it commits, so deciding
  and inserting never race, and the event chain has one end.
- ``read`` sees one state of the database and never waits for writers.
- Both wait 30 s for another writer. What is particular to SQLite's file is in ``sqlite_file``.
- Errors of the driver leave as ``StoreError``; parameters never appear in their text.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import NullPool

from registry.errors import (
    DatabaseBusyError,
    MissingDependencyError,
    StoreError,
    UsageError,
)
from registry.store import sqlite_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Engine

    from registry.settings import Settings

PATIENCE_S = 30
"""Longest wait for another writer, seconds."""

_WRITER_KEY = 0x5AFE1A7C  # names our advisory lock among those of the PostgreSQL database
_BUSY_POSTGRESQL = ("55P03", "40P01", "40001")  # lock timeout, deadlock, serialization
_FULL_POSTGRESQL = "53100"


def connect(settings: Settings, *, create: bool = False) -> Engine:
    """Return an engine for the registry of ``settings``; no table is read or made.

    Args:
        settings: Where the registry is.
        create: Make the SQLite file and its folder when they are not there.

    Raises:
        RegistryMissingError: the SQLite file is not there and ``create`` is false.
        StoreError: its folder cannot be entered, or it cannot be made.
        UsageError: the URL is not one of SQLite or PostgreSQL.
        MissingDependencyError: the driver of PostgreSQL is not installed.
    """
    path = settings.sqlite_path
    if path is None:
        return _connect_server(settings.db_url)
    path = path.absolute()
    if create:
        sqlite_file.make(path, patience_s=PATIENCE_S)
    else:
        sqlite_file.require(path)
    return _connect_file(path)


def location(engine: Engine) -> str:
    """Return where the registry is, fit to be shown: no password, no query."""
    if engine.dialect.name == "sqlite":
        return f"sqlite:///{engine.url.database}"
    return engine.url.set(query={}).render_as_string(hide_password=True)


def name_beside(engine: Engine, folder: Path) -> str:
    """Return where the registry is, seen from ``folder``, without user and password.

    For people to find it: others may be called the same. A SQLite file is named relative to the
    folder: the two may move together.
    """
    url = engine.url
    if engine.dialect.name != "sqlite":
        port = url.port or 5432
        bare = URL.create("postgresql", host=url.host, port=port, database=url.database)
        return bare.render_as_string()
    path = os.path.realpath(url.database or "")
    try:
        return Path(os.path.relpath(path, os.path.realpath(folder))).as_posix()
    except ValueError:  # another drive of Windows
        return Path(path).as_posix()


def is_read_only(engine: Engine) -> bool:
    """Return whether the registry can be read but not written here."""
    return bool(engine.get_execution_options().get("safelatch_read_only", False))


def require_writable(engine: Engine) -> None:
    """Raise ``StoreError`` if the registry can only be read here."""
    if is_read_only(engine):
        raise StoreError(
            f"expected a registry that can be written at {location(engine)}, it is read-only.",
            hint="Write to another one: safelatch --db PATH init",
        )


@contextmanager
def read(engine: Engine) -> Iterator[Connection]:
    """Yield a connection that sees one state of the database.

    Raises:
        DatabaseBusyError: another process held the database for longer than 30 s.
        StoreError: the database cannot be reached or read.
    """
    with _translated(engine), engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            connection.execution_options(isolation_level="REPEATABLE READ")
        with connection.begin():
            yield connection


@contextmanager
def write(engine: Engine, *, rebuilds: bool = False) -> Iterator[Connection]:
    """Yield a connection in the registry's one writing transaction; commit at the end.

    Args:
        engine: The registry.
        rebuilds: Whether tables that others name may be rebuilt in it: then SQLite does not check
            foreign keys, and the caller has to, before the end.

    Raises:
        DatabaseBusyError: another writer held the database for longer than 30 s.
        StoreError: the registry is read-only, or the database cannot be reached or written.
    """
    require_writable(engine)
    with _translated(engine), engine.connect() as connection:
        connection.execution_options(safelatch_writes=True)
        with _foreign_keys(connection, off=rebuilds), connection.begin():
            if connection.dialect.name == "postgresql":
                connection.execute(text(f"SET LOCAL lock_timeout = '{PATIENCE_S}s'"))
                lock = text("SELECT pg_advisory_xact_lock(:key)")
                connection.execute(lock, {"key": _WRITER_KEY})
            yield connection


@contextmanager
def _foreign_keys(connection: Connection, *, off: bool) -> Iterator[None]:
    if not off or connection.dialect.name != "sqlite":
        yield
        return
    raw: Any = connection.connection.dbapi_connection
    raw.execute("PRAGMA foreign_keys = OFF")  # inside a transaction it would do nothing
    try:
        yield
    finally:
        if not connection.invalidated:  # an interrupt closes it: nobody will use it again
            raw.execute("PRAGMA foreign_keys = ON")


def _connect_file(path: Path) -> Engine:
    read_only = not sqlite_file.is_writable(path)
    opener = sqlite_file.open_read_only if read_only else sqlite_file.open_writable
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        creator=lambda: opener(path, patience_s=PATIENCE_S),
        hide_parameters=True,
        execution_options={"safelatch_read_only": read_only},
        poolclass=NullPool if read_only else None,  # how to open it is decided anew each time
    )
    event.listen(engine, "begin", _begin)
    return engine


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("safelatch_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _connect_server(db_url: str) -> Engine:
    try:
        url = make_url(db_url)
    except (ArgumentError, ValueError) as error:  # ValueError: a port that is no number
        raise _unknown_url(db_url) from error
    if url.drivername in {"postgresql", "postgres"}:
        url = url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() != "postgresql":
        raise _unknown_url(db_url)
    try:
        return create_engine(
            url, pool_pre_ping=True, hide_parameters=True, isolation_level="READ COMMITTED"
        )
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"expected the package {error.name} for {url.drivername}, found none.",
            hint="Install it: pip install 'safelatch[postgres]'",
        ) from error


def _unknown_url(db_url: str) -> UsageError:
    scheme = db_url.partition("://")[0]  # what stands behind may hold a password
    return UsageError(
        f"expected sqlite:///FILE or postgresql://HOST/DATABASE, got '{scheme}://...'.",
        hint="Name the registry: --db URL, or export SAFELATCH_DB=URL",
    )


@contextmanager
def _translated(engine: Engine) -> Iterator[None]:
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        where, fact = location(engine), str(cause).partition("\n")[0]
        if _is_busy(cause):
            raise DatabaseBusyError(
                f"expected {where} within {PATIENCE_S} s, another process held it longer ({fact}).",
                hint=sqlite_file.LATER,
            ) from error
        raise StoreError(
            f"{where} cannot serve the request: {fact}.",
            hint=_remedy(cause) or "See what is wrong with it: safelatch db check",
        ) from error


def _is_busy(error: Any) -> bool:
    if isinstance(error, sqlite3.OperationalError):
        return sqlite_file.is_busy(error)
    return getattr(error, "sqlstate", None) in _BUSY_POSTGRESQL


def _remedy(error: Any) -> str | None:
    if isinstance(error, sqlite3.Error):
        return sqlite_file.remedy(error)
    if getattr(error, "sqlstate", None) == _FULL_POSTGRESQL:
        return "Make room on the disk of the server, then run the same again."
    return None
