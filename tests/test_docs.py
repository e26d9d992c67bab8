"""What texts tell people to type exists: commands in messages, docstrings and documents."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

from registry.cli.main import cli

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "registry").rglob("*.py"))
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
MENTION = re.compile(r"(?<![\w/.-])safelatch +(?=([^\n`]*))")
WORD = re.compile(r"[a-z][a-z-]*")
Words = tuple[str, ...]


def every_command(
    command: click.Command = cli, path: Words = ()
) -> Iterator[tuple[Words, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from every_command(inner, (*path, name))


COMMANDS = dict(every_command())
GROUPS = {path for path, command in COMMANDS.items() if isinstance(command, click.Group)}
LEAVES = [path for path in COMMANDS if path not in GROUPS]


def mentions(text: str) -> Iterator[Words]:
    """Yield the verb of each ``safelatch VERB`` in ``text``, with the word after a group's name.

    Global options are passed over; ``log show|verify`` is two mentions.
    """
    for match in MENTION.finditer(text):
        words = re.sub(r"--db +\S+|(?<!\S)--?[a-z]\S*", " ", match[1]).split()
        verb = words[0].rstrip(".,;:)'\"") if words else ""
        if not WORD.fullmatch(verb):
            continue
        after = words[1].rstrip(".,;:)'\"") if len(words) > 1 and verb == words[0] else ""
        inner = re.split(r"\\?\|", after)
        if (verb,) in GROUPS and all(map(WORD.fullmatch, inner)):
            yield from ((verb, word) for word in inner)
        else:
            yield (verb,)


def strings(path: Path) -> Iterator[str]:
    """Yield every text of a module as it is at run time; ``{}`` stands for what is filled in."""
    inside_f_strings = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.JoinedStr):
            inside_f_strings.update(map(id, node.values))
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values
            )
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in inside_f_strings
        ):
            yield node.value


def unknown(texts: Iterator[str]) -> list[str]:
    found = {path for text in texts for path in mentions(text)}
    return sorted(" ".join(path) for path in found if path not in COMMANDS)


def test_a_command_that_does_not_exist_is_found():
    texts = ["safelatch pull X", "see `safelatch log nothing`", "safelatch --db PATH revoke it"]
    assert unknown(iter(texts)) == ["log nothing", "pull", "revoke"]


def test_alternatives_are_several_commands():
    text = "| `safelatch db current\\|upgrade|check` | ... | and safelatch init, then more"
    assert list(mentions(text)) == [
        ("db", "current"),
        ("db", "upgrade"),
        ("db", "check"),
        ("init",),
    ]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_messages_and_docstrings_name_commands_that_exist(path):
    assert not unknown(strings(path))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_name_commands_that_exist(path):
    assert not unknown(iter([path.read_text("utf-8")]))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_help_and_an_example_that_names_it(path):
    command = COMMANDS[path]
    assert (command.help or "").strip()
    _, title, shown = (command.epilog or "").partition("Example:")
    assert title
    assert " ".join(("safelatch", *path)) in shown


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_command_is_in_the_readme(path):
    assert path in set(mentions((ROOT / "README.md").read_text("utf-8")))
