"""``safelatch import``: what others published, as a draft or unbound, without running any of it."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from registry.cli.arguments import FOLDER, MODEL, revision_option
from registry.cli.completion import bases, or_folders
from registry.cli.invocation import Invocation, example, format_option, pass_invocation
from registry.kinds import KINDS, kind_of

if TYPE_CHECKING:
    from pathlib import Path

    from registry.workflows.import_foreign import Opened


_SUFFIXES = ", ".join(suffix for kind in KINDS.values() for suffix in kind.imports)
_NAMES = [f"published:{name}" for kind in KINDS.values() for name in kind.published]


@click.command(
    "import",
    help="Import an official file of a method, or a published range.\n\n"
    f"FILE ends in {_SUFFIXES}. A safety-lock is a .safelock; an esi-mask is a pickle of the "
    "indices that ESI's code writes (.pkl, .pickle). Nothing of a file is executed. Without --base "
    "the result can be looked at alone. FILE may be such a result: with --base it is bound to the "
    "base it was made from, as a draft; a lock's strength is still to be measured then.\n\n"
    "FILE may also name what a paper gives for one model, published and not measured again; its "
    f"base is needed then. There are: {', '.join(_NAMES)}.",
    epilog=example(
        "safelatch import theirs.safelock --out ./unbound",
        "safelatch import theirs.safelock --base ./my-base --out ./lock",
        "safelatch import theirs.pkl --base ./my-base --out ./mask",
        f"safelatch import {_NAMES[0]} --base MODEL --out ./layers",
    ),
)
@click.argument("file", metavar="FILE", type=click.Path())
@click.option(
    "--base",
    type=MODEL,
    metavar="MODEL",
    shell_complete=or_folders(bases),
    help="The base it was made from: a folder, a Hub id, or a registered base. "
    "[default: none; the result can be looked at, not applied]",
)
@revision_option
@click.option(
    "--out", type=FOLDER, required=True, metavar="DIR", help="New folder for what is made."
)
@format_option()
@pass_invocation
def import_(
    invocation: Invocation, file: str, base: str | None, revision: str | None, out: Path
) -> None:
    """Import what others published; the help says how."""
    from registry.artifact.bundle import require_new_folder, write_bundle
    from registry.artifact.unbound import write_unbound
    from registry.cli.models import read_base
    from registry.workflows.import_foreign import open_source

    require_new_folder(out)
    opened = open_source(file)
    promised = None
    if base is None:
        unbound = opened.unbound()
        digest = unbound.digest
        write_unbound(unbound, out)
    else:
        with invocation.progress() as progress:
            source = read_base(invocation, base, revision=revision, progress=progress)
        bundle = opened.bound(source.identified, source.name)
        digest, identity = bundle.manifest.digest, bundle.manifest.base
        promised = {"name": identity.name, "weights": identity.weights}
        write_bundle(bundle, out)
    _print_imported(invocation, opened, out, digest=digest, base=promised)


def _print_imported(
    invocation: Invocation, opened: Opened, out: Path, *, digest: str, base: dict[str, str] | None
) -> None:
    from registry.report.table import pairs
    from registry.report.verdicts import line

    contents = opened.contents.describe()
    is_measured = hasattr(kind_of(opened.kind).verb("extract"), "calibrate")
    state = "unbound" if base is None else "uncalibrated" if is_measured else "draft"
    fact = {"unbound": "bound to no base", "uncalibrated": ", alpha uncalibrated"}.get(state, "")
    if base is not None:
        fact = f"for {base['name']}{fact}"
    head = line("imported", str(out), opened.kind, fact)
    shown = {"source": opened.source.name, "sha256": opened.source.sha256, **contents}
    invocation.emit(
        text=lambda: f"{head}\n{pairs(shown)}",
        document={
            "out": str(out),
            "kind": opened.kind,
            "state": state,
            "digest": digest,
            "base": base,
            "source": opened.source.to_dict(),
            "contents": contents,
        },
    )
    place = shlex.quote(str(out))
    invocation.say(
        {
            "unbound": f"next, name its base: safelatch import {place} --base BASE --out DIR",
            "uncalibrated": f"next, measure its strength: safelatch calibrate {place}",
            "draft": f"next, publish it: safelatch publish {place} --name NAME --version V",
        }[state]
    )


COMMANDS: tuple[click.Command, ...] = (import_,)
