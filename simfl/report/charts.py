"""Charts as plain data: what is drawn, whoever draws it.

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
"""For what belongs to no run; it can be read on white and on black."""


@dataclass(frozen=True)
class Band:
    """What lies around a line."""

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
    """The label of another line, whose entry in the legend stands for this one as well."""

    @property
    def entry(self) -> str:
        """What the legend has for it."""
        return self.belongs_to or self.label


@dataclass(frozen=True)
class Lines:
    """Curves over a common axis."""

    title: str
    x: str
    y: str
    lines: tuple[Line, ...]
    note: str = ""
    """A sentence beneath, of what the eye cannot see."""

    @property
    def y_range(self) -> tuple[float, float] | None:
        """What is shown of the y axis, where the band of a few seeds would dwarf the curves.

        None: all there is.
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
    """[K] what each bar is of."""
    stacks: tuple[Stack, ...]
    is_horizontal: bool = False
    note: str = ""
    is_percent: bool = False
    """Whether values are shares, to be written as percents."""


@dataclass(frozen=True)
class Histogram:
    """Counts between edges; several lie over one another."""

    title: str
    x: str
    y: str
    edges: Floats
    """[B + 1] ascending."""
    stacks: tuple[Stack, ...]
    note: str = ""
    marks: tuple[tuple[str, float], ...] = ()
    """Vertical lines: what each is, and where."""
    is_log: bool = False


Chart: TypeAlias = "Lines | Bars | Histogram"


@dataclass(frozen=True)
class Table:
    """Rows of text beneath a header."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    colours: tuple[str, ...] = ()
    """Of each row: a dot before its first cell."""
    note: str = ""


@dataclass(frozen=True)
class Entry:
    """What a legend says of a colour."""

    label: str
    colour: str


def legend_of(chart: Chart) -> tuple[Entry, ...]:
    """Return a chart's legend; empty where there is nothing to tell apart."""
    parts = chart.lines if isinstance(chart, Lines) else chart.stacks
    named = {
        part.label: part.colour
        for part in parts
        if not (isinstance(part, Line) and part.belongs_to)
    }
    entries = tuple(Entry(label, colour) for label, colour in named.items())
    return entries if len(entries) > 1 else ()


def own_legend(chart: Chart, key: Sequence[Entry]) -> tuple[Entry, ...]:
    """Return what a chart's legend has to say beyond the key of the whole page."""
    return tuple(entry for entry in legend_of(chart) if entry not in key)


def colour_of(index: int, colours: Sequence[str] = RUN_COLOURS) -> str:
    """Return the colour of a run's or group's number; they begin anew when they are used up."""
    return colours[index % len(colours)]
