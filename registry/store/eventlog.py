"""The event log of a registry: reading, adding, verifying; the chain itself is ``events``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry import moment
from registry.artifact.log_head import LogHead
from registry.errors import CorruptStoreError, NotFoundError
from registry.store import events, identity, session
from registry.wording import listed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Engine

    from registry.store.values import Event


class EventLog:
    """The events of one database, oldest first."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def events(self, limit: int | None = None) -> list[Event]:
        """Return the last ``limit`` events (all by default), oldest first.

        Raises:
            CorruptStoreError: one can no longer be read.
        """
        with session.read(self._engine) as connection:
            return events.newest(connection, limit)

    def append_event(self, action: str, subject: str, detail: Mapping[str, Any]) -> Event:
        """Add an event that is no change of the catalog (such as an opt-out) to the log."""
        with session.write(self._engine) as connection:
            return events.log(connection, action, subject, detail)

    def log_head(self) -> LogHead:
        """Return the head of the log, to be signed and kept elsewhere.

        Raises:
            CorruptStoreError: the chain is broken.
            NotFoundError: there is no event yet.
        """
        with session.read(self._engine) as connection:
            broken = events.verify(connection)
            if broken:
                raise CorruptStoreError(
                    f"{session.location(self._engine)}: expected a whole chain of events, got "
                    f"{len(broken)} findings:{listed(broken)}",
                    hint="Compare it with a head that was exported before: safelatch log verify "
                    "--head HEAD",
                )
            found = events.newest(connection, 1)
            registry = identity.read_id(connection)
        if not found:
            raise NotFoundError(
                f"{session.location(self._engine)}: expected an event, found none.",
                hint="Register something first: safelatch base add MODEL",
            )
        return LogHead(registry, found[0].sequence, found[0].digest, moment.stamp())

    def verify_events(self, anchor: str | None = None, head: LogHead | None = None) -> list[str]:
        """Return every break of the event chain, oldest first; empty when it is whole.

        Args:
            anchor: Digest of an event seen before and kept elsewhere: shows a cut-off end.
            head: A head exported before, its signature verified: shows also what was written anew,
                and another registry.
        """
        with session.read(self._engine) as connection:
            return events.verify(connection, anchor, head)
