"""``safelatch``: the group of all verbs, the global options, and errors as exit statuses.

Exit status: 0 yes, 1 the honest answer is no, 2 typed wrong, 3 refused on evidence,
4 environment, 130 interrupted. This is the only module that may catch ``Exception``.
"""

from __future__ import annotations

import io
import os
import re
import sys
import warnings
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NoReturn

import click

from registry import __version__
from registry.cli import (
    completion,
    demo,
    import_command,
    key_commands,
    line_commands,
    lineage,
    make_commands,
    model_commands,
    project_command,
    registry_commands,
    transfer_commands,
)
from registry.cli.completion import VARIABLE
from registry.cli.invocation import (
    Invocation,
    example,
    leave_stdout,
    pass_invocation,
    print_result,
    run_options,
)
from registry.errors import SafelatchError
from registry.foreign import not_installed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

INTERRUPTED, UNEXPECTED, BROKEN_PIPE = 130, 4, 141
IN_PYTHON = {
    "load": "load_protected",
    "apply": "protect",
    "protect": "protect",
    "unprotect": "unprotect",
}
"""Verbs that are no commands, and what does them."""
SEE_WHERE = "See where: run again as safelatch --traceback ..."
_EMPTY = re.compile(r"(--[a-z-]+=)?")
_USERINFO = re.compile(r"(?<=//)[^/@\s]*@")  # of a URL: it may hold a password

SECTIONS: tuple[tuple[str, tuple[click.Command, ...]], ...] = (
    ("Registry", registry_commands.COMMANDS),
    ("Make an artifact", make_commands.COMMANDS + import_command.COMMANDS),
    ("Sign and withdraw", (key_commands.key, *line_commands.COMMANDS)),
    ("Share", transfer_commands.COMMANDS),
    ("Write a model", project_command.COMMANDS),
    ("Ask about a model", model_commands.COMMANDS + lineage.COMMANDS),
    ("Try it", demo.COMMANDS),
    ("In your shell", completion.COMMANDS),
)


class _Root(click.Group):
    """The root group: turns errors into messages and exit statuses, and lists verbs by section."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> NoReturn:
        """Run what was typed and exit; nothing but a status and its message leaves."""
        invocation = Invocation(format=_format(sys.argv[1:] if args is None else args))
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # a terminal without our letters
        extra |= {"obj": invocation, "standalone_mode": False}
        try:
            with _warnings_on_one_line(invocation):
                status = super().main(args, *rest, **extra) or 0
        except click.exceptions.Abort:  # while what was typed was read; click has ended the line
            status = INTERRUPTED
            _say_interrupted(invocation)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            status = error.exit_code
        except click.ClickException as error:
            status = error.exit_code
            message = " ".join(_USERINFO.sub("...@", error.format_message()).split())
            _print_error(invocation, "usage", message, _usage_hint(error))
        except SafelatchError as error:
            status = error.exit_code
            _show_traceback(invocation)
            _print_error(invocation, error.code, error.message, error.hint)
        except Exception as error:  # noqa: BLE001 -- the one place; a bug must not look like a no
            status = UNEXPECTED
            if VARIABLE not in os.environ:  # whoever pressed TAB is in the middle of typing
                _show_traceback(invocation)
                _print_error(invocation, *_unexpected(error))
        sys.exit(status)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the options before the verb; ``help VERB`` is ``VERB --help``.

        An empty word is refused wherever it stands: as a path it would be the current folder.
        """
        for before, word in pairwise(["safelatch", *args]):
            if _EMPTY.fullmatch(word) and not ctx.resilient_parsing:
                raise click.UsageError(
                    f"expected a value after {word.rstrip('=') or before!r}, got an empty one: "
                    "a variable may be unset.",
                    ctx,
                )
        if args[:1] == ["help"]:
            args = [*args[1:], "--help"]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; an interrupt and a reader that has gone end it without a word too many."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            shows_ctrl_c = sys.stderr is not None and sys.stderr.isatty()
            _say_interrupted(ctx.obj, "\n" if shows_ctrl_c else "")
            raise click.exceptions.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            leave_stdout()
            raise click.exceptions.Exit(BROKEN_PIPE) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        for title, commands in SECTIONS:
            with formatter.section(title):
                formatter.write_dl(
                    [
                        (command.name or "", command.get_short_help_str(limit=80))
                        for command in commands
                    ]
                )


@click.group(
    cls=_Root,
    epilog=example(
        "safelatch init",
        "safelatch base add ./my-base",
        "safelatch extract safety-lock ./my-base --out ./lock",
        "safelatch audit ./models",
    ),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, message="%(prog)s %(version)s")
@pass_invocation
def cli(invocation: Invocation) -> None:
    """Keep and check safety artifacts for open-weight language models.

    An artifact is made once from an aligned base model, is keyed to the exact weights it was
    made from, and then protects every fine-tune derived from them.
    """


for _title, _commands in SECTIONS:
    for _command in _commands:
        cli.add_command(_command)


def _take_run_options(command: click.Command) -> None:
    command.params += run_options()
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            _take_run_options(inner)


_take_run_options(cli)


def main() -> None:
    """Run the command line and exit with its status."""
    cli(prog_name="safelatch")


def _format(args: Sequence[str]) -> str:
    """Return the format that was typed, also where the rest cannot be parsed."""
    asked = "--format=json" in args or ("--format", "json") in pairwise(args)
    return "json" if asked else "text"


@contextmanager
def _warnings_on_one_line(invocation: Invocation) -> Iterator[None]:
    from registry.wording import printable

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        invocation.say(printable(f"warning: {' '.join(str(message).split())}"))

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _say_interrupted(invocation: Invocation, before: str = "") -> None:
    _show_traceback(invocation)
    if invocation.format == "json":
        _print_error(invocation, "interrupted", "interrupted before it was done.", None)
    else:
        click.echo(f"{before}interrupted", err=True)


def _print_error(invocation: Invocation, code: str, message: str, hint: str | None) -> None:
    from registry.report.table import to_json
    from registry.wording import printable

    shown = None if hint is None else invocation.typed(hint)
    if invocation.format == "json":
        document = {"error": {"code": code, "message": message, "hint": shown}}
        try:
            print_result(to_json(document) + "\n")
        except (BrokenPipeError, SafelatchError):
            pass  # nobody reads it there
        else:
            return
    hinted = "" if shown is None else f"\nhint: {shown}"
    click.echo(printable(f"error [{code}]: {message}{hinted}", keep="\n"), err=True)


def _show_traceback(invocation: Invocation) -> None:
    if invocation.traceback:
        import traceback

        traceback.print_exc()


def _usage_hint(error: click.ClickException) -> str | None:
    """Return the command to type instead, as far as it can be known."""
    context = getattr(error, "ctx", None)
    if context is None:
        return None
    verb, close = getattr(error, "command_name", None), getattr(error, "possibilities", None)
    if verb in IN_PYTHON:
        return f"That is Python: from registry import {IN_PYTHON[verb]}"
    if verb is not None and close:
        return f"Run: {context.command_path} {close[0]}"
    is_group = isinstance(context.command, click.Group)
    if is_group and getattr(error, "option_name", None) == "--format":
        return f"It stands after the verb: {context.command_path} VERB --format json"
    return f"See how: {context.command_path} --help"


def _unexpected(error: Exception) -> tuple[str, str, str]:
    """Return code, message and hint of an error that nobody foresaw."""
    fact = str(error).partition("\n")[0]
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("registry"):
        missing = not_installed(error)
        return missing.code, missing.message, str(missing.hint)
    if isinstance(error, OSError) and error.strerror is not None:
        place = f"at {str(error.filename)[:160]}" if error.filename else "here"
        return "environment", f"expected to work {place}, got: {error.strerror}.", SEE_WHERE
    return "unexpected", f"{type(error).__name__}: {fact}", f"This may be a bug. {SEE_WHERE}"
