"""``push`` and ``pull``: versions to a remote and from one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from registry.cli.arguments import artifact_argument
from registry.cli.invocation import (
    Invocation,
    example,
    format_option,
    one_stage,
    pass_invocation,
    reference_to,
)

if TYPE_CHECKING:
    from registry.workflows.push import Pushed


@click.command(
    epilog=example(
        "safelatch push my-lock hf://acme/my-lock",
        "safelatch push my-lock@1.0.0 file:///mnt/team/my-lock --dry-run",
    )
)
@artifact_argument
@click.argument("remote", metavar="REMOTE")
@click.option("--private", is_flag=True, help="Make a new repository on the Hub a private one.")
@click.option("--dry-run", is_flag=True, help="Only say what would be written.")
@format_option()
@pass_invocation
def push(invocation: Invocation, ref: str, remote: str, *, private: bool, dry_run: bool) -> None:
    """Put signed versions and their line into a remote.

    REMOTE is hf://NS/REPO or a folder. NAME alone is every version that the remote does not have.
    The same again is no news.
    """
    from registry.report.verdicts import line
    from registry.workflows.push import push_all
    from registry.workflows.remotes import open_remote

    place = open_remote(reference_to(remote), private=private)
    with invocation.registry() as registry, invocation.progress() as progress:
        done = push_all(
            registry, reference_to(ref), place, dry_run=dry_run,
            progress=one_stage(progress, "pushing versions"),
        )  # fmt: skip
    rows = [_row(each, dry_run=dry_run) for each in done]
    if any(each.plan.lacks_images for each in done):
        invocation.say(
            "note: the card has no images: matplotlib is not installed. "
            "With it: pip install 'safelatch[plot]'"
        )
    if missing := done[-1].plan.missing:
        label = f"{done[-1].version.name}@{missing[-1]}"
        invocation.say(
            f"note: the line names {len(missing)} active version(s) that are not there: "
            f"safelatch push {label} {place.url}"
        )
    invocation.emit(
        text=lambda: "\n".join(
            line(row["result"], row["artifact"], place.url, row["commit"]) for row in rows
        ),
        document={
            "remote": place.url,
            "dry_run": dry_run,
            "versions": rows,
            "missing": list(done[-1].plan.missing),
        },
    )


@click.command(
    epilog=example(
        "safelatch pull hf://acme/my-lock",
        "safelatch pull hf://acme/my-lock#my-lock@1.0.0",
    )
)
@click.argument("remote", metavar="REMOTE")
@format_option()
@pass_invocation
def pull(invocation: Invocation, remote: str) -> None:
    """Get a version and its line from a remote, signed by a trusted key.

    REMOTE is hf://NS/REPO[@REV][#NAME@V] or a folder[#NAME@V]; the newest active version where
    none is named.
    """
    from registry.report.verdicts import line
    from registry.workflows.pull import pull as pull_from

    with invocation.registry() as registry:
        done = pull_from(registry, reference_to(remote))
    result = "pulled" if done.is_new else "already here"
    invocation.emit(
        text=line(
            result, done.version.label, done.version.state, done.version.digest, f"from {done.url}"
        ),
        document={
            "artifact": done.version.label,
            "digest": done.version.digest,
            "state": done.version.state,
            "base": done.version.base_name,
            "key_id": done.version.key_id,
            "remote": done.url,
            "commit": done.commit,
            "is_new": done.is_new,
        },
    )


def _row(done: Pushed, *, dry_run: bool) -> dict[str, Any]:
    files = done.plan.files
    verb = "push" if done.plan.is_new and done.plan.has_version else "update"
    if not files:
        result = "already there"
    elif dry_run:
        result = f"would {verb}"
    else:
        result = f"{verb.removesuffix('e')}ed"
    return {
        "artifact": done.version.label,
        "digest": done.version.digest,
        "result": result,
        "commit": done.commit,
        "files": [{"path": path, "size": len(files[path])} for path in sorted(files)],
        "tries": done.tries,
    }


COMMANDS: tuple[click.Command, ...] = (push, pull)
