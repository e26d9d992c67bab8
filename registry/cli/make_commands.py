"""Verbs that make an artifact: ``extract`` per kind, ``calibrate``, ``publish``.

``extract``'s verbs and their options are built from ``registry.kinds.KINDS``: a further kind needs
nothing here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from registry.cli.arguments import (
    FILE,
    FOLDER,
    MODEL,
    device_option,
    revision_option,
    seed_option,
)
from registry.cli.calibrate import calibrate
from registry.cli.completion import bases, or_folders
from registry.cli.invocation import Invocation, example, format_option, pass_invocation
from registry.cli.keys import key_option, lifetime_option, say_which_keys_left, signer_of
from registry.kinds import KINDS, Kind, Option, kind_of, parse_body

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable
    from pathlib import Path

    from registry.artifact.bundle import Bundle
    from registry.store.catalog import Registry
    from registry.store.values import Version


@click.group(epilog=example("safelatch extract safety-lock ./my-base --out ./lock"))
def extract() -> None:
    """Make an artifact from an aligned base model."""


def _extract_command(kind: Kind) -> click.Command:
    """Return ``extract KIND``, with the options that the kind declares."""

    @pass_invocation
    def run(  # noqa: PLR0917 -- click passes them by name
        invocation: Invocation,
        /,
        base: str,
        out: Path,
        data: Path | None,
        seed: int,
        device: str,
        revision: str | None,
        **options: Any,
    ) -> None:
        bundle = _extract(invocation, kind, base, out, data, seed, device, revision, options)
        _print_made(invocation, bundle, out)

    command: Callable[..., Any] = run
    for option in reversed(kind.options):
        command = _option(option)(command)
    for decorate in reversed((
        click.argument("base", type=MODEL, shell_complete=or_folders(bases)),
        click.option("--out", type=FOLDER, required=True, metavar="DIR",
                     help="New folder for the draft."),
        click.option("--data", type=FILE, metavar="FILE",
                     help=f"Your own prompts as JSON lines; of split {_splits(kind)}. "
                     f"[default: the packaged set {kind.data}]"),
        seed_option("Seed of every random choice; recorded."),
        device_option,
        revision_option,
        format_option(),
    )):  # fmt: skip
        command = decorate(command)
    summary = f"Make {'an' if kind.name[0] in 'aeiou' else 'a'} {kind.name}."
    return click.command(
        kind.name,
        help=f"{summary}\n\nThat is: {kind.title}. Method: {kind.paper}.\n\n"
        "BASE is a folder, a Hub id, or the name of a registered base.",
        short_help=summary,
        epilog=example(f"safelatch extract {kind.name} ./my-base --out ./draft"),
    )(command)


def _splits(kind: Kind) -> str:
    return " and ".join(repr(split) for split in kind.splits)


def _option(option: Option) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    given: dict[str, Any] = {"default": option.default, "show_default": True, "help": option.help}
    flag = option.name.replace("_", "-")
    if isinstance(option.default, bool):
        return click.option(f"--{flag}/--no-{flag}", option.name, **given)
    if isinstance(option.default, str):
        given |= {"type": click.Choice(option.choices)}
    elif isinstance(option.default, int):
        given |= {"type": click.IntRange(min=int(option.minimum)), "metavar": "N"}
    else:
        given |= {"type": click.FloatRange(min=option.minimum), "metavar": "X"}
    return click.option(f"--{flag}", option.name, **given)


def _extract(  # noqa: PLR0917 -- one use case, every value named by the command
    invocation: Invocation,
    kind: Kind,
    base: str,
    out: Path,
    data: Path | None,
    seed: int,
    device: str,
    revision: str | None,
    options: dict[str, Any],
) -> Bundle:
    from registry.artifact.bundle import require_new_folder, write_bundle
    from registry.cli.models import open_live, read_base
    from registry.workflows import make
    from registry.workflows.unfinished import Unfinished

    require_new_folder(out)
    rows = make.packaged_data(kind.name) if data is None else make.read_data(kind.name, data)
    with invocation.progress() as progress:
        source = read_base(invocation, base, revision=revision, progress=progress)
        model, tokenizer = open_live(source.identified, device)
        given: dict[str, Any] = {"seed": seed, "options": options, "data": rows}
        notes = Unfinished(out, make.describe_run(kind.name, source.identified, model, **given))
        if notes.taken_up:
            invocation.say(f"goes on from {notes.taken_up} measurements in {notes.path}")
        try:
            bundle = make.extract(
                kind.name, source.identified, model, tokenizer, base_name=source.name, notes=notes,
                progress=progress, **given,
            )  # fmt: skip
        except BaseException:
            if notes.path.exists():
                invocation.say(f"what was measured is in {notes.path}: the same command goes on")
            raise
    write_bundle(bundle, out)
    notes.finish()
    return bundle


def _print_made(invocation: Invocation, bundle: Bundle, out: Path) -> None:
    from registry.report.table import pairs
    from registry.report.verdicts import line

    manifest, contents = bundle.manifest, parse_body(bundle).describe()
    head = line("made", str(out), manifest.kind, f"from {manifest.base.name}")
    invocation.emit(
        text=lambda: f"{head}\n{pairs(contents)}",
        document={
            "out": str(out),
            "kind": manifest.kind,
            "digest": manifest.digest,
            "base": {"name": manifest.base.name, "weights": manifest.base.weights},
            "contents": contents,
        },
    )
    if hasattr(kind_of(manifest.kind).verb("extract"), "calibrate"):
        invocation.say(f"next, measure its strength: safelatch calibrate {out}")


@click.command(epilog=example("safelatch publish ./lock --name my-lock --version 1.0.0"))
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--name", required=True, metavar="NAME", help="Line of artifacts it belongs to.")
@click.option(
    "--version", required=True, metavar="V", help="PEP 440 version, newer than the line's newest."
)
@key_option("Private key that signs it.")
@lifetime_option
@format_option()
@pass_invocation
def publish(  # noqa: PLR0917 -- click passes them by name
    invocation: Invocation,
    folder: Path,
    name: str,
    version: str,
    keys: tuple[Path, ...],
    line_lifetime: dt.timedelta | None,
) -> None:
    """Publish a draft as NAME@VERSION; the same again is no news.

    Other content under a published version is refused: a version never changes.
    """
    from registry.reference import require_name
    from registry.report.verdicts import line
    from registry.workflows.publish import publish as publish_bundle

    signer = signer_of(keys, line_lifetime)
    with invocation.registry() as registry:
        before = registry.line_bytes(require_name(name))
        done = publish_bundle(registry, folder, name=name, version=version, signer=signer)
        registry_at = registry.location
        say_which_keys_left(invocation, registry, done.version.name, before)
        obstacle = _obstacle(registry, done.version)
    decision = "published" if done.is_new else "already published"
    withdrawn = None if done.version.state == "active" else done.version.state
    invocation.emit(
        text=line(decision, done.version.label, withdrawn, done.version.digest),
        document={
            "artifact": done.version.label,
            "digest": done.version.digest,
            "base": done.version.base_name,
            "state": done.version.state,
            "is_new": done.is_new,
            "key_id": done.version.key_id,
            "registry": registry_at,
        },
    )
    if obstacle is not None:
        invocation.say(obstacle)


def _obstacle(registry: Registry, version: Version) -> str | None:
    """Return why ``version`` is not loaded as it is in the registry; ``None`` if it is."""
    from registry.workflows.trust import base_names, trust_of

    why = f" ({version.state_reason})" if version.state_reason else ""
    if version.state == "revoked":
        return f"{version.label} is revoked{why} and never loads; publish a newer version"
    base = registry.base(version.base_weights)
    names = (*base_names(base), str(base.weights))
    if version.key_id is None and trust_of(None, registry).requires_signature(
        names, is_measured=True
    ):
        return (
            f"{version.label} will not be loaded before it is signed, as keys are trusted for "
            f"{' or '.join(names)}: safelatch sign {version.name} --key KEY"
        )
    if version.state == "yanked":
        return f"{version.label} is yanked{why}: it loads only when it is named exactly"
    return None


for _kind in KINDS.values():
    extract.add_command(_extract_command(_kind))

COMMANDS: tuple[click.Command, ...] = (extract, calibrate, publish)
