"""What a kind shows people of one artifact, as plain values: ``report`` makes text and images.

- A plain ``str`` is the kind's own words. What comes out of a manifest is a number, or
  ``Verbatim``, which is shown letter by letter and can never become a link or markup.
- Nothing here knows Markdown, HTML or matplotlib, and no kind needs to.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Verbatim:
    """A text that is shown as it is, in the type of code: a digest, a command, others' words."""

    text: str


Words = str | tuple["str | Verbatim", ...]
"""A sentence, in parts where one of them is verbatim."""


@dataclass(frozen=True, slots=True)
class Share:
    """So many of so many, with the 95 % interval of the share."""

    successes: int
    n: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The share, 0 to 1."""
        return self.successes / self.n


Cell = str | int | float | Verbatim | Share | None


@dataclass(frozen=True, slots=True)
class Grid:
    """A table: what it shows, its columns, a value per column in each row, and notes below it."""

    title: str
    lead: Words
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[Words, ...] = ()


@dataclass(frozen=True, slots=True)
class Point:
    """A measured value at ``x``, with the ends of its interval where there is one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """Points that belong together, x ascending."""

    label: str
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes.

    Attributes:
        y_label: What is measured, with its unit.
        series: At most six.
        percent: Whether y is a share, shown in percent.
        joined: Whether neighbouring points are joined by a line.
        limit: A bound, and what it is called.
        span: Least and most of the y axis; ``None`` for what the points need.
    """

    y_label: str
    series: tuple[Series, ...]
    percent: bool = True
    joined: bool = True
    limit: tuple[float, str] | None = None
    span: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Chart:
    """Panels above each other over one x axis.

    Attributes:
        name: Stem of its file, ``[a-z-]+``.
        title: One line.
        described: What it shows, in a sentence, for those who do not see it.
        x_label: With the unit.
        panels: From top to bottom.
        mark: An x that was chosen, and what it is called.
        band: Whole numbers of x that were chosen, the first and the last, and what they are called.
        names: What stands at x = 0, 1, 2, ... instead of numbers; empty for numbers.
    """

    name: str
    title: str
    described: str
    x_label: str
    panels: tuple[Panel, ...]
    mark: tuple[float, str] | None = None
    band: tuple[int, int, str] | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Presentation:
    """What a kind says about one artifact.

    Attributes:
        method: What it does, in a few words that follow "a <kind>: ".
        paper: Where the method is from, and its address; an address is a kind's own text.
        tags: What people search for.
        facts: Name and value of what matters most, such as a strength.
        grids: What was measured.
        limits: What those measurements do not show.
        refusals: What the artifact does not do.
        charts: The same measurements as pictures.
        needs_base: Whether what it puts on a model is in the base's files, not in the artifact.
    """

    method: str
    paper: tuple[str, str | None]
    tags: tuple[str, ...] = ()
    facts: tuple[tuple[str, Cell], ...] = ()
    grids: tuple[Grid, ...] = ()
    limits: tuple[Words, ...] = ()
    refusals: tuple[Words, ...] = ()
    charts: tuple[Chart, ...] = ()
    needs_base: bool = False
