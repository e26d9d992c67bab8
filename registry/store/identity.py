"""Who a registry is: an id drawn when it was made, which moves with its database.

A place says nothing: two machines may have a registry each at the same one. A copy of a database is
the same registry twice; let no two of them be written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from registry.errors import CorruptStoreError
from registry.store import session
from registry.store.tables import identity

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine


def registry_id(engine: Engine) -> str:
    """Return the id of the registry, 32 hex digits.

    Raises:
        CorruptStoreError: it has none.
    """
    with session.read(engine) as connection:
        return read_id(connection)


def read_id(connection: Connection) -> str:
    """Return the id of the registry, 32 hex digits, in the caller's transaction.

    Raises:
        CorruptStoreError: it has none.
    """
    found = connection.scalar(select(identity.c.id))
    if found is None:
        raise CorruptStoreError(
            f"{session.location(connection.engine)}: expected the id of the registry, found none.",
            hint="Restore the database from a backup.",
        )
    return str(found)
