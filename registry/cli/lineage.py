"""``safelatch lineage``: whose child a model is, and what was done to it."""

from __future__ import annotations

from typing import Any

import click

from registry.cli.arguments import model_argument, no_cache_option, revision_option
from registry.cli.invocation import Invocation, example, format_option, pass_invocation
from registry.errors import UsageError

NO = 1


@click.command(
    epilog=example("safelatch lineage ./my-finetune", "safelatch lineage ORG/NAME --no-download")
)
@model_argument
@revision_option
@no_cache_option
@click.option(
    "--no-download",
    is_flag=True,
    help="Ask the Hub for digests and headers alone, and say what they show.",
)
@format_option(csv=True)
@pass_invocation
@click.pass_context
def lineage(
    context: click.Context,
    invocation: Invocation,
    model: str,
    revision: str | None,
    *,
    no_cache: bool,
    no_download: bool,
) -> None:
    """Say which base a model descends from, and what was done to it.

    MODEL may be an adapter's folder: then each base it fits is judged with it merged in. With
    --no-download no weights are read: the answer rests on what the Hub says of its files.
    """
    from registry.checkpoint.adapter import is_adapter
    from registry.cli.models import read_model
    from registry.plainfile import expanded
    from registry.report.lineage import lineage_table, lineage_text
    from registry.workflows import journal
    from registry.workflows.lineage import trace

    if no_download or is_adapter(expanded(model)):
        _refuse_unused(model, None if no_download else revision, no_cache=no_cache)
        stated = (
            _from_metadata(invocation, model, revision) if no_download
            else _of_adapter(invocation, model)
        )  # fmt: skip
        invocation.emit(
            text=lambda: lineage_text(stated), document=stated, table=lineage_table(stated)
        )
        context.exit(NO if stated["base"] is None else 0)
    with invocation.registry() as registry:
        with invocation.progress() as progress:
            identified = read_model(
                invocation, model, revision=revision, use_cache=not no_cache, progress=progress
            )
        ancestry = trace(registry, identified)
        parent = ancestry.parent
        if parent is not None and journal.writable(registry):
            journal.report_on(
                registry, identified, parent.base.weights, parent.lineage, "lineage",
                parent.kind, parent.to_dict(), version=None,
            )  # fmt: skip
    document = {"model": model, "weights": identified.record.weights, **ancestry.to_dict()}
    invocation.emit(
        text=lambda: lineage_text(document),
        document=document,
        table=lineage_table(document),
    )
    context.exit(NO if parent is None else 0)


def _refuse_unused(model: str, revision: str | None, *, no_cache: bool) -> None:
    """Raise ``UsageError`` for options that say how a model's weights are read."""
    given = [
        name
        for name, is_given in (("--revision", revision is not None), ("--no-cache", no_cache))
        if is_given
    ]
    if given:
        raise UsageError(
            f"expected neither --revision nor --no-cache where no model's weights are read, got "
            f"{' and '.join(given)} for {model}.",
            hint=f"Leave out {' and '.join(given)}: an adapter's folder is read as it is, and "
            "--no-download takes --revision alone.",
        )


def _from_metadata(invocation: Invocation, model: str, revision: str | None) -> dict[str, Any]:
    from registry.plainfile import expanded
    from registry.reference import is_repo_id
    from registry.workflows.remote_lineage import from_metadata

    if not is_repo_id(model) or expanded(model).exists():
        raise UsageError(
            f"expected a model on the Hub (NS/NAME) for --no-download, got {model}.",
            hint=f"Read its weights: safelatch lineage {model}",
        )
    with invocation.registry() as registry:
        found = from_metadata(registry, model, revision)
    return {"model": model, "weights": None, **found.to_dict()}


def _of_adapter(invocation: Invocation, model: str) -> dict[str, Any]:
    from registry.workflows.adapters import trace_adapter

    with invocation.registry() as registry:
        found = trace_adapter(registry, model)
    return {"model": model, "weights": None, **found.to_dict()}


COMMANDS: tuple[click.Command, ...] = (lineage,)
