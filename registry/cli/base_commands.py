"""``safelatch base``: the models that artifacts are made from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from registry.cli.arguments import model_argument, revision_option
from registry.cli.completion import bases
from registry.cli.invocation import Invocation, example, format_option, one_stage, pass_invocation

if TYPE_CHECKING:
    from registry.store.values import Base


@click.group(epilog=example("safelatch base add ./my-base --name my-base", "safelatch base list"))
def base() -> None:
    """Register and list base models."""


@base.command(epilog=example("safelatch base add ./my-base --name my-base"))
@model_argument
@click.option(
    "--name", metavar="NAME", help="What to call it. [default: the folder's or repository's name]"
)
@click.option("--anyway", is_flag=True, help="Accept a model that is near a registered base.")
@revision_option
@format_option()
@pass_invocation
def add(
    invocation: Invocation, model: str, name: str | None, revision: str | None, *, anyway: bool
) -> None:
    """Register a base model, so that artifacts can be made from it.

    MODEL is a folder or a Hub id. The same weights again are no news: they keep their name.
    """
    from registry.cli.models import read_model
    from registry.report.verdicts import line
    from registry.workflows.bases import add_base

    with invocation.registry() as registry, invocation.progress() as progress:
        identified = read_model(invocation, model, revision=revision, progress=progress)
        known = {entry.weights for entry in registry.bases()}
        hashing = one_stage(progress, "hashing files")
        added = add_base(registry, identified, name, anyway=anyway, progress=hashing)
    if added.weights in known:
        invocation.say(f"these weights are registered already, as {added.name}")
    invocation.emit(text=line(added.name, added.weights), document=_document(added))


@base.command("list", epilog=example("safelatch base list"))
@format_option(csv=True)
@pass_invocation
def list_(invocation: Invocation) -> None:
    """List the registered base models."""
    from registry.report.table import Table

    with invocation.registry() as registry:
        found = registry.bases()
    table = Table(
        ("name", "family", "layers", "heads", "hidden_size", "weights", "aliases"),
        tuple(
            (b.name, b.family, b.layers, b.heads, b.hidden_size, b.weights, _aliases(b))
            for b in found
        ),
    )
    if not found:
        invocation.say("no base model is registered; add one: safelatch base add MODEL")
    invocation.emit(text=table.to_text, document=[_document(b) for b in found], table=table)


@base.command(epilog=example("safelatch base show my-base"))
@click.argument("ref", shell_complete=bases)
@format_option()
@pass_invocation
def show(invocation: Invocation, ref: str) -> None:
    """Show one base model.

    REF is its name, the place it was registered from, or its digest or the first 8 digits of it.
    """
    from registry.report.table import pairs

    with invocation.registry() as registry:
        document = _document(registry.base(ref))
    invocation.emit(text=lambda: pairs(document), document=document)


def _document(found: Base) -> dict[str, Any]:
    names = (
        "name", "weights", "family", "layers", "heads", "kv_heads", "head_dim", "hidden_size",
        "config_digest", "tokenizer", "chat_template",
    )  # fmt: skip
    return {
        **{name: getattr(found, name) for name in names},
        "aliases": _aliases(found),
        "created_at": found.created_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def _aliases(found: Base) -> list[str]:
    return [f"{alias.scheme}:{alias.value}" for alias in found.aliases]
