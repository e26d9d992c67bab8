"""docs/hostile-inputs.md and the tests say the same: no row without its test, no attack untold.

Words in backticks stand in the test's file or in the code.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent.parent
PAGE = TESTS.parent / "docs" / "hostile-inputs.md"
ROW = re.compile(r"^\| (?P<attack>.+) \| (?P<said>[^|]+) \| `(?P<file>\S+)::(?P<test>\w+)` \|$")
SPOKEN = "".join(
    path.read_text("utf-8") for path in sorted((TESTS.parent / "registry").rglob("*.py"))
)


@dataclass(frozen=True)
class Row:
    """An attack, the words of its refusal (or what happens, without backticks), and the test."""

    attack: str
    said: str
    file: str
    test: str


def rows():
    lines = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| ")]
    told = [line for line in lines if not line.startswith("| attack |")]
    found = [ROW.match(line) for line in told]
    unread = [line for line, match in zip(told, found, strict=True) if match is None]
    assert not unread, unread
    return [Row(**match.groupdict()) for match in found]


def functions_in(path):
    tree = ast.parse(path.read_text("utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.test)
def test_a_row_names_a_test_that_exists_and_speaks_its_words(row):
    path = TESTS / row.file
    assert row.test in functions_in(path)
    heard = path.read_text("utf-8").replace("\\", "") + SPOKEN
    assert all(words in heard for words in re.findall(r"`([^`]+)`", row.said))


def test_every_attack_is_on_the_page_once():
    told = [(row.file, row.test) for row in rows()]
    attacks = [
        (f"attacks/{path.name}", name)
        for path in sorted(Path(__file__).parent.glob("test_hostile_*.py"))
        if path != Path(__file__)
        for name in sorted(functions_in(path))
        if name.startswith("test_")
    ]
    assert sorted(set(attacks) - set(told)) == []
    assert len(told) == len(set(told))
