"""``safelatch completion``: what TAB offers in bash, zsh and fish, through click's own completion.

- Verbs and options are completed from the standard library and click alone.
- Names are read from the registry only where its file is there already; a server is never asked.
- A registry that cannot be read offers nothing, and says nothing.
"""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

from registry.cli.invocation import Invocation, example
from registry.errors import SafelatchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from registry.store.catalog import Registry

    Items = list[CompletionItem[str]]

VARIABLE = "_SAFELATCH_COMPLETE"
"""Environment variable by which a shell asks; click derives it from the command's name."""


@click.command(
    epilog=example(
        'eval "$(safelatch completion bash)"      # in ~/.bashrc',
        'eval "$(safelatch completion zsh)"       # in ~/.zshrc, after compinit',
        "safelatch completion fish > ~/.config/fish/completions/safelatch.fish",
    )
)
@click.argument("shell", metavar="SHELL", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that makes TAB complete in a shell.

    SHELL is bash, zsh or fish.
    """
    found = get_completion_class(shell)
    if found is not None:
        root = context.find_root().command
        click.echo(found(root, {}, "safelatch", VARIABLE).source())


def folders(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> Items:
    """Offer folders, which the shell itself knows."""
    return [CompletionItem(incomplete, type="dir")]


def artifacts(context: click.Context, _parameter: click.Parameter, incomplete: str) -> Items:
    """Offer the names and versions of the registry's artifacts; those revoked are of no use."""

    def read(registry: Registry) -> Iterable[tuple[str, str]]:
        for line in registry.lines():
            yield line.name, line.kind
            for version in registry.versions(line.name):
                if version.state != "revoked":
                    yield version.label, f"{version.state} {version.kind}"

    return _offered(context, incomplete, read)


def lines(context: click.Context, _parameter: click.Parameter, incomplete: str) -> Items:
    """Offer the names of the registry's lines of artifacts."""
    return _offered(context, incomplete, lambda r: ((one.name, one.kind) for one in r.lines()))


def keys(context: click.Context, _parameter: click.Parameter, incomplete: str) -> Items:
    """Offer files, which the shell itself knows, and the keys that may still be revoked."""

    def read(registry: Registry) -> Iterable[tuple[str, str]]:
        known = registry.trusted_keys()
        return ((key.key_id, key.label or "") for key in known if key.revoked_at is None)

    return [CompletionItem(incomplete, type="file"), *_offered(context, incomplete, read)]


def bases(context: click.Context, _parameter: click.Parameter, incomplete: str) -> Items:
    """Offer the names of the registry's base models."""

    def read(registry: Registry) -> Iterable[tuple[str, str]]:
        return ((base.name, f"{base.family}, {base.layers} layers") for base in registry.bases())

    return _offered(context, incomplete, read)


def or_folders(complete: Callable[..., Items]) -> Callable[..., Items]:
    """Return what offers folders too; bash shows them where no name begins like the text."""
    return lambda context, parameter, incomplete: [
        *folders(context, parameter, incomplete),
        *complete(context, parameter, incomplete),
    ]


def _offered(
    context: click.Context,
    incomplete: str,
    read: Callable[[Registry], Iterable[tuple[str, str]]],
) -> Items:
    """Return the names that begin with ``incomplete``; none that a shell would take apart."""
    if incomplete.startswith((".", "/", "~")):
        return []
    invocation = context.ensure_object(Invocation)
    try:
        path = invocation.settings().sqlite_path
        if path is None or not path.is_file():
            return []
        with invocation.registry() as registry:
            found = list(read(registry))
    except (SafelatchError, OSError):
        return []
    return [
        CompletionItem(name, help=what)
        for name, what in found
        if name.startswith(incomplete) and shlex.quote(name) == name
    ]


class _Bash(BashComplete):
    """Puts the words together again that bash cut, as ``my-lock@1.0`` and ``--format=json``.

    Bash replaces only the last piece, which begins with the ``@`` or behind the ``:``.
    """

    def get_completion_args(self) -> tuple[list[str], str]:
        words, current = split_arg_string(os.environ["COMP_WORDS"]), int(os.environ["COMP_CWORD"])
        last = words[current] if current < len(words) else ""
        whole, is_open = [""], False
        for word in (*words[1:current], last):
            cuts = bool(word) and set(word) <= set("@:=")
            if cuts or is_open:
                whole[-1] += word
            else:
                whole.append(word)
            is_open = cuts
        *args, incomplete = whole[1:] or [""]
        is_whole = incomplete == last
        self._kept = 0 if is_whole else max(incomplete.rfind("@"), incomplete.rfind(":") + 1)
        return args, incomplete

    def format_completion(self, item: CompletionItem[Any]) -> str:
        return f"{item.type},{item.value[self._kept :]}"


add_completion_class(_Bash)

COMMANDS: tuple[click.Command, ...] = (completion,)
