"""What texts tell people to type can be typed: in messages, help, docstrings and documents."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
from support.command_line import safelatch

from registry.cli.main import cli
from registry.kinds import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "registry").rglob("*.py"))
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
MENTION = re.compile(r"(?<![\w/.-])safelatch +(?=([^\n`]*))")
END = re.compile(r"[,;:.]?\s+(?:[>#|(]|or |and |then )|[,;:.](?:\s|$)|[)\"]")
"""Where a command ends in a sentence or a shell line."""
PLACEHOLDER = re.compile(r"[A-Z]|{}")
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


def command_lines(text: str) -> Iterator[list[str]]:
    """Yield the words behind each ``safelatch`` in ``text``, up to where the command ends."""
    for match in MENTION.finditer(text):
        rest = re.sub(r"extract (KIND|{})", f"extract {next(iter(KINDS))}", match[1])
        line = END.split(rest.replace("\\|", "|").replace("...", ""), maxsplit=1)[0]
        if list(mentions(f"safelatch {line}")) and not re.search(r"\w\|[a-z]", line):
            yield shlex.split(line)


def unknown(texts: Iterator[str]) -> list[str]:
    found = {path for text in texts for path in mentions(text)}
    return sorted(" ".join(path) for path in found if path not in COMMANDS)


def test_a_command_that_does_not_exist_is_found():
    texts = ["safelatch fetch X", "see `safelatch log nothing`", "safelatch --db PATH erase it"]
    assert unknown(iter(texts)) == ["erase", "fetch", "log nothing"]


def test_alternatives_are_several_commands():
    text = "| `safelatch db current\\|upgrade|check` | ... | and safelatch init, then more"
    assert list(mentions(text)) == [
        ("db", "current"),
        ("db", "upgrade"),
        ("db", "check"),
        ("init",),
    ]


@pytest.fixture
def refusal(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], str]:
    """Return a function from words to what the real command line has against them."""
    for path in LEAVES:
        monkeypatch.setattr(COMMANDS[path], "callback", lambda **_: None)

    def ask(words: list[str]) -> str:
        outcome = safelatch(*words)
        stands_for_something = "Invalid value" in outcome.err and any(
            map(PLACEHOLDER.search, words)
        )
        return "" if outcome.status == 0 or stands_for_something else outcome.err.partition("\n")[0]

    return ask


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("Make one: safelatch --db PATH init", [["--db", "PATH", "init"]]),
        ("safelatch init, then safelatch base add MODEL; or", [["init"], ["base", "add", "MODEL"]]),
        ("see `safelatch show NAME@V` or (safelatch list).", [["show", "NAME@V"], ["list"]]),
        ('eval "$(safelatch completion bash)"  # so', [["completion", "bash"]]),
        ("safelatch list | head -1", [["list"]]),
        ("run again as safelatch --traceback ...", []),
        ("safelatch log show\\|verify", []),
    ],
)
def test_a_command_ends_where_the_sentence_goes_on(text, lines):
    assert list(command_lines(text)) == lines


@pytest.mark.parametrize(
    ("line", "fact"),
    [
        ("list --nothing", "No such option"),
        ("check lock", "Missing argument"),
        ("fingerprint MODEL MORE", "unexpected extra argument"),
        ("list --format jsn", "Invalid value"),
        ("publish DIR --name NAME", "Missing option"),
        ("publish DIR --name NAME --version V", ""),
        ("log show --limit N", ""),
    ],
)
def test_a_line_that_cannot_be_typed_is_found(refusal, line, fact):
    found = refusal(line.split())
    assert fact in found
    assert bool(found) == bool(fact)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_command_lines_in_messages_and_help_can_be_typed(refusal, path):
    """Docstrings may name a command alone; what is shown at run time is typed as it stands."""
    tree = ast.parse(path.read_text("utf-8"))
    named = {ast.get_docstring(node, clean=False) for node in ast.walk(tree)
             if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef)}  # fmt: skip
    shown = [text for text in strings(path) if text not in named]
    wrong = {" ".join(words): found for text in shown for words in command_lines(text)
             if (found := refusal(words))}  # fmt: skip
    assert not wrong


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_command_lines_in_documents_can_be_typed(refusal, path):
    wrong = {" ".join(words): found for words in command_lines(path.read_text("utf-8"))
             if tuple(words) not in COMMANDS and (found := refusal(words))}  # fmt: skip
    assert not wrong


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


def readme_table() -> dict[Words, list[str]]:
    """Return each command of the README's table with the words behind it."""
    found = {}
    for words in command_lines(
        (ROOT / "README.md").read_text("utf-8").partition("## The commands")[2]
    ):
        path = max((path for path in LEAVES if tuple(words[: len(path)]) == path), key=len)
        found.setdefault(path, words[len(path) :])
    return found


@pytest.mark.parametrize("path", readme_table(), ids=" ".join)
def test_words_of_the_readme_are_those_of_the_help(path):
    command, words = COMMANDS[path], readme_table()[path]
    options = {name: option for option in command.params for name in option.opts}
    positional = []
    while words:
        word, *words = words
        if word in options:
            assert words.pop(0) == options[word].metavar
        else:
            positional.append(word)
    shown = [p.metavar or p.make_metavar(click.Context(command)) for p in command.params
             if isinstance(p, click.Argument) and p.required]  # fmt: skip
    assert len(positional) == len(shown)
    for word, of_help in zip(positional, shown, strict=True):
        assert word in of_help.removesuffix("...").split("|")


def python_blocks() -> list[tuple[str, str]]:
    return [
        (f"{path.relative_to(ROOT)}:{number}", block)
        for path in DOCUMENTS
        for number, block in enumerate(
            re.findall(r"^```python\n(.*?)^```", path.read_text("utf-8"), re.DOTALL | re.MULTILINE)
        )
    ]


@pytest.mark.parametrize("block", [code for _, code in python_blocks()],
                         ids=[name for name, _ in python_blocks()])  # fmt: skip
def test_python_in_documents_compiles_and_imports_what_exists(block):
    tree = ast.parse(block)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
