"""Why a version is yanked or revoked: what a signed line can hold."""

from __future__ import annotations

from registry.errors import UsageError
from registry.wording import printable

LONGEST = 400
"""Most characters of a reason."""


def require_sayable(reason: str | None) -> None:
    """Raise ``UsageError`` if no line document can hold ``reason``, signed now or later."""
    is_short = reason is None or len(reason) <= LONGEST
    if reason is None or (is_short and reason.strip() and reason.isprintable()):
        return
    got = f"{len(reason)} characters" if reason.isprintable() else f"{reason[:80]!r}"
    raise UsageError(
        f"expected a reason of 1 to {LONGEST} characters on one line, got {got}.",
        hint="Say why in one sentence: --reason WHY",
    )


def sayable(reason: str | None) -> str | None:
    """Return a reason that was given before there was a signed line, as one can hold it."""
    return printable(reason)[:LONGEST] if reason else None
