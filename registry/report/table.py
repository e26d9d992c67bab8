"""Tables and documents as text, JSON and CSV.

- Text is for people and ``grep``: columns aligned by blanks, one row a line, digests cut short.
- JSON and CSV are for machines: every value whole, in the same columns.
- What came from a file or a name never reaches a terminal as a control character.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.digest import is_digest, short
from registry.wording import printable

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under named columns.

    Attributes:
        columns: Their names, which are also the members of the JSON form.
        rows: One value per column each.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def records(self) -> list[dict[str, Any]]:
        """Return the rows as JSON objects."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]

    def to_text(self) -> str:
        """Return aligned columns under a line of names; nothing when there are no rows."""
        if not self.rows:
            return ""
        cells = [self.columns, *(tuple(cell(value) for value in row) for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return "\n".join(
            "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
            for row in cells
        )

    def to_csv(self) -> str:
        """Return CSV with a header; ``None`` is empty, truth is ``true`` or ``false``.

        Lines end in a newline alone, so that ``cut`` and ``grep`` see the last column as it is.
        """
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([_csv_value(value) for value in row] for row in self.rows)
        return out.getvalue()


def to_json(document: Any, *, indent: int | None = 2) -> str:
    """Return ``document`` as ASCII JSON, on one line without an ``indent``.

    Raises:
        ValueError: a number in it is not finite.
    """
    return json.dumps(document, indent=indent, allow_nan=False)


def pairs(values: Mapping[str, Any], *, indent: str = "") -> str:
    """Return names and values, one a line, aligned; digests are whole."""
    width = max((len(name) for name in values), default=0)
    return "\n".join(
        f"{indent}{name.ljust(width)}  {cell(value, cut=False)}" for name, value in values.items()
    )


def cell(value: Any, *, cut: bool = True) -> str:
    """Return ``value`` as text on one line.

    Args:
        value: None, truth, number, text, or a list of these.
        cut: Shorten digests.
    """
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(cell(item, cut=cut) for item in value) or "-"
    text = str(value)
    return short(text) if cut and is_digest(text) else printable(text)


def _csv_value(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        value = "; ".join(str(item) for item in value)
    return printable(value, keep="\n") if isinstance(value, str) else value
