"""``safelatch``: the group of all verbs, the global options, and errors as exit statuses.

Exit status: 0 yes, 1 the honest answer is no, 2 typed wrong, 3 refused on evidence,
4 environment, 130 interrupted. This is the only module that may catch ``Exception``.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from registry import __version__
from registry.cli import demo, make_commands, model_commands, registry_commands
from registry.cli.invocation import Invocation, example
from registry.errors import SafelatchError

INTERRUPTED, UNEXPECTED, BROKEN_PIPE = 130, 4, 141

SECTIONS: tuple[tuple[str, tuple[click.Command, ...]], ...] = (
    ("Registry", registry_commands.COMMANDS),
    ("Make an artifact", make_commands.COMMANDS),
    ("Ask about a model", model_commands.COMMANDS),
    ("Try it", demo.COMMANDS),
)


class _Root(click.Group):
    """The root group: turns errors into messages and exit statuses, and lists verbs by section."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except (click.exceptions.Exit, click.Abort):
            raise
        except click.ClickException as error:
            if _invocation(ctx).format != "json":
                raise
            _print_error(_invocation(ctx), "usage", error.format_message(), _usage_hint(error))
            ctx.exit(error.exit_code)
        except SafelatchError as error:
            _show_traceback(_invocation(ctx))
            _print_error(_invocation(ctx), error.code, error.message, error.hint)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing at exit either
            ctx.exit(BROKEN_PIPE)
        except Exception as error:  # noqa: BLE001 -- the one place; a bug must not look like a no
            _show_traceback(_invocation(ctx))
            fact = str(error).partition("\n")[0]
            _print_error(
                _invocation(ctx),
                "unexpected",
                f"{type(error).__name__}: {fact}",
                "This may be a bug. See where: run again as safelatch --traceback ...",
            )
            ctx.exit(UNEXPECTED)
        return result

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
@click.option(
    "--db",
    metavar="URL",
    help="Registry: a database URL or SQLite file. [default: SAFELATCH_DB, or the user's own]",
)
@click.option("-q", "--quiet", is_flag=True, help="Print results and errors only.")
@click.option("--traceback", is_flag=True, help="Show where an error was raised.")
@click.version_option(__version__, message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context, db: str | None, *, quiet: bool, traceback: bool) -> None:
    """Keep and check safety artifacts for open-weight language models.

    An artifact is made once from an aligned base model, is keyed to the exact weights it was
    made from, and then protects every fine-tune derived from them.
    """
    context.obj = Invocation(db=db, quiet=quiet, traceback=traceback)
    if not context.obj.shows_progress:  # the Hub's client reads this once, when it is imported
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


for _title, _commands in SECTIONS:
    for _command in _commands:
        cli.add_command(_command)


def main() -> None:
    """Run the command line and exit with its status."""
    cli(prog_name="safelatch")


def _invocation(context: click.Context) -> Invocation:
    return context.obj if isinstance(context.obj, Invocation) else Invocation()


def _print_error(invocation: Invocation, code: str, message: str, hint: str | None) -> None:
    from registry.report.table import printable, to_json

    if invocation.format == "json":
        click.echo(to_json({"error": {"code": code, "message": message, "hint": hint}}))
        return
    hinted = "" if hint is None else f"\nhint: {hint}"
    click.echo(printable(f"error [{code}]: {message}{hinted}", keep="\n"), err=True)


def _show_traceback(invocation: Invocation) -> None:
    if invocation.traceback:
        import traceback

        traceback.print_exc()


def _usage_hint(error: click.ClickException) -> str | None:
    context = getattr(error, "ctx", None)
    return None if context is None else f"See how: {context.command_path} --help"
