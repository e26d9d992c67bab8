"""The triggers that keep events as they were written: made by ``migrations/``, known here.

A table that is written anew, as SQLite must for most changes, loses its triggers without a word.
``findings`` says so: ``migrate.upgrade`` does not end with one, ``migrate.check`` shows them.
Somebody who may change the tables can take the triggers away and put them back; what was changed
meanwhile is for the chain to show, see ``events``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

if TYPE_CHECKING:
    from sqlalchemy import Connection

_REFUSAL = "events are only appended: none is changed or removed"

_SQLITE = {
    "events_refuse_update": (
        "CREATE TRIGGER events_refuse_update BEFORE UPDATE ON events "
        f"BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END"
    ),
    "events_refuse_delete": (
        "CREATE TRIGGER events_refuse_delete BEFORE DELETE ON events "
        f"BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END"
    ),
    # INSERT OR REPLACE removes the row that is in its way, and fires no trigger of DELETE.
    "events_refuse_replace": (
        "CREATE TRIGGER events_refuse_replace BEFORE INSERT ON events "
        "WHEN NEW.sequence IS NOT (SELECT coalesce(max(sequence), 0) + 1 FROM events) "
        "OR EXISTS (SELECT 1 FROM events WHERE digest = NEW.digest) "
        "BEGIN SELECT RAISE(ABORT, 'events are only appended: none is changed or removed'); END"
    ),
}
_POSTGRESQL = {
    "events_refuse_change": (
        "CREATE TRIGGER events_refuse_change BEFORE DELETE OR UPDATE OR TRUNCATE ON events "
        "FOR EACH STATEMENT EXECUTE FUNCTION events_refuse_change() "
        f"AS BEGIN RAISE EXCEPTION '{_REFUSAL}'; END"
    ),
}


def findings(connection: Connection) -> list[str]:
    """Return every trigger of events that is missing, another, switched off or too many."""
    is_sqlite = connection.dialect.name == "sqlite"
    expected = _SQLITE if is_sqlite else _POSTGRESQL
    found = _in_sqlite(connection) if is_sqlite else _in_postgresql(connection)
    lines = [
        f"trigger: expected {sql}, got {found.get(name, 'none')}"
        for name, sql in sorted(expected.items())
        if found.get(name) != sql
    ]
    others = sorted(set(found) - set(expected))
    return [*lines, *(f"trigger: expected no other on events, got {found[one]}" for one in others)]


def _in_sqlite(connection: Connection) -> dict[str, str]:
    query = text(
        "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND lower(tbl_name) = 'events'"
    )
    return {row.name: row.sql for row in connection.execute(query)}


def _in_postgresql(connection: Connection) -> dict[str, str]:
    query = text(
        "SELECT tgname, tgenabled, pg_get_triggerdef(pg_trigger.oid, true) AS definition, prosrc "
        "FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid "
        "WHERE tgrelid = 'events'::regclass AND NOT tgisinternal"
    )
    return {
        row.tgname: f"{row.definition} AS {row.prosrc.strip().removesuffix(';')}"
        + ("" if row.tgenabled == "O" else f", switched to {row.tgenabled!r}")
        for row in connection.execute(query)
    }
