"""``safelatch key``: the keys that sign, and those that are trusted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from registry.cli.completion import keys
from registry.cli.invocation import Invocation, example, format_option, pass_invocation
from registry.cli.keys import PASSPHRASE, passphrase

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence

    from registry.artifact.trust import TrustedKey
    from registry.store.catalog import Registry

_MOMENT = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ"])


@click.group(
    epilog=example(
        "safelatch key generate --out publisher",
        "safelatch key trust publisher.pub --for 'acme/*' --label 'Acme'",
    )
)
def key() -> None:
    """Make keys, and decide whose signature counts here."""


@key.command(epilog=example("safelatch key generate --out publisher"))
@click.option(
    "--out", required=True, metavar="NAME", help="Writes NAME.key, to keep, and NAME.pub, to give."
)
@click.option("--encrypt", is_flag=True, help=f"Encrypt NAME.key; asks, or takes {PASSPHRASE}.")
@format_option()
@pass_invocation
def generate(invocation: Invocation, out: str, *, encrypt: bool) -> None:
    """Make a key pair: one file to keep, one to give away."""
    from registry.artifact.signing import PrivateKey, public_pem
    from registry.cli.outfile import require_place
    from registry.errors import UsageError
    from registry.report.verdicts import line

    private, public = _new_pair(out)
    require_place(private)
    words = passphrase("Passphrase of the new key", confirm=True) if encrypt else None
    if encrypt and not words:
        raise UsageError(
            "expected a passphrase to encrypt the key with, got none.",
            hint=f"Give it: export {PASSPHRASE}=..., or run this on a terminal.",
        )
    made = PrivateKey.generate()
    _write(private, made.to_pem(words), public, public_pem(made.key_id))
    invocation.emit(
        text=line("made", str(private), str(public), made.key_id),
        document={
            "key_id": made.key_id, "private": str(private), "public": str(public),
            "encrypted": encrypt,
        },
    )  # fmt: skip
    invocation.say(
        f"keep {private} to yourself; whoever loads what it signs runs: "
        f"safelatch key trust {public} --for NAMESPACE"
    )


@key.command(epilog=example("safelatch key trust publisher.pub --for 'acme/*' --label 'Acme'"))
@click.argument("public", metavar="PUB", shell_complete=keys)
@click.option(
    "--for", "namespaces", multiple=True, required=True, metavar="NAMESPACE",
    help="Bases it may speak for: acme/*, acme/base-7b, a digest, or '*'. May be repeated.",
)  # fmt: skip
@click.option("--label", metavar="WHO", help="Whose it is. [default: none]")
@click.option(
    "--not-before",
    type=_MOMENT,
    metavar="DATE",
    help="Counts from then on, UTC. [default: always did]",
)
@click.option(
    "--not-after", type=_MOMENT, metavar="DATE", help="Counts until then, UTC. [default: for ever]"
)
@click.option("--replace", is_flag=True, help="Replace all that it is trusted for already.")
@format_option()
@pass_invocation
def trust(  # noqa: PLR0917 -- click passes them by name
    invocation: Invocation,
    public: str,
    namespaces: tuple[str, ...],
    label: str | None,
    not_before: dt.datetime | None,
    not_after: dt.datetime | None,
    *,
    replace: bool,
) -> None:
    """Trust a public key for some bases.

    From then on, only what a trusted key signed is loaded for them. PUB is a file, or a key's id.
    """
    from registry.cli import key_facts
    from registry.moment import now
    from registry.report.verdicts import line
    from registry.workflows.trust import key_id_of

    asked = _asked(key_id_of(public), namespaces, label, _utc(not_before), _utc(not_after))
    with invocation.registry() as registry:
        before = _known(registry, asked.key_id)
        if before is not None and before.revoked_at is None and not replace:
            key_facts.require_no_loss(before, asked)
        found = registry.trust_key(
            asked.key_id,
            label=asked.label,
            namespaces=asked.namespaces,
            not_before=asked.not_before,
            not_after=asked.not_after,
        )
    gone = None if before is None else key_facts.dropped(before, found)
    invocation.emit(
        text=line("trusted", found.key_id, f"for {', '.join(found.namespaces)}", gone),
        document=key_facts.document(found),
    )
    if refusal := found.refusal(now()):
        invocation.say(f"{found.key_id} does not count now: {refusal}")


@key.command(epilog=example("safelatch key show publisher.pub"))
@click.argument("public", metavar="PUB", shell_complete=keys)
@format_option()
@pass_invocation
def show(invocation: Invocation, public: str) -> None:
    """Show a public key's id, and whether it is trusted here.

    PUB is a file, or a key's id. Compare the id with its owner over another way than the one that
    the file came by: it is the public key itself.
    """
    from registry.cli import key_facts
    from registry.report.verdicts import line
    from registry.workflows.trust import key_id_of

    key_id = key_id_of(public)
    with invocation.registry_if_any() as registry:
        found = None if registry is None else _known(registry, key_id)
    shown = key_facts.unknown(key_id) if found is None else key_facts.document(found)
    fact = None if found is None else found.revoked_reason or key_facts.in_words(found)
    invocation.emit(text=line(shown["state"], key_id, fact), document=shown)


@key.command("list", epilog=example("safelatch key list"))
@format_option(csv=True)
@pass_invocation
def list_(invocation: Invocation) -> None:
    """List the keys that are trusted here, and those that are revoked."""
    from registry.cli import key_facts
    from registry.report.table import Table

    with invocation.registry() as registry:
        known = registry.trusted_keys()
    found = [key_facts.document(each) for each in known]
    columns = ("key_id", "state", "namespaces", "label", "not_before", "not_after", "reason")
    table = Table(columns, tuple((*(each[name] for name in columns),) for each in found))
    if not found:
        invocation.say("no key is trusted here; see: safelatch key trust --help")
    invocation.emit(text=table.to_text, document=found, table=table)


@key.command(epilog=example("safelatch key revoke publisher.pub --reason 'stolen laptop'"))
@click.argument("public", metavar="PUB", shell_complete=keys)
@click.option("--reason", required=True, metavar="WHY", help="Why it is not trusted any more.")
@format_option()
@pass_invocation
def revoke(invocation: Invocation, public: str, reason: str) -> None:
    """Never accept a key's signatures again; this is final.

    PUB is a file, or a key's id. What only this key signed is no longer loaded.
    """
    from registry.cli import key_facts
    from registry.report.verdicts import line
    from registry.workflows.trust import key_id_of

    with invocation.registry() as registry:
        found = registry.revoke_key(key_id_of(public), reason)
    invocation.emit(
        text=line("revoked", found.key_id, found.revoked_reason),
        document=key_facts.document(found),
    )


def _new_pair(out: str) -> tuple[Path, Path]:
    """Return where the two files of a new key go; neither is there."""
    from registry.errors import UsageError

    stem = Path(out).expanduser()
    if stem.name in {"", ".."} or out.endswith("/"):
        raise UsageError(
            f"expected a name for two new files, got the folder {out!r}.",
            hint=f"Name them in it: safelatch key generate --out {stem / 'NAME'}",
        )
    private, public = stem.with_name(f"{stem.name}.key"), stem.with_name(f"{stem.name}.pub")
    taken = [str(path) for path in (private, public) if path.exists() or path.is_symlink()]
    if taken:
        raise UsageError(
            f"expected names that are free, got {' and '.join(taken)}: a key that is overwritten "
            "cannot be brought back.",
            hint="Choose another name: safelatch key generate --out NAME",
        )
    return private, public


def _write(private: Path, secret: bytes, public: Path, given: bytes) -> None:
    """Write both files, or none."""
    from registry.errors import HostError
    from registry.wholefile import write_file

    try:
        write_file(private, secret, mode=0o600)
        try:
            write_file(public, given)
        except BaseException:
            private.unlink()
            raise
    except OSError as error:
        raise HostError(
            f"expected a place where a key can be written at {private.parent}, got: "
            f"{error.strerror}.",
            hint="Choose another place: safelatch key generate --out NAME",
        ) from error


def _known(registry: Registry, key_id: str) -> TrustedKey | None:
    return next((key for key in registry.trusted_keys() if key.key_id == key_id), None)


def _asked(
    key_id: str,
    namespaces: Sequence[str],
    label: str | None,
    not_before: dt.datetime | None,
    not_after: dt.datetime | None,
) -> TrustedKey:
    """Return what was typed, as the registry would keep it."""
    from registry.artifact.scope import require_pattern
    from registry.artifact.trust import TrustedKey
    from registry.store.columns import plain

    patterns = tuple(sorted({require_pattern(pattern) for pattern in namespaces}))
    name = None if label is None else plain(label)
    return TrustedKey(key_id, patterns, name, not_before, not_after)


def _utc(moment: dt.datetime | None) -> dt.datetime | None:
    import datetime as dt

    return None if moment is None else moment.replace(tzinfo=dt.timezone.utc)
