"""Engines and transactions: the same promises on SQLite and PostgreSQL.

- ``write`` is one transaction at a time in the whole registry: BEGIN IMMEDIATE on SQLite, an
  advisory lock on PostgreSQL. What is read inside it is still true when it commits, so deciding
  and inserting never race, and the event chain has one end.
- ``read`` sees one state of the database and never waits for writers.
- SQLite: foreign keys on, 30 s of patience, WAL set once at creation, never a file made by
  opening it. A file that cannot be written is opened with ``mode=ro``.
- Errors of the driver leave as ``StoreError``; parameters never appear in their text.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import NullPool

from registry.errors import (
    DatabaseBusyError,
    MissingDependencyError,
    RegistryMissingError,
    StoreError,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Connection, Engine

    from registry.settings import Settings

PATIENCE_S = 30
"""Longest wait for another writer, seconds."""

_WRITER_KEY = 0x5AFE1A7C  # names our advisory lock among those of the PostgreSQL database
_LATER = "Try again when the other process is done."
_BUSY_SQLITE = ("database is locked", "database table is locked", "database schema is locked")
_BUSY_POSTGRESQL = ("55P03", "40P01", "40001")  # lock timeout, deadlock, serialization


def connect(settings: Settings, *, create: bool = False) -> Engine:
    """Return an engine for the registry of ``settings``; no table is read or made.

    Args:
        settings: Where the registry is.
        create: Make the SQLite file and its folder when they are not there.

    Raises:
        RegistryMissingError: the SQLite file is not there and ``create`` is false.
        UsageError: the URL is not one of SQLite or PostgreSQL.
        MissingDependencyError: the driver of PostgreSQL is not installed.
    """
    path = settings.sqlite_path
    if path is None:
        return _connect_server(settings.db_url)
    path = path.absolute()
    if create:
        _create_file(path)
    elif not path.is_file():
        raise missing(path)
    return _connect_file(path)


def missing(path: Path) -> RegistryMissingError:
    """Return the error that says that no registry is at ``path``."""
    return RegistryMissingError(
        f"expected a registry at {path}, found none.", hint="Make one: safelatch init"
    )


def location(engine: Engine) -> str:
    """Return where the registry is, fit to be shown: no password, no query."""
    if engine.dialect.name == "sqlite":
        return f"sqlite:///{engine.url.database}"
    return engine.url.set(query={}).render_as_string(hide_password=True)


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
def write(engine: Engine) -> Iterator[Connection]:
    """Yield a connection in the registry's one writing transaction; commit at the end.

    Raises:
        DatabaseBusyError: another writer held the database for longer than 30 s.
        StoreError: the registry is read-only, or the database cannot be reached or written.
    """
    require_writable(engine)
    with _translated(engine), engine.connect() as connection:
        connection.execution_options(safelatch_writes=True)
        with connection.begin():
            if connection.dialect.name == "postgresql":
                connection.execute(text(f"SET LOCAL lock_timeout = '{PATIENCE_S}s'"))
                lock = text("SELECT pg_advisory_xact_lock(:key)")
                connection.execute(lock, {"key": _WRITER_KEY})
            yield connection


def _connect_file(path: Path) -> Engine:
    read_only = not (_is_writable(path) and _is_writable(path.parent))
    opener = _open_read_only if read_only else _open_writable
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        creator=lambda: opener(path),
        hide_parameters=True,
        execution_options={"safelatch_read_only": read_only},
        poolclass=NullPool if read_only else None,  # how to open it is decided anew each time
    )
    event.listen(engine, "begin", _begin)
    return engine


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("safelatch_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _is_writable(path: Path) -> bool:
    return os.access(path, os.W_OK)


def _open_writable(path: Path) -> sqlite3.Connection:
    return _open(path, "mode=rw")


def _open_read_only(path: Path) -> sqlite3.Connection:
    connection = _open(path, "mode=ro")
    try:
        connection.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.OperationalError:
        connection.close()
        # A WAL database wants to make its index file. Where it cannot and nobody has it open for
        # writing (there would be a -wal file), the main file alone is the whole database.
        if _is_writable(path.parent) or path.with_name(path.name + "-wal").exists():
            raise
        return _open(path, "immutable=1")
    return connection


def _open(path: Path, query: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.as_uri()}?{query}",
        uri=True,
        timeout=PATIENCE_S,
        isolation_level=None,  # transactions are begun by ``_begin``, never by the driver
        check_same_thread=False,  # the pool hands a connection to one thread at a time
    )
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection


def _create_file(path: Path) -> None:
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    except OSError as error:
        raise StoreError(
            f"expected a place for a registry at {path}, got: {error.strerror}.",
            hint="Name one that can be written: safelatch --db PATH init",
        ) from error
    if not _is_writable(path) or path.stat().st_size:
        return
    deadline = time.monotonic() + PATIENCE_S
    while True:
        connection = _open(path, "mode=rw")
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if time.monotonic() > deadline:
                raise DatabaseBusyError(
                    f"{path}: {error} for {PATIENCE_S} s.", hint=_LATER
                ) from error
            time.sleep(0.02)  # SQLite does not wait by itself for a change of journal
        else:
            return
        finally:
            connection.close()


def _connect_server(db_url: str) -> Engine:
    try:
        url = make_url(db_url)
    except ArgumentError as error:
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
            hint="Install it: pip install 'psycopg[binary]'",
        ) from error


def _unknown_url(db_url: str) -> UsageError:
    shown = db_url.rpartition("@")[2]  # what stands before may hold a password
    return UsageError(
        f"expected sqlite:///FILE or postgresql://HOST/DATABASE, got {shown!r}.",
        hint="Name the registry: --db URL, or export SAFELATCH_DB=URL",
    )


@contextmanager
def _translated(engine: Engine) -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        where, fact = location(engine), str(error.orig).partition("\n")[0]
        if _is_busy(error.orig):
            raise DatabaseBusyError(
                f"{where} was held by another process for longer than {PATIENCE_S} s ({fact}).",
                hint=_LATER,
            ) from error
        raise StoreError(
            f"{where} cannot serve the request: {fact}.",
            hint="See what is wrong with it: safelatch db check",
        ) from error


def _is_busy(error: Any) -> bool:
    if isinstance(error, sqlite3.OperationalError):
        return str(error).startswith(_BUSY_SQLITE)
    return getattr(error, "sqlstate", None) in _BUSY_POSTGRESQL
