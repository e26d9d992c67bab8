"""Prompt sets: what a model is asked, named so that a receipt can say exactly what it was.

The packaged sets are this project's own; a user's file has the same form, JSON lines with
exactly these members::

    {"id", "prompt", "form": "imperative"|"question", "topic", "split"}
    {"id", "prompt", "refusing", "complying", "form", "topic", "split"}        (pairs)

- The digest covers the file's bytes, so two receipts with one digest asked the same questions.
- ``make`` is for making an artifact, ``calibrate`` for choosing its strength, ``report`` for the
  figures that are printed: whoever mixes them measures his own construction.
- Rows are in an order in which each prefix is mixed in form and topic: a smaller run takes the
  first rows instead of drawing.
- A file with any fault is refused with all its faults; nothing is skipped or repaired.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, get_args

from registry.digest import Digest, digest_bytes, parse_json
from registry.errors import (
    HostError,
    NotFoundError,
    SchemaViolationError,
    UnsafeFormatError,
    UsageError,
)

Form = Literal["imperative", "question"]
Split = Literal["make", "calibrate", "report"]

PAIRS = "preference_pairs"
PACKAGED = ("harmful", "harmless", PAIRS, "scary")
"""The sets that travel with the package, all at ``PACKAGED_VERSION``."""

PACKAGED_VERSION = "1"
FILE_VERSION = "file"  # the version of a user's own set: its digest is all that identifies it
FILE_LIMIT = 64 << 20  # bytes
LINE_LIMIT = 1 << 16  # bytes
_FORM = (
    'Write one JSON object a line: {"id", "prompt", "form": "imperative" or "question", "topic", '
    '"split": "make", "calibrate" or "report"}, and in pairs also {"refusing", "complying"}.'
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question to a model."""

    id: str
    prompt: str
    form: Form
    topic: str
    split: Split


@dataclass(frozen=True, slots=True)
class Pair(Prompt):
    """One question with an answer that declines it and one that does what it asks."""

    refusing: str
    complying: str


RowT_co = TypeVar("RowT_co", bound=Prompt, covariant=True)
RowT = TypeVar("RowT", bound=Prompt)


@dataclass(frozen=True, slots=True)
class PromptSet(Generic[RowT_co]):
    """Rows of one file, or a part of them.

    Attributes:
        name: Name of the set: a packaged one, or the stem of a user's file.
        version: Version of a packaged set; ``"file"`` for a user's own.
        digest: Of the whole file, also when this is a part of it.
        rows: The rows of this part, in the file's order.
        part: The splits this part is restricted to, joined by ``+``, or ``None``.
    """

    name: str
    version: str
    digest: Digest
    rows: tuple[RowT_co, ...]
    part: str | None = None

    def split(self, *names: Split) -> PromptSet[RowT_co]:
        """Return the rows of one split, or of several, in the file's order.

        Raises:
            NotFoundError: there are none.
        """
        rows, part = tuple(row for row in self.rows if row.split in names), "+".join(names)
        if not rows:
            counts = Counter(row.split for row in self.rows)
            there = ", ".join(f"{split} {n}" for split, n in sorted(counts.items())) or "no rows"
            raise NotFoundError(
                f"expected rows of split {part!r} in {self.name}, got {there}.", hint=_FORM
            )
        return replace(self, rows=rows, part=part)

    def first(self, n: int) -> PromptSet[RowT_co]:
        """Return the first ``n`` rows, or all of them when there are fewer.

        Raises:
            UsageError: ``n`` is below 1.
        """
        if n < 1:
            raise UsageError(f"expected at least 1 row of {self.name}, got {n}.")
        return replace(self, rows=self.rows[:n])

    @property
    def texts(self) -> tuple[str, ...]:
        """The prompts."""
        return tuple(row.prompt for row in self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def describe(self) -> dict[str, str | int | None]:
        """Return what a receipt needs to name these rows: the first ``rows`` of ``split``."""
        return {
            "name": self.name,
            "version": self.version,
            "digest": self.digest,
            "split": self.part,
            "rows": len(self.rows),
        }


def load_prompts(name: str) -> PromptSet[Prompt]:
    """Return the packaged set ``name``.

    Raises:
        NotFoundError: there is no such set.
    """
    data = _packaged_bytes(name)
    row_type = Pair if name == PAIRS else Prompt
    return _parse(data, row_type, name=name, version=PACKAGED_VERSION, what=name)


def load_pairs() -> PromptSet[Pair]:
    """Return the packaged preference pairs."""
    name = PAIRS
    data = _packaged_bytes(name)
    return _parse(data, Pair, name=name, version=PACKAGED_VERSION, what=name)


def read_prompts(path: str | Path) -> PromptSet[Prompt]:
    """Return the prompts of a user's JSON lines.

    Raises:
        NotFoundError: there is no such file.
        SchemaViolationError: a line breaks the form, or an id or prompt comes twice; all listed.
        UnsafeFormatError: the file is larger than ``FILE_LIMIT``.
        HostError: the file cannot be read.
    """
    return _read(path, Prompt)


def read_pairs(path: str | Path) -> PromptSet[Pair]:
    """Return the preference pairs of a user's JSON lines; raises like ``read_prompts``."""
    return _read(path, Pair)


def _packaged_bytes(name: str) -> bytes:
    if name not in PACKAGED:
        raise NotFoundError(
            f"expected one of the prompt sets {', '.join(PACKAGED)}, got {name[:80]!r}.",
            hint="A file of your own is read with read_prompts(PATH).",
        )
    folder = files("registry.measure") / "prompt_sets"
    return (folder / f"{name}.v{PACKAGED_VERSION}.jsonl").read_bytes()


def _read(path: str | Path, row_type: type[RowT]) -> PromptSet[RowT]:
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = file.read(FILE_LIMIT + 1)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise NotFoundError(f"expected JSON lines at {path}, found no file.", hint=_FORM) from None
    except OSError as error:
        raise HostError(
            f"expected a readable file at {path}, got: {error.strerror}.",
            hint="Allow reading it, or name another file.",
        ) from error
    if len(data) > FILE_LIMIT:
        raise UnsafeFormatError(
            f"{path}: expected at most {FILE_LIMIT:,} bytes, got more.", hint=_FORM
        )
    return _parse(data, row_type, name=path.stem, version=FILE_VERSION, what=str(path))


def _parse(
    data: bytes, row_type: type[RowT], *, name: str, version: str, what: str
) -> PromptSet[RowT]:
    findings: list[str] = []
    rows: list[RowT] = []
    lines = data.split(b"\n")
    if lines[-1] == b"":
        lines.pop()  # the newline that ends the last line
    ids: dict[str, int] = {}
    prompts: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        row = _row(line, number, row_type, findings)
        if row is None:
            continue
        for label, value, seen in (("id", row.id, ids), ("prompt", _key(row.prompt), prompts)):
            if value in seen:
                findings.append(f"line {number}: {label} of line {seen[value]} again")
            seen.setdefault(value, number)
        rows.append(row)
    if not lines:
        findings.append("no lines")
    if findings:
        raise SchemaViolationError(
            f"{what}: expected one JSON object a line with {', '.join(_members(row_type))}; "
            f"{len(findings)} findings.",
            findings,
            hint=_FORM,
        )
    return PromptSet(name, version, digest_bytes(data), tuple(rows))


def _row(line: bytes, number: int, row_type: type[RowT], findings: list[str]) -> RowT | None:
    where = f"line {number}"
    try:
        document = parse_json(line, what=where, limit=LINE_LIMIT)
    except UnsafeFormatError as error:
        findings.append(error.message)
        return None
    members = _members(row_type)
    if not isinstance(document, dict) or set(document) != set(members):
        got = sorted(document) if isinstance(document, dict) else type(document).__name__
        findings.append(f"{where}: expected the members {', '.join(members)}, got {got}")
        return None
    faults = [
        f"{where}: {fault}" for key in members if (fault := _fault(key, document[key])) is not None
    ]
    if not faults and document.get("refusing", "") == document.get("complying", " "):
        faults.append(f"{where}: refusing and complying are one text")
    findings.extend(faults)
    return None if faults else row_type(**document)


def _members(row_type: type[Prompt]) -> tuple[str, ...]:
    return tuple(row_type.__dataclass_fields__)


def _fault(key: str, value: Any) -> str | None:
    if not isinstance(value, str) or not value or value != value.strip():
        return f"{key}: expected text without blanks around it, got {str(value)[:60]!r}"
    allowed = {"form": get_args(Form), "split": get_args(Split)}.get(key)
    if allowed is not None and value not in allowed:
        return f"{key}: expected one of {', '.join(allowed)}, got {value[:60]!r}"
    return None


def _key(text: str) -> str:
    """Return ``text`` as duplicates are told: without case and spacing."""
    return " ".join(text.casefold().split())
