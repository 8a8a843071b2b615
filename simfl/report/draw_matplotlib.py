"""Charts as pictures, by matplotlib: PNG, PDF or SVG, all by the same code.

The same charts give the same bytes: the files hold no dates.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Sequence
from functools import singledispatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np

from simfl.errors import import_extra
from simfl.report.charts import (
    INK,
    Bars,
    Chart,
    Entry,
    HeatMap,
    Histogram,
    Lines,
    own_legend,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Picture: TypeAlias = Literal["png", "pdf", "svg"]

_COLUMNS = 2
_SIZE = (6.0, 3.6)  # inches of a chart
TEXT = "#333333"
_TITLE_SIZE = 14
_TITLE_WIDTH = 90
_KEY_WIDTH = 150
"""The number of letters of the smaller size that fit across the picture."""
KEY_GAP = 8
"""The width of an entry's colour and the space around it, in letters."""
_NAME_WIDTH = 26
"""The width of a bar's name, in letters; longer ones are wrapped, or shortened if there are many
bars."""
_LEGEND_WIDTH = 30
_MAX_OVERLAID = 2
_MAX_BROKEN = 6

_DPI: Final[dict[Picture, int]] = {"png": 120, "pdf": 72, "svg": 72}
# Type 42 fonts, since publishers refuse Type 3; text of an SVG as shapes, which look the same
# everywhere; no metadata that differ from day to day.
_STYLE = {"pdf.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": "simfl"}
_METADATA: Final[dict[Picture, dict[str, None]]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    "svg": {"Date": None, "Creator": None},
}


def draw_overview(
    charts: Sequence[Chart],
    path: Path,
    *,
    title: str,
    key: Sequence[Entry] = (),
    format: Picture = "png",
) -> None:
    """Draw the charts beneath one another in two columns.

    Args:
        charts: what to draw; without any the picture says so.
        path: the file to write.
        title: stands above.
        key: the legend of all charts.
        format: of the file.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    figures = matplotlib_module("figure")
    rows = max(1, -(-len(charts) // _COLUMNS))
    lines_of_key = -(-len(key) // _key_columns(key))
    size = (_SIZE[0] * _COLUMNS, _SIZE[1] * rows + 0.5 + 0.2 * lines_of_key)
    figure = figures.Figure(figsize=size, layout="constrained")
    _draw_head(figure, title, key)
    places = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axes, chart in zip(places, charts, strict=False):
        draw_chart(chart, axes)
        finish(axes, chart)
        axes.set_title(chart.title, loc="left", fontsize=11, color=TEXT)
        _draw_legend(axes, own_legend(chart, key))
    for axes in places[len(charts) :]:
        axes.set_axis_off()
    if not charts:
        places[0].text(0, 0.5, "There is nothing to draw yet.", color=TEXT)
    save(figure, path, format, dpi=_DPI[format])


def matplotlib_module(module: str) -> Any:
    """Import a module of matplotlib.

    Raises:
        MissingExtraError: if it is not installed.
    """
    return import_extra(f"matplotlib.{module}", what="simfl report --format png", extra="report")


def save(figure: Figure, path: Path, format: Picture, *, dpi: int) -> None:
    """Write a file without dates, so that the same figure gives the same bytes."""
    with matplotlib_module("style").context(_STYLE), warnings.catch_warnings():
        # About missing glyphs and labels without room, which the picture shows anyway.
        warnings.simplefilter("ignore")
        figure.savefig(path, dpi=dpi, format=format, facecolor="white", metadata=_METADATA[format])


def _key_columns(key: Sequence[Entry]) -> int:
    """Return how many entries fit side by side, all as wide as the longest."""
    longest = max((len(entry.label) for entry in key), default=0)
    return max(1, min(len(key), _KEY_WIDTH // (longest + KEY_GAP)))


def broken(text: str, width: int) -> str:
    """Break a long name into lines."""
    return "\n".join(textwrap.wrap(text, width)) or text


def fitted(text: str, width: int) -> str:
    """Cut out the middle of a long name, since names of groups often differ at the end."""
    half = width // 2
    return text if len(text) <= width else f"{text[:half]}…{text[-half:]}"


def _draw_head(figure: Figure, title: str, key: Sequence[Entry]) -> None:
    from matplotlib.lines import Line2D

    if not key:
        figure.suptitle(
            broken(title, _TITLE_WIDTH), x=0.01, ha="left", fontsize=_TITLE_SIZE, color=TEXT
        )
        return
    figure.legend(
        [Line2D([], [], color=entry.colour, linewidth=3) for entry in key],
        [entry.label for entry in key],
        title=broken(title, _TITLE_WIDTH),
        title_fontsize=_TITLE_SIZE,
        alignment="left",
        labelcolor=TEXT,
        loc="outside upper left",
        ncols=_key_columns(key),
        frameon=False,
        fontsize=8,
    )


@singledispatch
def draw_chart(chart: Any, axes: Axes) -> None:
    """Draw a chart, without its labels and its legend."""
    raise TypeError(f"no chart to draw on {axes}: {chart!r}")


@draw_chart.register(Lines)
def _lines(chart: Lines, axes: Axes) -> None:
    for line in chart.lines:
        style = "none" if line.is_points else "--" if line.is_dashed else "-"
        label = None if line.belongs_to else line.label
        is_alone = np.isfinite(line.y).sum() == 1
        marker = "o" if line.is_points or chart.is_marked or is_alone else "none"
        axes.plot(line.x, line.y, linestyle=style, marker=marker, color=line.colour, label=label)
        if line.band is not None:
            low_R, high_R = line.band.low, line.band.high
            axes.fill_between(line.x, low_R, high_R, color=line.colour, alpha=0.18, linewidth=0)
    for letter in chart.log:
        _make_log(axes, letter)
    if chart.y_range is not None:
        axes.set_ylim(*chart.y_range)
    if chart.ticks:
        axes.set_xticks(range(len(chart.ticks)), chart.ticks)
    elif chart.x == "round" and "x" not in chart.log:
        axes.locator_params(axis="x", integer=True, min_n_ticks=1)
    axes.grid(color="#e6e6e6", linewidth=0.5)
    axes.set_axisbelow(True)


def _make_log(axes: Axes, letter: str) -> None:
    """Make an axis logarithmic, with 0.2 for 2e-01 and for 2 times a power of 10."""
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):
        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:g}" if super().__call__(x, pos) else ""

    (axes.set_xscale if letter == "x" else axes.set_yscale)("log")
    axis = axes.xaxis if letter == "x" else axes.yaxis
    axis.set_major_formatter(Plain())
    axis.set_minor_formatter(Plain(minor_thresholds=(1.5, 0.6)))


@draw_chart.register(HeatMap)
def _heat_map(chart: HeatMap, axes: Axes) -> None:
    colours = "viridis_r" if chart.is_reversed else "viridis"
    image = axes.imshow(chart.values, cmap=colours, origin="lower", aspect="auto")
    axes.set_xticks(range(len(chart.columns)), chart.columns)
    axes.set_yticks(range(len(chart.rows)), chart.rows)
    low, high = np.nanmin(chart.values), np.nanmax(chart.values)
    for (row, column), value in np.ndenumerate(chart.values):
        if np.isfinite(value):
            share = (value - low) / (high - low) if high > low else 1.0
            is_light = (1 - share if chart.is_reversed else share) > 0.6
            ink = "black" if is_light else "white"
            text = chart.texts[row][column]
            axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=6)
    assert axes.figure is not None, "the axes are those of a figure"
    axes.figure.colorbar(image, ax=axes)


@draw_chart.register(Bars)
def _bars(chart: Bars, axes: Axes) -> None:
    places = np.arange(len(chart.names))
    ends = np.zeros(len(chart.names))
    for stack in chart.stacks:
        values = np.nan_to_num(np.array(stack.values))
        if chart.is_horizontal:
            axes.barh(places, values, left=ends, color=stack.colour, label=stack.label, height=0.7)
        else:
            axes.bar(places, values, bottom=ends, color=stack.colour, label=stack.label, width=0.86)
        ends = ends + values
    shown = places[:: max(1, len(places) // 8)] if not chart.is_horizontal else places
    names = [chart.names[place] for place in shown]
    if chart.is_horizontal:
        shorten = fitted if len(names) > _MAX_BROKEN else broken
        axes.set_yticks(shown, [shorten(name, _NAME_WIDTH) for name in names], fontsize=7)
        axes.invert_yaxis()
    else:
        axes.set_xticks(shown, names, fontsize=8)
    if chart.is_percent:
        axis = axes.xaxis if chart.is_horizontal else axes.yaxis
        axis.set_major_formatter(lambda share, _: f"{share:.0%}")


@draw_chart.register(Histogram)
def _histogram(chart: Histogram, axes: Axes) -> None:
    alpha = 0.6 if len(chart.stacks) > 1 else 1.0
    for stack in chart.stacks:
        if len(chart.stacks) > _MAX_OVERLAID:
            axes.stairs(stack.values, chart.edges, color=stack.colour, label=stack.label)
            continue
        axes.bar(
            chart.edges[:-1],
            stack.values,
            width=np.diff(chart.edges) * 0.96,
            align="edge",
            color=stack.colour,
            label=stack.label,
            alpha=alpha,
        )
    if chart.is_log:
        axes.set_xscale("log")
        axes.set_xticks(chart.log_ticks, [f"{tick:,.12g}" for tick in chart.log_ticks])
        axes.set_xticks([], minor=True)
    if all(float(value).is_integer() for stack in chart.stacks for value in stack.values):
        axes.locator_params(axis="y", integer=True)
    for label, x in chart.marks:
        axes.axvline(x, color=INK, linestyle="--", linewidth=1.2)
        axes.text(x, axes.get_ylim()[1], f" {label} {x:,.4g}", va="top", fontsize=8, color=TEXT)


def finish(axes: Axes, chart: Chart) -> None:
    """Label the axes."""
    axes.set_xlabel(chart.x, color=TEXT)
    axes.set_ylabel(chart.y, color=TEXT)
    axes.tick_params(colors=TEXT, length=3)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_legend(axes: Axes, entries: Sequence[Entry]) -> None:
    """Draw a chart's legend in its axes, or beside them if it is long."""
    handles, labels = axes.get_legend_handles_labels()
    own = {entry.label for entry in entries}
    shown = {
        broken(label, _LEGEND_WIDTH): handle
        for label, handle in zip(labels, handles, strict=True)
        if label in own
    }
    if shown:
        few = len(shown) <= 6
        axes.legend(
            shown.values(),
            shown.keys(),
            frameon=False,
            fontsize=8 if few else 7,
            loc="best" if few else "center left",
            bbox_to_anchor=None if few else (1, 0.5),
        )
