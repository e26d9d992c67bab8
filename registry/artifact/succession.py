"""Which line document may follow which, and when one may be used: the rules against replay.

- Rollback: a document with a lower sequence than one that was seen.
- Fork: another document of the same sequence, or a later one that continues another one.
- Removal: a version that was there is gone, has another digest, or is no longer revoked.
- Freeze: a document past its ``expires``.
- Revocation: a version that the line revokes is never used again.

Pure comparison: the caller says what was seen and what time it is. Verify first, remember after.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry import moment
from registry.artifact.line import FETCH, Line, LineEntry
from registry.errors import (
    LineExpiredError,
    LineForkError,
    RevokedError,
    RollbackError,
    VersionConflictError,
)
from registry.wording import listed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime


def require_follows(line: Line, seen: Line) -> None:
    """Check that ``line`` is ``seen`` or continues it.

    Raises:
        RollbackError: it is older.
        LineForkError: it is another document of the same sequence, or continues another one.
        VersionConflictError: a version that was there is gone, changed, or revoked no longer.
    """
    known = seen.digest
    if line.digest == known:
        return
    if line.sequence < seen.sequence:
        raise RollbackError(
            f"line {line.name!r}: expected sequence {seen.sequence} or later, which was seen here, "
            f"got {line.sequence}.",
            hint=FETCH,
        )
    found = line.digest if line.sequence == seen.sequence else line.history[seen.sequence - 1]
    if found != known:
        raise LineForkError(
            f"line {line.name!r}: expected document {seen.sequence} to be {known}, which was seen "
            f"here, got {found}: two lines of one name.",
            hint="Ask its publisher which of the two is theirs: one was made with a stolen key, or "
            "in a registry that was restored.",
        )
    findings = [*_lost(line, seen)]
    if findings:
        raise VersionConflictError(
            f"line {line.name!r}: expected every version that was seen here:{listed(findings)}",
            hint=FETCH,
        )


def require_fresh(line: Line, now: datetime) -> None:
    """Raise ``LineExpiredError`` if ``line`` is past its expiry."""
    if line.expires is not None and moment.stamp(now) >= line.expires:
        raise LineExpiredError(
            f"line {line.name!r}: expected a time before {line.expires}, when it expires, got "
            f"{moment.stamp(now)}: what was revoked since cannot be known.",
            hint=FETCH,
        )


def require_usable(label: str, entry: LineEntry) -> None:
    """Raise ``RevokedError`` if ``entry`` is revoked."""
    if entry.state == "revoked":
        raise RevokedError(
            f"expected a version that may be used, {label} ({entry.digest}) is revoked: "
            f"{entry.reason}.",
            hint="Use the newest active version.",
        )


def _lost(line: Line, seen: Line) -> Iterator[str]:
    for version, before in sorted(seen.versions.items()):
        after = line.versions.get(version)
        if after is None:
            yield f"{version}: expected {before.digest}, it is gone"
        elif after.digest != before.digest:
            yield f"{version}: expected {before.digest}, got {after.digest}"
        elif before.state == "revoked" and after.state != "revoked":
            yield f"{version}: expected it to stay revoked, got {after.state}"
