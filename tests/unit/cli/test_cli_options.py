"""The options of every verb, before it and after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import pytest
from support.command_line import safelatch

from registry.cli.invocation import Invocation, run_options
from registry.cli.main import cli

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def every_command(command: click.Command = cli) -> Iterator[click.Command]:
    yield command
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            yield from every_command(inner)


def test_every_command_and_group_takes_them_once() -> None:
    expected = {option.name for option in run_options()}
    for command in every_command():
        names = [parameter.name for parameter in command.params]
        assert all(names.count(name) == 1 for name in expected), command.name


@pytest.mark.parametrize("place", [0, 1, 2])
def test_db_is_taken_before_the_group_after_it_and_after_the_verb(home: Path, place: int) -> None:
    path = home / "team.db"
    assert safelatch("init", "--db", path).out == f"created  sqlite:///{path}\n"
    words: list[object] = ["base", "list"]
    words[place:place] = ["--db", path]
    assert safelatch(*words).status == 0
    assert not (home / "registry.db").exists()


def test_the_option_nearest_to_the_verb_wins(home: Path) -> None:
    outcome = safelatch("--db", home / "outer.db", "init", "--db", home / "inner.db")
    assert outcome.out.endswith("inner.db\n")
    assert not (home / "outer.db").exists()


@pytest.mark.parametrize("words", [("-q", "list"), ("list", "-q"), ("list", "--quiet")])
def test_quiet_leaves_results_alone_in_both_places(home: Path, words: tuple[str, ...]) -> None:
    safelatch("init")
    assert safelatch("list").err
    assert safelatch(*words).err == ""
    assert safelatch(*words, "--db", home / "none.db").err.startswith("error [registry-missing]")


@pytest.mark.parametrize("words", [("--traceback", "list"), ("list", "--traceback")])
def test_traceback_shows_the_cause_in_both_places(home: Path, words: tuple[str, ...]) -> None:
    (home / "registry.db").write_bytes(b"no database at all")
    outcome = safelatch(*words)
    assert outcome.status == 4
    assert "Traceback (most recent call last)" in outcome.err
    assert "sqlite3.DatabaseError: file is not a database" in outcome.err
    assert "Traceback" not in safelatch("list").err


@pytest.mark.parametrize("name", ["team.db", "a registry.db", "back\\slash.db"])
def test_commands_in_hints_and_advice_name_the_registry_of_this_run(home: Path, name: str) -> None:
    path = home / name
    hint = safelatch("list", "--db", path).err.splitlines()[1]
    quoted = str(path) if name == "team.db" else f"'{path}'"
    assert hint == f"hint: Make one: safelatch --db {quoted} init"
    safelatch("init", "--db", path)
    advice = safelatch("list", "--db", path).err
    assert advice.endswith(f"see: safelatch --db {quoted} publish --help\n")


def test_url_of_a_missing_sqlite_file_is_repeated_in_the_hint(home: Path) -> None:
    url = f"sqlite:///{home / 'team.db'}"
    hint = safelatch("list", "--db", url).err.splitlines()[1]
    assert hint == f"hint: Make one: safelatch --db {url} init"
    assert safelatch("--db", url, "init").out == f"created  {url}\n"


def test_url_is_not_repeated_in_hints_it_may_hold_a_password() -> None:
    run = Invocation(db="postgresql://me:secret@host/d")
    assert run.typed("See: safelatch db check") == "See: safelatch db check"


def test_hint_that_names_a_registry_itself_stays_as_it_is() -> None:
    assert Invocation(db="x.db").typed("safelatch --db PATH init") == "safelatch --db PATH init"
    assert Invocation(db="x.db").typed("/srv/safelatch demo") == "/srv/safelatch demo"
    assert Invocation().typed("safelatch list") == "safelatch list"


def test_single_verb_takes_format_behind_it_only() -> None:
    assert safelatch("init", "--format", "json").document["created"]
    assert safelatch("--format", "csv", "list").status == 2
