"""Which line may follow which: rollback, fork, removal, freeze, revocation."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from itertools import pairwise

import pytest
from support.refusals import refusal
from support.signed import CREATED, FIRST, SECOND, digest_of, renewed, stated

from registry.artifact.line import LineEntry
from registry.artifact.succession import require_follows, require_fresh, require_usable
from registry.errors import (
    LineExpiredError,
    LineForkError,
    RevokedError,
    RollbackError,
    VersionConflictError,
)

LINES = [FIRST, SECOND, stated(SECOND, "1.0.0", "yanked"), renewed(SECOND, 40)]
END = datetime(2030, 1, 1, tzinfo=timezone.utc)


def test_a_line_follows_itself_and_every_one_before_it():
    for seen, line in pairwise(LINES[:3]):
        require_follows(line, seen)
        require_follows(line, line)
    require_follows(LINES[2], FIRST)
    require_follows(renewed(SECOND, 40), FIRST)


@pytest.mark.parametrize("seen", [SECOND, renewed(SECOND, 40)])
def test_an_older_line_is_a_rollback(seen):
    refusal(RollbackError, lambda: require_follows(FIRST, seen),
            f"line 'lock': expected sequence {seen.sequence} or later, which was seen here, got 1.")  # fmt: skip


def test_another_line_of_the_same_sequence_is_a_fork():
    other = FIRST.with_version("3.0.0", digest_of("3"), created=CREATED, expires=None)
    refusal(LineForkError, lambda: require_follows(other, SECOND),
            f"expected document 2 to be {SECOND.digest}, which was seen here, got {other.digest}")  # fmt: skip


def test_a_later_line_that_continues_another_one_is_a_fork():
    other = renewed(FIRST.with_version("3.0.0", digest_of("3"), created=CREATED, expires=None), 9)
    refusal(LineForkError, lambda: require_follows(other, SECOND), "two lines of one name")
    require_follows(other, FIRST)


@pytest.mark.parametrize("at", [0, 20, 38])
def test_a_history_with_one_digest_exchanged_is_a_fork_to_who_saw_that_one(at):
    seen = [SECOND]
    for _ in range(40):
        seen.append(renewed(seen[-1]))
    line = seen[-1]
    forged = replace(
        line, history=(*line.history[:at], digest_of("forged"), *line.history[at + 1 :])
    )
    for before in seen[:-1]:
        if before.sequence == at + 1:
            refusal(
                LineForkError, lambda b=before: require_follows(forged, b), f"document {at + 1}"
            )
        else:
            require_follows(forged, before)


def test_a_gap_in_the_sequence_is_no_fault_when_the_history_is_whole():
    require_follows(renewed(SECOND, 100), SECOND)


def without(line, version):
    kept = {name: entry for name, entry in line.versions.items() if name != version}
    return replace(line, versions=kept)


def test_a_version_that_is_gone_is_told():
    line = without(renewed(SECOND), "1.0.0")
    refusal(VersionConflictError, lambda: require_follows(line, SECOND),
            f"1.0.0: expected {digest_of('1.0.0')}, it is gone")  # fmt: skip


def test_a_version_with_another_manifest_is_told():
    exchanged = {**SECOND.versions, "1.0.0": LineEntry(digest_of("evil"))}
    refusal(VersionConflictError,
            lambda: require_follows(replace(renewed(SECOND), versions=exchanged), SECOND),
            f"1.0.0: expected {digest_of('1.0.0')}, got {digest_of('evil')}")  # fmt: skip


def test_a_version_that_is_revoked_no_longer_is_told_even_by_its_own_history():
    seen = stated(SECOND, "1.0.0", "revoked")
    for state in ("active", "yanked"):
        back = {**seen.versions, "1.0.0": replace(seen.versions["1.0.0"], state=state)}
        refusal(VersionConflictError,
                lambda b=back: require_follows(replace(renewed(seen), versions=b), seen),
                f"1.0.0: expected it to stay revoked, got {state}")  # fmt: skip


def test_everything_that_is_lost_is_told_together():
    line = replace(renewed(SECOND), versions={"9": LineEntry(digest_of("9"))})
    refusal(VersionConflictError, lambda: require_follows(line, SECOND), "1.0.0: ", "2.0.0: ")


def test_a_line_expires_at_its_very_second():
    line = replace(FIRST, expires="2030-01-01T00:00:00Z")
    require_fresh(line, END - timedelta(seconds=1))
    require_fresh(line, END - timedelta(microseconds=1))
    for now in (END, END + timedelta(microseconds=1), END.replace(year=9999)):
        refusal(LineExpiredError, lambda n=now: require_fresh(line, n),
                "line 'lock': expected a time before 2030-01-01T00:00:00Z, when it expires, got")  # fmt: skip


def test_an_expiry_is_compared_as_a_moment_whatever_the_zone_of_the_clock():
    line = replace(FIRST, expires="2030-01-01T00:00:00Z")
    east, west = timezone(timedelta(hours=14)), timezone(timedelta(hours=-12))
    require_fresh(line, (END - timedelta(seconds=1)).astimezone(east))
    refusal(LineExpiredError, lambda: require_fresh(line, END.astimezone(west)), "when it expires")


def test_a_line_without_an_end_is_always_fresh():
    require_fresh(FIRST, datetime(9999, 12, 31, tzinfo=timezone.utc))


def test_a_revoked_version_is_refused_with_its_reason_and_a_yanked_one_is_not():
    entry = LineEntry(digest_of("1"), "revoked", "it leaked")
    refusal(RevokedError, lambda: require_usable("lock@1", entry),
            f"lock@1 ({digest_of('1')}) is revoked: it leaked.")  # fmt: skip
    require_usable("lock@1", replace(entry, state="yanked"))
    require_usable("lock@1", replace(entry, state="active"))
