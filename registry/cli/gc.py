"""``safelatch gc``: remove the files that crashed publishers left."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from registry.cli.arguments import Duration
from registry.cli.invocation import Invocation, example, format_option, pass_invocation

if TYPE_CHECKING:
    import datetime as dt


@click.command(epilog=example("safelatch gc --dry-run", "safelatch gc --grace 36h"))
@click.option(
    "--grace",
    metavar="TIME",
    default="14d",
    show_default=True,
    type=Duration(),
    help="Leave what is younger, in s, m, h or d.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@format_option(csv=True)
@pass_invocation
def gc(invocation: Invocation, grace: dt.timedelta, *, dry_run: bool) -> None:
    """Remove the files that crashed publishers left.

    What anything published needs stays.
    """
    from registry.moment import stamp
    from registry.report.table import Table
    from registry.report.verdicts import line

    with invocation.registry() as registry:
        found = registry.collect_garbage(grace, dry_run=dry_run)
    table = Table(
        ("kind", "bytes", "modified_at", "digest", "path"),
        tuple(
            (file.kind, file.size, stamp(file.modified), file.digest, str(file.path))
            for file in found.removed
        ),
    )
    verdict = "nothing to free"
    if found.removed:
        verdict = "would free" if dry_run else "freed"
    count = len(found.removed)
    head = line(verdict, f"{count:,} files", f"{found.size:,} bytes") if count else verdict
    if found.young:
        invocation.say(
            f"{found.young:,} more are still within the grace period; "
            "see: safelatch gc --grace 0 --dry-run"
        )
    invocation.emit(
        text=lambda: "\n".join(filter(None, (head, table.to_text()))),
        document={
            "verdict": verdict,
            "grace_s": grace.total_seconds(),
            "files": count,
            "bytes": found.size,
            "young": found.young,
            "removed": table.records(),
        },
        table=table,
    )
