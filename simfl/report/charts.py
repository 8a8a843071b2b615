"""Charts as plain data, independent of the library that draws them.

Shapes: R points of a line, K bars, B bins.
"""

from __future__ import annotations

import math
import re
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
_PAD: Final = 0.15
"""Between the axis and the outermost line or band, as a share of the margin for bands."""
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
    is_points: bool = False
    """Whether its points are not joined."""

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
    name: str = ""
    """What chooses the chart on the command line; see ``name_of``."""
    log: str = ""
    """The logarithmic axes: ``x``, ``y`` or ``xy``."""
    ticks: tuple[str, ...] = ()
    """Names of the places 0, 1, ... of an x axis that has no numbers."""
    is_marked: bool = False
    """Whether the points of all lines are marked."""

    @property
    def y_range(self) -> tuple[float, float] | None:
        """The visible range of the y axis, if the band of a few seeds would dwarf the curves.

        None: the whole range.
        """
        is_log = "y" in self.log
        edges = [edge for line in self.lines for edge in _edges(line)]
        points = _finite([line.y for line in self.lines], is_log=is_log) if edges else np.zeros(0)
        if not len(points):
            return None
        low, high = float(points.min()), float(points.max())
        margin = _MARGIN * ((high - low) or abs(high) or 1.0)
        found = _finite(edges, is_log=is_log)
        lowest, highest = float(found.min(initial=low)), float(found.max(initial=high))
        if is_log and any((edge <= 0).any() for edge in edges):
            lowest = -math.inf
        if lowest >= low - margin and highest <= high + margin:
            return None
        pad = _PAD * margin
        ends = max(lowest - pad, low - margin), min(highest + pad, high + margin)
        return (10 ** ends[0], 10 ** ends[1]) if is_log else ends


def _edges(line: Line) -> tuple[Floats, ...]:
    return () if line.band is None else (line.band.low, line.band.high)


def _finite(parts: Sequence[Floats], *, is_log: bool) -> Floats:
    """Return the finite values, or the logarithms of those that have one."""
    values = np.concatenate(parts)
    values = values[np.isfinite(values)]
    return np.log10(values[values > 0]) if is_log else values


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
    name: str = ""
    """As that of ``Lines``."""


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
    name: str = ""
    """As that of ``Lines``."""

    @property
    def log_ticks(self) -> list[float]:
        """1, 2 and 5 times each power of ten between the edges."""
        low, high = self.edges[0], self.edges[-1]
        powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
        ticks = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
        return [tick for tick in ticks if low <= tick <= high]


@dataclass(frozen=True)
class HeatMap:
    """A number for each pair of values; X columns, Y rows."""

    title: str
    x: str
    y: str
    columns: tuple[str, ...]
    """[X] the values on the x axis."""
    rows: tuple[str, ...]
    """[Y] the values on the y axis, from the bottom."""
    values: Floats
    """[Y, X]; NaN where there is none."""
    texts: tuple[tuple[str, ...], ...]
    """[Y][X] what is written in each field."""
    note: str = ""
    name: str = ""
    """As that of ``Lines``."""
    is_reversed: bool = False
    """Whether small values are the better ones, which get the dark colour."""


Chart: TypeAlias = "Lines | Bars | Histogram | HeatMap"


@dataclass(frozen=True)
class Facets:
    """The same chart of several parts of the runs; X columns, Y rows."""

    name: str
    """As that of ``Lines``."""
    columns: tuple[str, ...]
    """[X] titles."""
    rows: tuple[str, ...]
    """[Y] titles."""
    charts: tuple[tuple[Chart | None, ...], ...]
    """[Y][X]; None where a part has no such chart."""


def name_of(chart: Chart | Facets) -> str:
    """Return what chooses a chart on the command line: its name, or its title in lower case.

    >>> name_of(Lines("Seconds per round", "round", "seconds", ()))
    'seconds-per-round'
    """
    if chart.name or isinstance(chart, Facets):
        return chart.name
    return re.sub(r"[^a-z0-9]+", "-", chart.title.lower()).strip("-")


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
    if isinstance(chart, HeatMap):
        return ()
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


def colour_of(index: int) -> str:
    """Return the colour of the index-th run or group; colours repeat when they run out."""
    return RUN_COLOURS[index % len(RUN_COLOURS)]
