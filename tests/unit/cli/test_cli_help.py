"""What the help says: short, complete, and the same everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import pytest
from support.command_line import safelatch

from registry.cli.main import cli

if TYPE_CHECKING:
    from collections.abc import Iterator

UNITS = (
    "tokens", "prompts", "events", "heads", "folds", "repetitions", "5 %", "nats per token", "seed",
    "s, m, h or d", "tokens of each answer", "factor", "share of", "n pairs",
)  # fmt: skip
"""What numbers count, as their help says it."""


def every_command(
    command: click.Command = cli, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from every_command(inner, (*path, name))


COMMANDS = dict(every_command())
OPTIONS = {
    (*path, option.opts[-1]): option
    for path, command in COMMANDS.items()
    for option in command.params
    if isinstance(option, click.Option)
}
VALUES = {path: option for path, option in OPTIONS.items() if not option.is_flag}


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_first_line_is_a_sentence_that_fits(path: tuple[str, ...]) -> None:
    first = (COMMANDS[path].help or "").partition("\n")[0]
    assert first.endswith(".")
    assert first[0].isupper()
    assert len(first) <= 79


@pytest.mark.parametrize(
    "path", [path for path, command in COMMANDS.items() if isinstance(command, click.Group)]
)
def test_every_summary_in_a_list_of_verbs_is_whole_and_on_one_line(path: tuple[str, ...]) -> None:
    shown = safelatch(*path, "--help").out
    group = COMMANDS[path]
    assert isinstance(group, click.Group)
    for name, command in group.commands.items():
        (line,) = [line for line in shown.splitlines() if line.startswith(f"  {name} ")]
        assert line.endswith(command.short_help or (command.help or "").partition("\n")[0])
        assert len(line) <= 80


def test_name_of_a_kind_has_its_article() -> None:
    shown = safelatch("extract", "--help").out
    assert "Make an esi-mask." in shown
    assert "Make a safety-lock." in shown


@pytest.mark.parametrize("path", OPTIONS, ids=" ".join)
def test_help_of_an_option_is_a_sentence(path: tuple[str, ...]) -> None:
    assert (OPTIONS[path].help or "").partition(" [default")[0].endswith(".")


@pytest.mark.parametrize("path", VALUES, ids=" ".join)
def test_option_with_a_value_says_its_default_and_what_stands_for_the_value(
    path: tuple[str, ...],
) -> None:
    option = VALUES[path]
    context = click.Context(COMMANDS[path[:-1]])
    names, text = option.get_help_record(context) or ("", "")
    assert option.required or "[default: " in text
    assert option.metavar is not None or isinstance(option.type, click.Choice)
    assert "TEXT" not in names


@pytest.mark.parametrize(
    "path",
    [path for path, option in VALUES.items() if option.type.name.startswith(("int", "float"))],
)
def test_number_says_its_unit(path: tuple[str, ...]) -> None:
    assert any(unit in (VALUES[path].help or "").lower() for unit in UNITS)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_fits_a_terminal_of_80_columns_and_help_verb_is_the_same(
    path: tuple[str, ...],
) -> None:
    shown = safelatch(*path, "--help")
    assert (shown.status, shown.err) == (0, "")
    assert max(map(len, shown.out.partition("Example:")[0].splitlines())) <= 80
    assert safelatch("help", *path).out == shown.out


def test_nothing_typed_is_the_help_on_stderr_and_typed_wrong() -> None:
    outcome = safelatch()
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err == safelatch("--help").out
