"""Verbs that ask about a model's files; only ``check`` with ``--measure`` loads the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from registry import __version__
from registry.cli.arguments import (
    FILE,
    MODEL,
    artifact_argument,
    device_option,
    model_argument,
    no_cache_option,
    revision_option,
)
from registry.cli.completion import artifacts, or_folders
from registry.cli.invocation import (
    Invocation,
    example,
    format_option,
    one_stage,
    pass_invocation,
    reference_to,
)
from registry.cli.outfile import require_place
from registry.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from registry.workflows.identify import Identified

NO, REFUSED = 1, 3


def _model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    return revision_option(no_cache_option(command))


@click.command(epilog=example("safelatch fingerprint ./my-model"))
@model_argument
@_model_options
@format_option()
@pass_invocation
def fingerprint(
    invocation: Invocation, model: str, revision: str | None, *, no_cache: bool
) -> None:
    """Print the digest of a model's weights: its identity."""
    record = _read(invocation, model, revision, no_cache=no_cache).record
    invocation.emit(
        text=record.weights,
        document={
            "weights": record.weights,
            "config": record.config_digest,
            "tokenizer": record.tokenizer,
            "chat_template": record.chat_template,
            "geometry": record.geometry.to_dict(),
        },
    )


@click.command(
    epilog=example(
        "safelatch check my-lock@1.0.0 ./my-finetune",
        "safelatch check my-lock@1.0.0 ./my-finetune --measure",
    )
)
@artifact_argument
@model_argument
@click.option(
    "--measure", is_flag=True, help="Run the model too: say whether the directions hold in it."
)
@click.option(
    "--data",
    type=FILE,
    metavar="FILE",
    help="With --measure: the preference pairs that the artifact was made from. "
    "[default: the packaged pairs]",
)
@device_option
@_model_options
@format_option()
@pass_invocation
@click.pass_context
def check(  # noqa: PLR0917 -- click passes them by name
    context: click.Context,
    invocation: Invocation,
    ref: str,
    model: str,
    data: Path | None,
    device: str,
    revision: str | None,
    *,
    measure: bool,
    no_cache: bool,
) -> None:
    """Say whether an artifact and a model belong together.

    MODEL may be an adapter's folder: it is judged as merged into the artifact's base.
    """
    from registry.checkpoint.adapter import is_adapter
    from registry.cli.models import check_live
    from registry.plainfile import expanded
    from registry.report.lineage import kind_words
    from registry.report.verdicts import check_text
    from registry.workflows import journal
    from registry.workflows.adapters import check_adapter
    from registry.workflows.check import check as judge
    from registry.workflows.find import find_bundle
    from registry.workflows.trust_report import trust_status, with_trust

    if data is not None and not measure:
        raise click.UsageError("--data goes with --measure.", context)
    reference = reference_to(ref)
    identified, weights, recorded = None, None, False
    with invocation.registry_for(reference) as registry:
        bundle = find_bundle(reference, registry)
        if is_adapter(expanded(model)):
            _refuse_measuring(model, measure=measure)
            report = check_adapter(bundle, model)
        else:
            identified = _read(invocation, model, revision, no_cache=no_cache)
            weights = identified.record.weights
            report = (
                check_live(invocation, bundle, identified, device, data) if measure
                else judge(bundle, identified.record)
            )  # fmt: skip
        report = with_trust(report, trust_status(bundle, registry))
        if identified is not None:
            recorded = journal.reports(registry, identified, [bundle], [report])
    document = {"model": model, "weights": weights, **report.to_dict(), "recorded": recorded}
    invocation.emit(
        text=lambda: check_text(document, model=model, lineage=kind_words(document)),
        document=document,
    )
    context.exit(REFUSED if report.errors else 0)


@click.command(
    epilog=example("safelatch inspect ./my-finetune", "safelatch inspect ./m my-lock@1.0.0")
)
@model_argument
@click.argument("ref", metavar="[NAME@V]", required=False, shell_complete=or_folders(artifacts))
@_model_options
@format_option(csv=True)
@pass_invocation
@click.pass_context
def inspect(
    context: click.Context,
    invocation: Invocation,
    model: str,
    ref: str | None,
    revision: str | None,
    *,
    no_cache: bool,
) -> None:
    """Say which protection a model's bytes carry.

    NAME@V alone is looked for, or else every active artifact of the model's base. MODEL may be an
    adapter's folder, for the kinds that can tell what it leaves of an artifact in its base.
    """
    from registry.checkpoint.adapter import is_adapter
    from registry.plainfile import expanded
    from registry.report.verdicts import inspections_csv, inspections_text
    from registry.workflows.bases import find_base
    from registry.workflows.find import bundles_for_base, find_bundle
    from registry.workflows.inspect import inspect as inspect_bytes
    from registry.workflows.inspect import inspect_adapter, speaks_of_adapters

    reference = None if ref is None else reference_to(ref)
    with invocation.registry_for(reference) as registry:
        bases = registry or invocation.settings().db_url
        bundles = [] if reference is None else [find_bundle(reference, registry)]
        if bundles and is_adapter(expanded(model)) and speaks_of_adapters(bundles[0]):
            inspections = inspect_adapter(model, bundles)
        else:
            identified = _read(invocation, model, revision, no_cache=no_cache)
            if registry is not None and reference is None:
                weights = find_base(registry, identified).base.weights
                bundles = bundles_for_base(registry, weights)
            inspections = inspect_bytes(identified, bundles, bases=bases)
    found = [inspection.to_dict() for inspection in inspections]
    if not found:
        invocation.say("its base is registered, no active artifact is")
    for each in inspections:
        if each.alone is not None:
            invocation.say(f"{each.artifact}: the base's weights were not read: {each.alone}")
    shown = [i.to_dict() | {"shown": i.shown} for i in inspections]
    invocation.emit(
        text=lambda: inspections_text(shown),
        document=found,
        table=inspections_csv(found),
    )
    context.exit(0 if any(inspection["stored"] for inspection in found) else NO)


@click.command(
    epilog=example("safelatch audit ./models", "safelatch audit ./a ./b --format csv --out a.csv")
)
@click.argument("targets", metavar="TARGET...", nargs=-1, required=True, type=MODEL)
@click.option("--out", type=FILE, metavar="FILE", help="Write it there. [default: stdout]")
@format_option(csv=True)
@pass_invocation
@click.pass_context
def audit(
    context: click.Context, invocation: Invocation, targets: tuple[str, ...], out: Path | None
) -> None:
    """Say which models are protected, and on what evidence.

    A TARGET is a model's folder, a Hub id, or a folder of models. The exit status is 0 only when
    every model is protected.
    """
    from registry.moment import stamp
    from registry.report.audit import audit_document, audit_table, audit_text
    from registry.workflows.audit import WORDS
    from registry.workflows.audit import audit as audit_models

    require_place(out)
    with invocation.registry() as registry, invocation.progress() as progress:
        rows = audit_models(registry, targets, settings=invocation.settings(),
                          progress=one_stage(progress, "auditing"))  # fmt: skip
        document = audit_document(
            [row.to_dict() | {"protected": row.is_protected} for row in rows],
            states={str(state): text for state, text in WORDS.items()},
            created=stamp(),
            tool=f"safelatch {__version__}",
            registry=registry.location,
        )
    summary = document["summary"]
    invocation.emit(text=lambda: audit_text(document), document=document,
                    table=audit_table(document), out=out)  # fmt: skip
    if out is not None:
        invocation.say(f"{summary['protected']} of {summary['models']} models are protected")
    context.exit(0 if summary["protected"] == summary["models"] else NO)


def _refuse_measuring(model: str, *, measure: bool) -> None:
    if measure:
        raise UsageError(
            f"expected a model for --measure, got an adapter: {model}.",
            hint="Merge it with PEFT and measure what comes out, or leave --measure away.",
        )


def _read(
    invocation: Invocation, model: str, revision: str | None, *, no_cache: bool
) -> Identified:
    from registry.cli.models import read_model

    with invocation.progress() as progress:
        return read_model(
            invocation, model, revision=revision, use_cache=not no_cache, progress=progress
        )


COMMANDS: tuple[click.Command, ...] = (fingerprint, check, inspect, audit)
