"""``safelatch log``: what happened here, and ``safelatch db``: the database under it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from registry.cli.invocation import Invocation, example, format_option, pass_invocation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import Engine

BROKEN = 3


@click.group(epilog=example("safelatch log show --limit 5", "safelatch log verify"))
def log() -> None:
    """Read and verify the event log."""


@log.command("show", epilog=example("safelatch log show --limit 5"))
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="N",
    help="Show only the last this many events. [default: all]",
)
@format_option(csv=True)
@pass_invocation
def log_show(invocation: Invocation, limit: int | None) -> None:
    """Show what happened in this registry, oldest first."""
    from registry.report.table import Table, to_json

    with invocation.registry() as registry:
        found = registry.events(limit)
    documents = [
        {
            "sequence": e.sequence, "at": e.at, "actor": e.actor, "action": e.action,
            "subject": e.subject, "detail": dict(e.detail), "previous": e.previous,
            "digest": e.digest,
        }
        for e in found
    ]  # fmt: skip
    columns = ("sequence", "at", "actor", "action", "subject", "digest")
    table = Table(columns, tuple(tuple(d[name] for name in columns) for d in documents))
    whole = Table(
        (*columns, "previous", "detail"),
        tuple(
            (*(d[name] for name in columns), d["previous"], to_json(d["detail"], indent=None))
            for d in documents
        ),
    )
    if not found:
        invocation.say("nothing has happened in this registry yet")
    invocation.emit(text=table.to_text, document=documents, table=whole)


@log.command("verify", epilog=example("safelatch log verify --anchor blake3:..."))
@click.option(
    "--anchor",
    metavar="DIGEST",
    help="Digest of an event seen before and kept elsewhere; it must be there. [default: none]",
)
@format_option()
@pass_invocation
@click.pass_context
def log_verify(context: click.Context, invocation: Invocation, anchor: str | None) -> None:
    """Verify that no event was edited, removed or inserted.

    The digest of the last event is printed: kept elsewhere, it shows later that none was cut off.
    """
    from registry.digest import is_digest
    from registry.errors import UsageError
    from registry.report.verdicts import line

    if anchor is not None and not is_digest(anchor):
        raise UsageError(
            f"expected blake3:<64 hex digits> after --anchor, got {anchor[:80]!r}.",
            hint="Print the last event's: safelatch log verify",
        )
    with invocation.registry() as registry:
        findings = registry.verify_events(anchor)
        events = [] if findings else registry.events()
    last = events[-1].digest if events else None
    document = {
        "verdict": "broken" if findings else "whole",
        "events": None if findings else len(events),
        "last": last,
        "findings": findings,
    }
    head = f"{len(findings)} findings" if findings else f"{len(events)} events"
    text = "\n".join([line(document["verdict"], head, last), *map(line, findings)])
    invocation.emit(text=text, document=document)
    context.exit(BROKEN if findings else 0)


@click.group(epilog=example("safelatch db current", "safelatch db check"))
def db() -> None:
    """Look after the database under the registry."""


@db.command(epilog=example("safelatch db current"))
@format_option()
@pass_invocation
def current(invocation: Invocation) -> None:
    """Print the database's schema revision."""
    from registry.store import migrate

    with _engine(invocation) as engine:
        found = migrate.current(engine)
    if found != migrate.HEAD:
        invocation.say(f"this release works with {migrate.HEAD}; see: safelatch db upgrade --help")
    invocation.emit(
        text=found or "none", document={"revision": found, "this_release": migrate.HEAD}
    )


@db.command(epilog=example("safelatch db upgrade"))
@format_option()
@pass_invocation
def upgrade(invocation: Invocation) -> None:
    """Bring the database to this release's revision; back it up first."""
    from registry.report.verdicts import line
    from registry.store import migrate

    with _engine(invocation) as engine:
        before, after = migrate.upgrade(engine)
    decision = "already" if before == after else "upgraded"
    invocation.emit(
        text=line(decision, after, None if before == after else f"from {before or 'none'}"),
        document={"before": before, "after": after},
    )


@db.command(epilog=example("safelatch db check"))
@format_option()
@pass_invocation
@click.pass_context
def check(context: click.Context, invocation: Invocation) -> None:
    """Compare the database with this release, and check the file."""
    from registry.store import migrate

    with _engine(invocation) as engine:
        findings = migrate.check(engine)
    verdict = "broken" if findings else "sound"
    invocation.emit(
        text=_lines(verdict, findings), document={"verdict": verdict, "findings": findings}
    )
    context.exit(BROKEN if findings else 0)


@contextmanager
def _engine(invocation: Invocation) -> Iterator[Engine]:
    from registry.store import session

    engine = session.connect(invocation.settings())
    try:
        yield engine
    finally:
        engine.dispose()


def _lines(verdict: str, findings: Sequence[str]) -> str:
    from registry.report.verdicts import line

    return "\n".join([verdict, *map(line, findings)])
