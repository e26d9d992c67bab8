"""``safelatch calibrate``: measure on the base which strength an over-refusal budget affords."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from registry.cli.arguments import FOLDER, MODEL, device_option, seed_option
from registry.cli.completion import artifacts, or_folders
from registry.cli.invocation import (
    Invocation,
    example,
    format_option,
    pass_invocation,
    reference_to,
)

if TYPE_CHECKING:
    from registry.artifact.bundle import Bundle


@click.command(
    epilog=example(
        "safelatch calibrate ./lock",
        "safelatch calibrate my-lock@1.0.0 --budget 0.02 --out ./stricter",
    )
)
@click.argument("artifact", metavar="DIR|NAME@V", shell_complete=or_folders(artifacts))
@click.option(
    "--base", type=MODEL, metavar="MODEL", help="The base. [default: where it was registered]"
)
@click.option(
    "--budget",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    show_default="the kind's; 0.05 for a safety-lock",
    help="Largest rise of the share of harmless prompts that are refused; 0.05 is 5 %.",
)
@click.option(
    "--nll-budget",
    type=click.FloatRange(min=0),
    metavar="NATS",
    show_default="the kind's; 0.25 for a safety-lock",
    help="Largest rise of the cost of the base's own answers, nats per token.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="N",
    help="Ask only this many prompts of each set. [default: all]",
)
@seed_option("Seed of the random control.")
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=1),
    default=40,
    show_default=True,
    metavar="N",
    help="Length of the answers that are scored, tokens.",
)
@device_option
@click.option(
    "--out",
    type=FOLDER,
    metavar="DIR",
    help="New folder for the result. [default: the DIR given; a NAME@V needs one]",
)
@format_option(csv=True)
@pass_invocation
def calibrate(  # noqa: PLR0917 -- click passes them by name
    invocation: Invocation,
    artifact: str,
    base: str | None,
    budget: float | None,
    nll_budget: float | None,
    limit: int | None,
    seed: int,
    max_new_tokens: int,
    device: str,
    out: Path | None,
) -> None:  # fmt: skip
    """Measure on the base how strong an artifact may be.

    The strongest one whose over-refusal stays within the budget is written into the draft, with
    the receipt of everything that was measured. A published version needs --out: the result is a
    draft, to be published as a new version.
    """
    from registry.artifact.bundle import replace_manifest, require_new_folder, write_bundle
    from registry.cli.models import open_live, read_base
    from registry.errors import UsageError
    from registry.kinds import kind_of
    from registry.workflows import make

    bundle, folder = _find(invocation, artifact)
    if out is not None:
        require_new_folder(out)
    elif folder is None:
        raise UsageError(
            f"expected --out DIR for the draft: {artifact} is published and never changes.",
            hint=f"Name one: safelatch calibrate {artifact} --out DIR",
        )
    verb = kind_of(bundle.manifest.kind).verb("extract")
    if not hasattr(verb, "Budget"):
        raise UsageError(f"a {bundle.manifest.kind} has no strength to calibrate.")
    typed = {"over_refusal": budget, "nll": nll_budget}
    chosen = {name: value for name, value in typed.items() if value is not None}
    with invocation.progress() as progress:
        source = read_base(invocation, base or _registered_base(invocation, bundle),
                           progress=progress)  # fmt: skip
        make.require_base_of(bundle, source.identified)
        model, tokenizer = open_live(source.identified, device)
        done = make.calibrate(
            bundle, source.identified, model, tokenizer,
            budget=verb.Budget(**chosen), seed=seed, limit=limit,
            max_new_tokens=max_new_tokens, progress=progress,
        )  # fmt: skip
    where = out or folder
    if out is not None:
        write_bundle(done, out)
    elif folder is not None:
        replace_manifest(done, folder)
    _print_calibrated(invocation, done, str(where))


def _find(invocation: Invocation, artifact: str) -> tuple[Bundle, Path | None]:
    """Return the bundle, and its folder when it is one."""
    from registry.artifact.bundle import MANIFEST, read_bundle
    from registry.workflows.find import find_bundle

    if (Path(artifact) / MANIFEST).is_file():
        return read_bundle(Path(artifact)), Path(artifact)
    reference = reference_to(artifact)
    if reference.scheme == "file":
        return find_bundle(reference), Path(reference.location)
    with invocation.registry() as registry:
        return find_bundle(reference, registry), None


def _registered_base(invocation: Invocation, bundle: Bundle) -> str:
    from registry.cli.models import registered_weights
    from registry.errors import BaseNotFoundError

    promised = bundle.manifest.base
    found = registered_weights(invocation, promised.weights)
    if found is None:
        raise BaseNotFoundError(
            f"expected the base {promised.name} ({promised.weights}) to be registered, it is not.",
            hint="Name it: --base MODEL",
        )
    return found.name


def _print_calibrated(invocation: Invocation, bundle: Bundle, where: str) -> None:
    from registry.kinds import parse_body
    from registry.report.verdicts import effect_text, line, sweep_table

    receipt = bundle.manifest.receipts[-1]
    contents = parse_body(bundle).describe()
    low, high = contents["alpha_range"]
    head = line("calibrated", where, f"alpha {contents['alpha']:g}", f"allowed {low:g} to {high:g}")
    table = sweep_table(receipt)
    invocation.emit(
        text=lambda: f"{head}\n{table.to_text()}",
        document={
            "out": where,
            "digest": bundle.manifest.digest,
            "alpha": contents["alpha"],
            "alpha_range": contents["alpha_range"],
            "receipt": dict(receipt),
        },
        table=table,
    )
    doubt = effect_text(receipt)
    if doubt is not None:
        invocation.say(doubt)
    invocation.say(f"next: safelatch publish {where} --name NAME --version VERSION")
