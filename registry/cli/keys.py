"""Keys on the command line: where they are read, and how long what they sign counts."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from registry.cli.arguments import FILE, Duration

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from registry.artifact.signing import PrivateKey
    from registry.cli.invocation import Invocation
    from registry.store.catalog import Registry
    from registry.workflows.sign import Signer

PASSPHRASE = "SAFELATCH_KEY_PASSPHRASE"  # noqa: S105 -- the name of the variable


def key_option(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the decorator that gives a verb its ``--key``, which may be repeated."""
    return click.option(
        "--key", "keys", type=FILE, multiple=True, metavar="KEY",
        help=f"{text} Again for a second key. [default: none]",
    )  # fmt: skip


lifetime_option = click.option(
    "--line-lifetime",
    type=Duration(),
    metavar="TIME",
    help="Accept the signed line this long, in s, m, h or d. [default: as before, or for ever]",
)


def signer_of(keys: Sequence[Path], lifetime: dt.timedelta | None) -> Signer:
    """Return what signs, each key read with its passphrase.

    Raises:
        NotFoundError, UnsafeFormatError, ConfirmationRequiredError: a key cannot be read.
        UsageError: a lifetime without a key, or of nothing.
    """
    from registry.errors import UsageError
    from registry.workflows.sign import Signer

    if lifetime is not None and not keys:
        raise UsageError(
            "expected a key with --line-lifetime, got none.", hint="Name it: --key KEY"
        )
    if lifetime is not None and not lifetime:
        raise UsageError(
            "expected a lifetime above 0, got 0.", hint="Give one such as: --line-lifetime 90d"
        )
    return Signer([private_key(path) for path in keys], lifetime)


def private_key(path: Path) -> PrivateKey:
    """Return the key at ``path``; an encrypted one asks the environment, then the terminal."""
    from registry.artifact.signing import is_encrypted, read_private_key

    path = path.expanduser()
    if not is_encrypted(path):
        return read_private_key(path)
    return read_private_key(path, passphrase(f"Passphrase of {path}"))


def passphrase(prompt: str, *, confirm: bool = False) -> str | None:
    """Return the passphrase in the environment, or what is typed on a terminal, or ``None``."""
    given = os.environ.get(PASSPHRASE)
    if given or sys.stdin is None or not sys.stdin.isatty():
        return given or None
    return str(click.prompt(prompt, hide_input=True, confirmation_prompt=confirm, err=True))


def say_which_keys_left(
    invocation: Invocation, registry: Registry, name: str, before: bytes | None
) -> None:
    """Say which keys that count here signed ``before``, and the line's new document no more.

    Args:
        invocation: Where to.
        registry: In which the line was changed.
        name: The line.
        before: What ``registry.line_bytes`` returned before the change.
    """
    from registry.moment import now
    from registry.workflows.fetch import keys_named_in, line_in
    from registry.workflows.trust import base_names, counting

    after = registry.line_bytes(name)
    if before is None or after is None or before == after:
        return
    line, base = line_in(before), registry.base(line_in(after).base)
    there = counting(registry.trusted_keys(), (*base_names(base), str(base.weights)), now())
    gone = [key for key in keys_named_in(before) if key not in keys_named_in(after)]
    left = [key for key in gone if key in there]
    if left:
        invocation.say(
            f"document {line.sequence} was also signed by {', '.join(left)}, this one is not: who "
            f"trusts only that key cannot read it; give both: safelatch sign {name} --key A --key B"
        )
