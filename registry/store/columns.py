"""What the columns hold: moments, free text, JSON, in forms that both databases keep.

- A moment is aware in Python and UTC in the database.
- Text with NUL or undecodable file-name bytes has no place in a database or in JSON: it is
  escaped before it is stored or hashed, so that both see the same.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from sqlalchemy import DateTime, Text
from sqlalchemy.types import TypeDecorator

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect


class UtcDateTime(TypeDecorator[dt.datetime]):
    """A moment: aware in Python, UTC in the database."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: dt.datetime | None, dialect: Dialect) -> Any:
        """Return the moment in UTC; a time without a zone is refused."""
        if value is None:
            return None
        if value.utcoffset() is None:
            raise ValueError(f"expected a time with a time zone, got {value.isoformat()}")
        utc = value.astimezone(dt.timezone.utc)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: Any, dialect: Dialect) -> dt.datetime | None:  # noqa: ARG002
        """Return the moment with its zone, UTC."""
        if value is None:
            return None
        moment: dt.datetime = value
        if moment.tzinfo is None:
            return moment.replace(tzinfo=dt.timezone.utc)
        return moment.astimezone(dt.timezone.utc)


class PlainText(TypeDecorator[str]):
    """Free text of any length that both databases can hold: see ``plain``."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        """Return the text with what cannot be stored escaped."""
        return None if value is None else plain(value)


def plain(text: str) -> str:
    r"""Return ``text`` with NUL and undecodable file-name bytes as ``\x00``, ``\udc80``."""
    escaped = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return escaped.replace("\x00", "\\x00")


def plain_json(value: Any) -> Any:
    """Return the JSON ``value`` with every text in it made ``plain``."""
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, dict):
        return {plain(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item) for item in value]
    return value


def inserted_id(result: Any) -> int:
    """Return the row that an ``insert`` of one row made."""
    return int(result.inserted_primary_key[0])
