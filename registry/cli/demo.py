"""``safelatch demo``: the whole story on a real small model."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from registry.cli.arguments import FOLDER, MODEL, seed_option
from registry.cli.invocation import Invocation, example, pass_invocation

if TYPE_CHECKING:
    from pathlib import Path


@click.command(epilog=example("safelatch demo", "safelatch demo --full --out ./demo"))
@click.option(
    "--model",
    type=MODEL,
    metavar="MODEL",
    help="Chat model to tell it on. [default: SmolLM2-135M-Instruct, fetched once]",
)
@click.option("--full", is_flag=True, help="Ask every prompt instead of a part of them.")
@seed_option("Seed of every random choice.")
@click.option(
    "--out",
    type=FOLDER,
    default="safelatch-demo",
    show_default=True,
    metavar="DIR",
    help="Folder for the models, the registry and the figures.",
)
@pass_invocation
@click.pass_context
def demo(
    context: click.Context,
    invocation: Invocation,
    model: str | None,
    *,
    full: bool,
    seed: int,
    out: Path,
) -> None:
    """Tell the whole story on a real small model.

    A base that refuses, a fine-tune that forgets to, and its protection put back.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read once, when torch is imported
    os.environ.setdefault("TQDM_DISABLE", "1")  # the GGUF reader draws a bar of its own
    from registry.workflows.demo import story
    from registry.workflows.open_model import quiet_libraries

    with quiet_libraries(), invocation.progress() as progress:
        status = story.run(
            out, model=model, full=full, seed=seed, say=click.echo, progress=progress or _ignore
        )
    context.exit(status)


def _ignore(_stage: str, _done: int, _total: int) -> None:
    """Nobody looks."""


COMMANDS: tuple[click.Command, ...] = (demo,)
