"""The SQLite file under a registry: making it, finding it, opening it as far as one may.

- Opening never makes a file. WAL is set once, when the file is made.
- A file that cannot be written is opened with ``mode=ro``. One with unfinished writes beside it
  that cannot be settled here is not opened: without them it may lack a revocation.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from contextlib import closing
from pathlib import Path

from registry.errors import DatabaseBusyError, RegistryMissingError, StoreError
from registry.store.mounts import warn_of_network

LATER = "Try again when the other process is done."
"""Hint of every error about a database that others hold."""

_ELSEWHERE = "Make room and allow writing there, or name another place: safelatch --db PATH init"
_BUSY = ("database is locked", "database table is locked", "database schema is locked")
_REMEDIES = {
    "database or disk is full": "Make room on the disk it is on, then run the same again.",
    "disk I/O error": "See whether its disk is full or fails, then: safelatch db check",
    "unable to open database file": "See whether its disk is full, and whether reading and writing "
    "is allowed there, then: safelatch db check",
    "file is not a database": "Name the registry's own file, or restore it: --db FILE",
}


def missing(path: Path) -> RegistryMissingError:
    """Return the error that says that no registry is at ``path``."""
    return RegistryMissingError(
        f"expected a registry at {path}, found none.", hint="Make one: safelatch init"
    )


def require(path: Path) -> None:
    """Check that there is a file at ``path``.

    Raises:
        RegistryMissingError: there is none.
        StoreError: its folder cannot be entered.
    """
    try:
        is_file = stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        is_file = False
    except OSError as error:
        raise StoreError(
            f"expected to reach a registry at {path}, got: {error.strerror}.",
            hint="Allow reading there, or name another one: safelatch --db PATH init",
        ) from error
    if not is_file:
        raise missing(path)


def make(path: Path, *, patience_s: float) -> None:
    """Make the file and its folder, in WAL mode; what is there already stays as it is.

    Raises:
        StoreError: it cannot be made.
        DatabaseBusyError: another process holds it for longer than ``patience_s``.
    """
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    except OSError as error:
        raise StoreError(
            f"expected a place for a registry at {path}, got: {error.strerror}.",
            hint=_ELSEWHERE,
        ) from error
    if not _may_write(path) or path.stat().st_size:
        return
    deadline = time.monotonic() + patience_s
    while True:
        try:
            with closing(_open(path, "mode=rw", patience_s)) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.Error as error:  # noqa: PERF203 -- what is tried again
            if not is_busy(error):
                raise StoreError(
                    f"expected a place for a registry at {path}, got: {error}.",
                    hint=remedy(error) or _ELSEWHERE,
                ) from error
            if time.monotonic() > deadline:
                raise DatabaseBusyError(
                    f"{path}: {error} for {patience_s} s.", hint=LATER
                ) from error
            time.sleep(0.02)  # SQLite does not wait by itself for a change of journal
        else:
            return


def is_writable(path: Path) -> bool:
    """Return whether the database at ``path`` can be written; warn if that is not safe there."""
    if not (_may_write(path) and _may_write(path.parent)):
        return False
    warn_of_network(path.parent)
    return True


def open_writable(path: Path, *, patience_s: float) -> sqlite3.Connection:
    """Return a connection that reads and writes."""
    return _open(path, "mode=rw", patience_s)


def open_read_only(path: Path, *, patience_s: float) -> sqlite3.Connection:
    """Return a connection that cannot write.

    Raises:
        StoreError: a writer left unfinished writes that cannot be settled here.
    """
    connection = _open(path, "mode=ro", patience_s)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.OperationalError as error:
        connection.close()
        if is_busy(error) or _may_write(path.parent):
            raise
        # A WAL database wants to make its index file. Where it cannot, the main file alone is the
        # whole database, unless a writer left something beside it.
        for ending in ("-wal", "-journal"):
            left = Path(f"{path}{ending}")
            if left.exists() and left.stat().st_size:
                raise StoreError(
                    f"expected a registry that can be read at {path}, got unfinished writes in "
                    f"{left.name}, which cannot be settled here: it is read-only.",
                    hint="Let somebody who may write there settle them: safelatch db check",
                ) from error
        return _open(path, "immutable=1", patience_s)
    return connection


def is_busy(error: sqlite3.Error) -> bool:
    """Return whether ``error`` says that another process holds the database."""
    return str(error).startswith(_BUSY)


def remedy(error: sqlite3.Error) -> str | None:
    """Return what to do about the disk that ``error`` complains of, ``None`` if of no disk."""
    return _REMEDIES.get(str(error))


def _may_write(path: Path) -> bool:
    return os.access(path, os.W_OK)


def _open(path: Path, query: str, patience_s: float) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.as_uri()}?{query}",
        uri=True,
        timeout=patience_s,
        isolation_level=None,  # transactions are begun by ``session``, never by the driver
        check_same_thread=False,  # the pool hands a connection to one thread at a time
    )
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection
