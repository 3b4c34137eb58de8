"""What a report says before it is a page, Markdown or JSON: sections of sentences, tables, pictures and answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from matplotlib.figure import Figure


@dataclass(frozen=True)
class Cell:
    """One cell of a table: a figure or words, finer print below it, and a verdict's tone where it is one.

    `exact` is the figure as it was measured: tables are sorted by it. `depth` in [0, 1] shades a cell of a heat map.
    """

    value: str
    details: tuple[str, ...] = ()
    tone: str | None = None
    exact: float | None = None
    depth: float | None = None
    kind: Literal["figure", "words", "wide"] = "figure"


@dataclass(frozen=True)
class Note:
    """A paragraph; `quiet` in smaller print."""

    text: str
    quiet: bool = True


@dataclass(frozen=True)
class Heading:
    """A heading inside a section; `place` is that of the run that it names."""

    text: str
    place: int | None = None


@dataclass(frozen=True)
class Verdicts:
    """A sentence a run, behind its name: its place, its name, and the sentence."""

    said: Sequence[tuple[int, str, str]]


@dataclass(frozen=True)
class Table:
    """Rows of cells under their columns; the first cell names its row unless `named` says otherwise."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    named: bool = True
    tall: bool = False


@dataclass(frozen=True)
class Listing:
    """Names and what they stand for."""

    entries: Mapping[str, object]


@dataclass(frozen=True)
class Picture:
    """A figure with the sentence that stands above it; `size` where a page shows one of several sizes."""

    title: str
    figure: Figure
    size: Literal["large", "small", ""] = ""


@dataclass(frozen=True)
class Pictures:
    """Figures, drawn only where there is a page to show them; `caption` where all of them are one picture."""

    draw: Callable[[], Sequence[Picture]]
    key: Sequence[str] = ()
    caption: str = ""


@dataclass(frozen=True)
class Swatches:
    """The key of a colour scale: depths in [0, 1] and what they stand for."""

    shown: Sequence[tuple[float, str]]


@dataclass(frozen=True)
class Answers:
    """A prompt and what was answered to it: the place of the run, or None, its name, and its text."""

    prompt: str
    said: Sequence[tuple[int | None, str, str]]


@dataclass(frozen=True)
class Source:
    """Text as it stands in a file."""

    text: str


@dataclass(frozen=True)
class Links:
    """Names of files and where they stand, seen from the report."""

    text: str
    to: Mapping[str, str]


@dataclass(frozen=True)
class Folded:
    """What a reader opens by its summary."""

    summary: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Bar:
    """A figure against its limit, with its interval, all in the unit of `said`."""

    name: str
    value: float
    low: float
    high: float
    limit: float
    said: str

    @property
    def over(self) -> bool:
        """Whether the figure lies beyond its limit."""
        return self.value > self.limit

    def at(self, value: float) -> float:
        """Where a value stands on a scale from 0 to 1; the limit is its middle unless the figure lies far beyond."""
        reach = [x for x in (2 * self.limit, self.high, self.value) if math.isfinite(x) and x > 0]
        return min(max(value / max(reach, default=1.0), 0.0), 1.0) if math.isfinite(value) else 0.0


@dataclass(frozen=True)
class Progress:
    """How much is done of how much; `of` is NaN where that is not known."""

    value: float
    of: float
    said: str


Block = (
    Note | Heading | Verdicts | Table | Listing | Pictures | Swatches | Answers | Source | Links | Folded | Bar
    | Progress
)  # fmt: skip


@dataclass(frozen=True)
class Section:
    """A part of a report. `figures` is what it says as plain values, under `name`, for programs."""

    title: str
    blocks: Sequence[Block]
    name: str = ""
    figures: Any = field(default=None)
