"""One run of the command: its global options, where it prints, and the registry it opens.

- Results go to stdout, everything else to stderr; ``--quiet`` leaves only results and errors.
- A bar is drawn only on a terminal.
"""

from __future__ import annotations

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


@dataclass(slots=True)
class Invocation:
    """What the command line said before the verb.

    Attributes:
        db: Value of ``--db``; ``None`` for the environment's or the default registry.
        quiet: Print results and errors only.
        traceback: Show where an error was raised.
        format: ``text``, ``json`` or ``csv``; set by the verb's own ``--format``.
    """

    db: str | None = None
    quiet: bool = False
    traceback: bool = False
    format: str = "text"

    def settings(self) -> Settings:
        """Return the settings of this run."""
        from registry.settings import Settings

        return Settings.load(self.db)

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
            HostError: the file cannot be written.
        """
        from registry.report.table import to_json

        if self.format == "json":
            shown = to_json(document) + "\n"
        elif self.format == "csv" and table is not None:
            shown = table.to_csv()
        else:
            shown = text if isinstance(text, str) else text()
            shown += "\n" if shown else ""
        if out is None:
            click.echo(shown, nl=False)
        else:
            _write(out, shown)

    def say(self, message: str) -> None:
        """Print a message to stderr, unless quiet."""
        if not self.quiet:
            click.echo(message, err=True)

    @property
    def shows_progress(self) -> bool:
        """Whether a bar would be seen by somebody."""
        return not self.quiet and sys.stderr.isatty()

    @contextmanager
    def progress(self) -> Iterator[StageProgress | None]:
        """Yield a callback for (stage, done, all) that draws bars; ``None`` when nobody looks."""
        if not self.shows_progress:
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


def _write(path: Path, text: str) -> None:
    from registry.errors import HostError

    try:
        path.write_bytes(text.encode())
    except OSError as error:
        raise HostError(
            f"expected to write {path}, got: {error.strerror}.",
            hint="Name a file in a folder that exists and can be written: --out FILE",
        ) from error


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


device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to run the model; auto takes cuda where there is one.",
)
pass_invocation = click.make_pass_decorator(Invocation)
