"""``safelatch log``: what happened here, and ``safelatch db``: the database under it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from registry.cli.arguments import FILE
from registry.cli.invocation import Invocation, example, format_option, pass_invocation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from sqlalchemy import Engine

    from registry.artifact.log_head import LogHead
    from registry.store.catalog import Registry

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


@log.command("head", epilog=example("safelatch log head --key publisher.key --out log-head.json"))
@click.option("--key", type=FILE, required=True, metavar="KEY", help="File of the key that signs.")
@click.option("--out", type=FILE, required=True, metavar="HEAD", help="New file to write it to.")
@format_option()
@pass_invocation
def log_head(invocation: Invocation, key: Path, out: Path) -> None:
    """Export the signed head of the event log, to be kept elsewhere.

    Who may write the database can write the end of its log anew, and no chain shows that: a head
    kept where they cannot write does, see safelatch log verify --head.
    """
    from registry.artifact.log_head import sign_head
    from registry.cli.keys import private_key
    from registry.cli.outfile import require_place, write_out
    from registry.errors import UsageError
    from registry.report.verdicts import line

    require_place(out)
    if out.is_file():  # not a pipe or a terminal
        raise UsageError(
            f"expected a name that is free, got {out}: a head that was kept must not be lost.",
            hint="Name another file: safelatch log head --key KEY --out HEAD",
        )
    signer = private_key(key)
    with invocation.registry() as registry:
        _require_not_revoked(registry, signer.key_id)
        head = registry.log_head()
    write_out(out, sign_head(head, signer))
    invocation.emit(
        text=line("signed", f"{head.sequence} events", head.digest, str(out)),
        document={**head.to_dict(), "keys": [signer.key_id], "out": str(out)},
    )
    invocation.say(f"keep {out} where those who can write the registry cannot write")


@log.command(
    "verify", epilog=example("safelatch log verify --head log-head.json --trust publisher.pub")
)
@click.option(
    "--anchor",
    metavar="DIGEST",
    help="Digest of an event seen before and kept elsewhere; it must be there. [default: none]",
)
@click.option(
    "--head",
    type=FILE,
    metavar="HEAD",
    help="Signed head that was exported and kept elsewhere; the log must contain it. "
    "[default: none]",
)
@click.option(
    "--trust",
    metavar="PUB",
    help="Public key that the head must be signed by: its file or id. "
    "[default: any key trusted here]",
)
@format_option()
@pass_invocation
@click.pass_context
def log_verify(
    context: click.Context,
    invocation: Invocation,
    anchor: str | None,
    head: Path | None,
    trust: str | None,
) -> None:
    """Verify that no event was edited, removed or inserted.

    Only a head (see safelatch log head) shows that the end was cut off or written anew, up to the
    event it names. Keys that are trusted here are in the same database: who can write it can add
    one, so name the head's with --trust.
    """
    from registry.digest import is_digest
    from registry.errors import UsageError
    from registry.report.verdicts import line

    if anchor is not None and not is_digest(anchor):
        raise UsageError(
            f"expected blake3:<64 hex digits> after --anchor, got {anchor[:80]!r}.",
            hint="Print the last event's: safelatch log verify",
        )
    if trust is not None and head is None:
        raise UsageError(
            "expected a head with --trust, got none.",
            hint="Name it: safelatch log verify --head HEAD --trust PUB",
        )
    with invocation.registry() as registry:
        kept, signers = _read_head(registry, head, trust) if head is not None else (None, ())
        findings = registry.verify_events(anchor, kept)
        events = [] if findings else registry.events()
    last = events[-1].digest if events else None
    document = {
        "verdict": "broken" if findings else "whole",
        "events": None if findings else len(events),
        "last": last,
        "head": None if kept is None else {**kept.to_dict(), "keys": list(signers)},
        "findings": findings,
    }
    count = f"{len(findings)} findings" if findings else f"{len(events)} events"
    reach = None if kept is None or findings else f"head of event {kept.sequence} found"
    text = "\n".join([line(document["verdict"], count, last, reach), *map(line, findings)])
    invocation.emit(text=text, document=document)
    context.exit(BROKEN if findings else 0)


def _require_not_revoked(registry: Registry, key_id: str) -> None:
    from registry.errors import UntrustedKeyError

    for key in registry.trusted_keys():
        if key.key_id == key_id and key.revoked_at is not None:
            raise UntrustedKeyError(
                f"the head of the log: expected a key that is not revoked here, got {key_id}: "
                f"revoked ({key.revoked_reason}).",
                hint="Sign it with another key: safelatch log head --key KEY --out HEAD",
            )


def _read_head(
    registry: Registry, path: Path, trust: str | None
) -> tuple[LogHead, tuple[str, ...]]:
    """Return the head at ``path`` and the keys that signed it and count.

    Raises:
        NotFoundError: there is no such file.
        EvidenceError: it is no head, or none that a key which counts has signed.
    """
    from registry.artifact.log_head import ANOTHER, FILE_LIMIT, read_head
    from registry.errors import NotFoundError
    from registry.plainfile import expanded, read_plain
    from registry.workflows.trust import trust_of

    keys = trust_of(trust, registry).keys
    trusted = {key.key_id for key in keys if key.revoked_at is None}
    try:
        data = read_plain(expanded(path), limit=FILE_LIMIT, hint=ANOTHER)
    except FileNotFoundError:
        raise NotFoundError(
            f"expected a head at {path}, found none.",
            hint="Export one: safelatch log head --key KEY --out HEAD",
        ) from None
    return read_head(data, trusted, what=path.name)


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
