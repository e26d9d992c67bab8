"""Verbs about what is published: sign it, withdraw it, and take it along as a folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from registry.cli.arguments import FOLDER, artifact_argument
from registry.cli.completion import lines
from registry.cli.invocation import (
    Invocation,
    example,
    format_option,
    pass_invocation,
    reference_to,
)
from registry.cli.keys import key_option, lifetime_option, say_which_keys_left, signer_of

if TYPE_CHECKING:
    import datetime as dt
    from pathlib import Path

    from registry.store.values import State


@click.command(epilog=example("safelatch sign my-lock --key publisher.key --line-lifetime 90d"))
@click.argument("name", metavar="NAME", shell_complete=lines)
@key_option("Private key that signs.")
@lifetime_option
@format_option()
@pass_invocation
def sign(
    invocation: Invocation, name: str, keys: tuple[Path, ...], line_lifetime: dt.timedelta | None
) -> None:
    """Sign every version of NAME, and the line that says which there are.

    Also renews a line before it expires, and moves it to a new key.
    """
    from registry.errors import UsageError
    from registry.reference import require_name
    from registry.report.verdicts import line
    from registry.workflows.sign import line_in_force, sign_again

    if not keys:
        raise UsageError("expected a key to sign with, got none.", hint="Name it: --key KEY")
    if "@" in name:
        raise UsageError(
            f"expected the name of a line, every version of which is signed, got {name}.",
            hint=f"Name the line alone: safelatch sign {name.partition('@')[0]} --key KEY",
        )
    signer = signer_of(keys, line_lifetime)
    with invocation.registry() as registry:
        before = registry.line_bytes(require_name(name))
        done = sign_again(registry, name, signer)
        document = line_in_force(registry, name)
        say_which_keys_left(invocation, registry, name, before)
    sequence = None if document is None else document.sequence
    expires = None if document is None else document.expires
    until = "never expires" if expires is None else f"expires {expires}"
    invocation.emit(
        text=line("signed", name, f"{len(done)} versions", f"document {sequence}", until),
        document={
            "line": name,
            "sequence": sequence,
            "expires": expires,
            "key_ids": [key.key_id for key in signer.keys],
            "versions": [version.label for version in done],
        },
    )


@click.command(epilog=example("safelatch yank my-lock@1.0.0 --reason 'refuses too much'"))
@artifact_argument
@click.option("--reason", metavar="WHY", help="What is wrong with it. [default: none given]")
@click.option("--undo", is_flag=True, help="Make a yanked version active again.")
@key_option("Private key that signs the line, if it is signed.")
@lifetime_option
@format_option()
@pass_invocation
def yank(
    invocation: Invocation,
    ref: str,
    reason: str | None,
    keys: tuple[Path, ...],
    line_lifetime: dt.timedelta | None,
    *,
    undo: bool,
) -> None:
    """Hide a version: only its exact name loads it, with a warning."""
    if undo and reason is not None:
        raise click.UsageError("--undo takes no --reason.")
    state: State = "active" if undo else "yanked"
    _change(invocation, ref, state, None if undo else reason, keys, line_lifetime)


@click.command(epilog=example("safelatch revoke my-lock@1.0.0 --reason 'made from leaked data'"))
@artifact_argument
@click.option("--reason", required=True, metavar="WHY", help="What is wrong with it.")
@click.option(
    "--here", is_flag=True, help="Only in this registry, without a key: for what others publish."
)
@key_option("Private key that signs the line, if it is signed.")
@lifetime_option
@format_option()
@pass_invocation
def revoke(
    invocation: Invocation,
    ref: str,
    reason: str,
    keys: tuple[Path, ...],
    line_lifetime: dt.timedelta | None,
    *,
    here: bool,
) -> None:
    """Never load a version again; this is final."""
    _change(invocation, ref, "revoked", reason, keys, line_lifetime, here=here)


@click.command(epilog=example("safelatch save my-lock@1.0.0 --out ./my-lock"))
@artifact_argument
@click.option("--out", type=FOLDER, required=True, metavar="DIR", help="New folder.")
@format_option()
@pass_invocation
def save(invocation: Invocation, ref: str, out: Path) -> None:
    """Write a version as a folder with its signatures, for others to load.

    A revoked one is written only with the signed line that says so.
    """
    from registry.artifact.bundle import envelopes, require_new_folder, write_bundle
    from registry.report.verdicts import line
    from registry.workflows.sign import bundle_to_save

    reference = reference_to(ref)
    require_new_folder(out)
    with invocation.registry() as registry:
        bundle, version = bundle_to_save(registry, reference)
    write_bundle(bundle, out)
    files = sorted({*bundle.files, *envelopes(bundle)})
    signed = "not signed" if bundle.signature is None else f"signed by {version.key_id}"
    invocation.emit(
        text=line("saved", version.label, str(out), version.state, signed),
        document={
            "artifact": version.label,
            "digest": version.digest,
            "state": version.state,
            "out": str(out),
            "files": files,
            "key_id": version.key_id,
        },
    )


def _change(  # noqa: PLR0917
    invocation: Invocation,
    ref: str,
    state: State,
    reason: str | None,
    keys: tuple[Path, ...],
    lifetime: dt.timedelta | None,
    *,
    here: bool = False,
) -> None:
    from registry.report.verdicts import line
    from registry.workflows.find import version_named
    from registry.workflows.sign import change_state, line_in_force

    if here and keys:
        raise click.UsageError("--here needs no --key: nothing is signed.")
    with invocation.registry() as registry:
        version = version_named(registry, reference_to(ref))
        signer = None if here else signer_of(keys, lifetime)
        before = None if here else registry.line_bytes(version.name)
        done = change_state(registry, version, state, reason, signer)
        document = line_in_force(registry, done.name)
        say_which_keys_left(invocation, registry, done.name, before)
    invocation.emit(
        text=line(done.state, done.label, done.state_reason),
        document={
            "artifact": done.label,
            "digest": done.digest,
            "state": done.state,
            "reason": done.state_reason,
            "sequence": None if document is None else document.sequence,
        },
    )
    if document is not None and not here:
        invocation.say(
            f"those who have {done.name} learn of it from document {document.sequence} of its "
            f"line; hand it on: safelatch save {done.label} --out DIR"
        )


COMMANDS: tuple[click.Command, ...] = (sign, yank, revoke, save)
