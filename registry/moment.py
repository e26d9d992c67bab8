"""Moments in documents: UTC to the second, ``2026-11-21T08:00:00Z``."""

from __future__ import annotations

from datetime import datetime, timezone

_FORM = "%Y-%m-%dT%H:%M:%SZ"


def now() -> datetime:
    """Return the moment, aware, UTC."""
    return datetime.now(timezone.utc)


def stamp(moment: datetime | None = None) -> str:
    """Return ``moment`` (now by default; aware) as documents write it."""
    return (moment or now()).astimezone(timezone.utc).strftime(_FORM)


def parse_stamp(text: str) -> datetime:
    """Return the moment that ``text`` writes, aware."""
    return datetime.strptime(text, _FORM).replace(tzinfo=timezone.utc)


def is_stamp(text: str) -> bool:
    """Return whether ``text`` is a moment of the calendar as documents write it."""
    try:
        return stamp(parse_stamp(text)) == text
    except ValueError:
        return False
