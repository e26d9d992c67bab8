"""``safelatch project``: a copy of a model in which the bytes carry an artifact."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from registry.cli.arguments import FOLDER, MODEL, model_argument, revision_option
from registry.cli.completion import artifacts, bases, or_folders
from registry.cli.invocation import (
    Invocation,
    example,
    format_option,
    pass_invocation,
    reference_to,
)

if TYPE_CHECKING:
    from pathlib import Path

    from registry.workflows.project import Projection

NO = 1


@click.command(
    epilog=example(
        "safelatch project ./my-finetune my-mask@1.0.0 --out ./healed",
        "safelatch project ./my-adapter my-mask@1.0.0 --out ./merged --base ./my-base",
    )
)
@model_argument
@click.argument("ref", metavar="NAME@V|DIR", shell_complete=or_folders(artifacts))
@click.option("--out", type=FOLDER, required=True, metavar="DIR", help="New folder for the copy.")
@click.option(
    "--base",
    type=MODEL,
    metavar="BASE",
    shell_complete=or_folders(bases),
    help="The artifact's base: a folder, a Hub id, or a registered base. Read for an adapter, and "
    "where the artifact has no values of its own. [default: where it was registered]",
)
@click.option(
    "--trust",
    multiple=True,
    metavar="PUB",
    help="Public key of which one must have signed the artifact: its file or id. Again for a "
    "second key. [default: the keys trusted here]",
)
@revision_option
@format_option()
@pass_invocation
@click.pass_context
def project(  # noqa: PLR0917 -- click passes them by name
    context: click.Context,
    invocation: Invocation,
    model: str,
    ref: str,
    out: Path,
    base: str | None,
    trust: tuple[str, ...],
    revision: str | None,
) -> None:
    """Write a copy of a fine-tune that carries an artifact.

    For an esi-mask: the weights that it names are the base's in the copy, or a delta's new ones,
    and all else is the model's, byte by byte. MODEL may be the folder of a LoRA adapter: it is
    merged into the base everywhere but there.

    What was written is read back. The exit status is 0 only when the copy carries the artifact bit
    for bit, which a model of a narrower dtype than the base's cannot.
    """
    from registry.cli.models import base_place
    from registry.workflows.project import project as write_copy

    reference = reference_to(ref)
    with (
        invocation.registry_for(reference) as registry,
        invocation.progress() as progress,
    ):
        done = write_copy(
            model,
            reference,
            out,
            base=None if base is None else base_place(invocation, base),
            revision=revision,
            registry=registry or invocation.settings().db_url,
            trust=trust or None,
            settings=invocation.settings(),
            progress=progress,
        )
    invocation.emit(text=lambda: _text(done), document=done.to_dict())
    if done.stored:
        typed = shlex.join([str(out), ref])
        invocation.say(f"to see it again from its bytes alone: safelatch inspect {typed}")
    context.exit(0 if done.stored else NO)


def _text(done: Projection) -> str:
    from registry.report.table import pairs
    from registry.report.verdicts import line

    rounded = "no, rounded: the model's dtype is too narrow for the values that must be there"
    changed = f"{done.changed:,} weights, which are now what they must be"
    shown = {
        "from": done.model,
        "changed": changed if done.changed else "none, each was what it must be",
        "stored": "yes, bit for bit, read back" if done.stored else rounded,
        "files": len(done.files),
        "signed by": ", ".join(done.signed_by) or "nobody",
    }
    return f"{line('written', done.out, done.artifact, done.kind)}\n{pairs(shown)}"


COMMANDS: tuple[click.Command, ...] = (project,)
