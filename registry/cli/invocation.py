"""One run of the command: its global options, where it prints, and the registry it opens.

- Results go to stdout, everything else to stderr; ``--quiet`` leaves only results and errors.
- JSON and CSV are UTF-8 wherever they go; text is what the terminal can show.
- A bar is drawn only on a terminal.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from registry.reference import Reference
    from registry.report.table import Table
    from registry.settings import Settings
    from registry.store.catalog import Registry

    StageProgress = Callable[[str, int, int], None]
    CommandFunction = Callable[..., Any]

_COMMAND = re.compile(r"(?<![\w/.-])safelatch (?=[a-z-])")


@dataclass(slots=True)
class Invocation:
    """What the command line said to every verb alike.

    Attributes:
        db: Value of ``--db``; ``None`` for the environment's or the default registry.
        quiet: Print results and errors only.
        traceback: Show where an error was raised.
        format: ``text``, ``json`` or ``csv``.
    """

    db: str | None = None
    quiet: bool = False
    traceback: bool = False
    format: str = "text"

    def settings(self) -> Settings:
        """Return the settings of this run.

        Raises:
            UsageError: a folder is named where a database file belongs.
        """
        from registry.errors import UsageError
        from registry.settings import Settings

        found = Settings.load(self.db)
        if found.sqlite_path is not None and found.sqlite_path.is_dir():
            raise UsageError(
                f"expected a database's URL or file, got the folder {found.sqlite_path}.",
                hint=f"Name a file in it: --db {found.sqlite_path / 'registry.db'}",
            )
        return found

    @contextmanager
    def registry(self) -> Iterator[Registry]:
        """Yield the registry; raises ``RegistryMissingError`` when there is none."""
        from registry.store.catalog import Registry

        with Registry.open(settings=self.settings()) as opened:
            yield opened

    @contextmanager
    def registry_if_any(self) -> Iterator[Registry | None]:
        """Yield the registry, or ``None`` where none was made yet."""
        from registry.errors import RegistryMissingError

        with ExitStack() as stack:
            opened = None
            with suppress(RegistryMissingError):
                opened = stack.enter_context(self.registry())
            yield opened

    @contextmanager
    def registry_for(self, reference: Reference | None) -> Iterator[Registry | None]:
        """Yield the registry; ``None`` only where there is none and a place is named."""
        is_place = reference is not None and reference.scheme in {"file", "hf"}
        with self.registry_if_any() if is_place else self.registry() as opened:
            yield opened

    def emit(
        self,
        *,
        text: str | Callable[[], str],
        document: Any,
        table: Table | None = None,
        out: Path | None = None,
    ) -> None:
        """Print a result in the chosen format.

        Args:
            text: The text form, or a function that makes it; an empty one prints nothing.
            document: The JSON form.
            table: The CSV form, where there is one.
            out: File to write instead of stdout.

        Raises:
            HostError: the result cannot be written.
        """
        from registry.cli.outfile import write_out
        from registry.report.table import to_json

        if self.format == "json":
            shown = to_json(document) + "\n"
        elif self.format == "csv" and table is not None:
            shown = table.to_csv()
        else:
            shown = text if isinstance(text, str) else text()
            shown += "\n" if shown else ""
        if out is not None:
            write_out(out, _utf8(shown))
        elif self.format == "text":
            print_result(shown)
        else:
            print_result(_utf8(shown))

    def say(self, message: str) -> None:
        """Print a message to stderr, unless quiet."""
        if not self.quiet:
            click.echo(self.typed(message), err=True)

    def typed(self, message: str) -> str:
        """Return ``message`` with this run's ``--db`` in the commands it names, if that is a file.

        A server's URL is left out: it may hold a password.
        """
        if self.db is None or " --db " in message:
            return message
        if "://" in self.db and not self.db.startswith("sqlite:///"):
            return message
        named = f"safelatch --db {shlex.quote(self.db)} "
        return _COMMAND.sub(lambda _: named, message)

    @property
    def shows_progress(self) -> bool:
        """Whether a bar would be seen by somebody."""
        is_terminal = sys.stderr is not None and sys.stderr.isatty()
        return is_terminal and not self.quiet and os.environ.get("TERM") != "dumb"

    @contextmanager
    def progress(self) -> Iterator[StageProgress | None]:
        """Yield a callback for (stage, done, all) that draws bars; ``None`` when nobody looks."""
        if not self.shows_progress:
            # The Hub's client reads this once, when it is imported.
            os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
            yield None
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        columns = (TextColumn("{task.description}", markup=False), BarColumn(),
                   TaskProgressColumn())  # fmt: skip
        with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
            tasks: dict[str, Any] = {}

            def advance(stage: str, done: int, total: int) -> None:
                if stage not in tasks:
                    tasks[stage] = bars.add_task(stage, total=total)
                bars.update(tasks[stage], completed=done, total=total)

            yield advance


def print_result(shown: str | bytes) -> None:
    """Print what was asked for on stdout, as it is.

    Raises:
        BrokenPipeError: the reader has gone.
        HostError: nobody can read it: stdout is closed, or the disk behind it is full.
    """
    from registry.errors import HostError

    if sys.stdout is None:  # how Python says that it was closed from the start
        raise HostError(
            "expected to print the result, stdout is closed.",
            hint="Send it to a place that takes it: safelatch ... > FILE",
        )
    try:
        click.echo(shown, nl=False)
    except OSError as error:
        leave_stdout()
        if isinstance(error, BrokenPipeError):
            raise
        raise HostError(
            f"expected to print the result, stdout says: {error.strerror}.",
            hint="Send it to a place that takes it: safelatch ... > FILE",
        ) from error


def leave_stdout() -> None:
    """Let what is still to be written vanish, or Python complains about it at its exit."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.stdout = None


def _utf8(text: str) -> bytes:
    return text.encode(errors="backslashreplace")  # a name on disk can hold what is no text


def one_stage(progress: StageProgress | None, stage: str) -> Callable[[int, int], None] | None:
    """Return a callback for (done, all) that reports as ``stage``."""
    return None if progress is None else lambda done, total: progress(stage, done, total)


def reference_to(text: str) -> Reference:
    """Return the reference that ``text`` names; a folder is written with a slash or a dot."""
    from registry.reference import Reference

    return Reference.parse_or_path(text)


def example(*lines: str) -> str:
    """Return the end of a command's help: how it is typed."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


def run_options() -> list[click.Parameter]:
    """Return the options that every command takes, before the verb and after it."""

    def keep(context: click.Context, option: click.Parameter, value: Any) -> None:
        if value:  # what is not typed here may have been typed before the verb
            setattr(context.ensure_object(Invocation), option.name or "", value)

    def option(*names: str, **rest: Any) -> click.Option:
        return click.Option(names, is_eager=True, expose_value=False, callback=keep, **rest)

    where = "Registry: a database URL or a SQLite file. [default: SAFELATCH_DB, or the user's own]"
    return [
        option("--db", metavar="URL", help=where),
        option("-q", "--quiet", is_flag=True, help="Print results and errors only."),
        option("--traceback", is_flag=True, help="Show where an error was raised."),
    ]


def format_option(*, csv: bool = False) -> Callable[[CommandFunction], CommandFunction]:
    """Return the decorator that gives a verb its ``--format``."""

    def keep(context: click.Context, _: click.Parameter, value: str) -> None:
        context.ensure_object(Invocation).format = value

    return click.option(
        "--format",
        type=click.Choice(["text", "json", "csv"] if csv else ["text", "json"]),
        default="text",
        show_default=True,
        is_eager=True,
        expose_value=False,
        callback=keep,
        help="How to print the result.",
    )


pass_invocation = click.make_pass_decorator(Invocation)
