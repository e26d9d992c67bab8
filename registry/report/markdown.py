"""Markdown and YAML of texts that somebody else wrote: shown letter by letter, never obeyed.

- A text that is not this package's own stands in a code span. That is the one place in which no
  renderer finds markup, a tag, an address to link, a mention or a formula: an escaped character
  does not keep every renderer from linking ``www.`` or ``@``.
- What would end the span or the cell of a table is replaced by a character that looks like it.
- The package's own words are escaped too, so that no kind has to know Markdown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.artifact.presentation import Share, Verbatim
from registry.wording import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from registry.artifact.presentation import Cell, Words

LONGEST = 300
"""Most characters of one text of others; the rest is cut."""
_LOOKALIKE = str.maketrans({"`": "'", "|": "¦"})
_MARKUP = str.maketrans({sign: f"\\{sign}" for sign in "\\`*_[]<>|&#~$"})


def code(text: str) -> str:
    """Return ``text`` as a code span that nothing in it can end."""
    shown = printable(text).translate(_LOOKALIKE).strip()
    cut = shown if len(shown) <= LONGEST else shown[: LONGEST - 3] + "..."
    return f"`{cut}`" if cut else "`(empty)`"


def words(sentence: Words) -> str:
    """Return a sentence: its own words escaped, others' texts as code."""
    return "".join(
        code(part.text) if isinstance(part, Verbatim) else printable(part).translate(_MARKUP)
        for part in ((sentence,) if isinstance(sentence, str) else sentence)
    )


def cell(value: Cell) -> str:
    """Return a value as the content of a table's cell."""
    if value is None:
        return "-"
    if isinstance(value, Share):
        low, high = round(100 * value.low), round(100 * value.high)
        return f"**{value.value:.0%}** ({value.successes} of {value.n}) [{low}, {high}]"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Verbatim):
        return code(value.text)
    return words(value) if isinstance(value, str) else str(value)


def table(columns: Sequence[Cell], rows: Iterable[Sequence[Cell]]) -> str:
    """Return a table."""
    lines = [[cell(name) for name in columns], [":---"] * len(columns)]
    lines += [[cell(value) for value in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def bullets(sentences: Iterable[Words]) -> str:
    """Return a list, one sentence a line."""
    return "\n".join(f"- {words(sentence)}" for sentence in sentences)


def front_matter(members: Mapping[str, str | Sequence[str]]) -> str:
    """Return a YAML front matter of texts and lists of texts, each in quotes and all of ASCII."""
    lines = ["---"]
    for name, value in members.items():
        if isinstance(value, str):
            lines.append(f"{name}: {_quoted(value)}")
        else:
            lines += [f"{name}:", *(f"- {_quoted(item)}" for item in value)]
    return "\n".join([*lines, "---", ""])


def _quoted(text: str) -> str:
    """Return ``text`` as a double-quoted scalar of ASCII: the same in YAML 1.1 and 1.2."""
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    number = ord(character)
    if character in '"\\':
        return "\\" + character
    if 0x20 <= number < 0x7F:
        return character
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
