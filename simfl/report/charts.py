"""Charts as plain data, independent of the library that draws them.

Shapes: R points of a line, K bars, B bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from simfl.report.curves import Floats

RUN_COLOURS: Final = (  # Tableau 10, without its grey; the order keeps neighbours apart
    *("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1"),
    *("#76b7b2", "#edc948", "#ff9da7", "#9c755f"),
    # As many again for sweeps, of a brightness that black and white leave visible alike.
    *("#1f9ed1", "#b5520f", "#8fbf2f", "#b0305c", "#6a5acd"),
    *("#0f8b8d", "#a89000", "#e377c2", "#5d6d7e"),
)
PHASE_COLOURS: Final = {
    "prepare": "#b9bec7",
    "start": "#9096a1",
    "sample": "#a5b4cb",
    "train": "#2f8f83",
    "aggregate": "#e9b44c",
    "evaluate": "#8c6bb1",
    "checkpoint": "#d97757",
    "observe": "#6aa6d6",
    "finish": "#6b717c",
}
_MARGIN: Final = 0.25
INK: Final = "#8a8f98"
"""For marks that belong to no run; readable on white and on black."""


@dataclass(frozen=True)
class Band:
    """The band around a line."""

    low: Floats
    """[R]"""
    high: Floats
    """[R]"""


@dataclass(frozen=True)
class Line:
    """A curve; a point that is not finite is a gap."""

    label: str
    colour: str
    x: Floats
    """[R]"""
    y: Floats
    """[R]"""
    band: Band | None = None
    is_dashed: bool = False
    belongs_to: str = ""
    """The label of another line whose legend entry covers this one, too."""

    @property
    def entry(self) -> str:
        """Its label in the legend."""
        return self.belongs_to or self.label


@dataclass(frozen=True)
class Lines:
    """Curves over a common axis."""

    title: str
    x: str
    y: str
    lines: tuple[Line, ...]
    note: str = ""
    """A sentence below the chart."""

    @property
    def y_range(self) -> tuple[float, float] | None:
        """The visible range of the y axis, if the band of a few seeds would dwarf the curves.

        None: the whole range.
        """
        bands = [line.band for line in self.lines if line.band is not None]
        points = np.concatenate([line.y for line in self.lines]) if bands else np.zeros(0)
        points = points[np.isfinite(points)]
        if not len(points):
            return None
        low, high = float(points.min()), float(points.max())
        margin = _MARGIN * ((high - low) or abs(high) or 1.0)
        lowest = min(float(np.nanmin(band.low, initial=low)) for band in bands)
        highest = max(float(np.nanmax(band.high, initial=high)) for band in bands)
        if lowest >= low - margin and highest <= high + margin:
            return None
        return max(lowest, low - margin), min(highest, high + margin)


@dataclass(frozen=True)
class Stack:
    """One colour of a bar chart: a value for each bar."""

    label: str
    colour: str
    values: tuple[float, ...]
    """[K] or [B]"""


@dataclass(frozen=True)
class Bars:
    """Stacked bars, one for each name."""

    title: str
    x: str
    y: str
    names: tuple[str, ...]
    """[K] the label of each bar."""
    stacks: tuple[Stack, ...]
    is_horizontal: bool = False
    note: str = ""
    is_percent: bool = False
    """Whether values are fractions, to be written as percentages."""


@dataclass(frozen=True)
class Histogram:
    """Counts between edges; several are overlaid."""

    title: str
    x: str
    y: str
    edges: Floats
    """[B + 1] ascending."""
    stacks: tuple[Stack, ...]
    note: str = ""
    marks: tuple[tuple[str, float], ...] = ()
    """Vertical lines: label and position."""
    is_log: bool = False

    @property
    def log_ticks(self) -> list[float]:
        """1, 2 and 5 times each power of ten between the edges."""
        low, high = self.edges[0], self.edges[-1]
        powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
        ticks = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
        return [tick for tick in ticks if low <= tick <= high]


Chart: TypeAlias = "Lines | Bars | Histogram"


@dataclass(frozen=True)
class Table:
    """Rows of text with a header."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    colours: tuple[str, ...] = ()
    """By row, of a dot before its first cell."""
    note: str = ""


@dataclass(frozen=True)
class Entry:
    """An entry of a legend."""

    label: str
    colour: str


def legend_of(chart: Chart) -> tuple[Entry, ...]:
    """Return a chart's legend; empty if it would have a single entry."""
    parts = chart.lines if isinstance(chart, Lines) else chart.stacks
    named = {
        part.label: part.colour
        for part in parts
        if not (isinstance(part, Line) and part.belongs_to)
    }
    entries = tuple(Entry(label, colour) for label, colour in named.items())
    return entries if len(entries) > 1 else ()


def own_legend(chart: Chart, key: Sequence[Entry]) -> tuple[Entry, ...]:
    """Return the legend entries of a chart that are not in the key of the whole page."""
    return tuple(entry for entry in legend_of(chart) if entry not in key)


def colour_of(index: int, colours: Sequence[str] = RUN_COLOURS) -> str:
    """Return the colour of the index-th run or group; colours repeat when they run out."""
    return colours[index % len(colours)]
