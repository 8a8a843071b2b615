"""Charts as pictures, by matplotlib: PNG, PDF or SVG, all by the same code.

The same charts give the same bytes: the files hold no dates.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Iterable, Sequence
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
    Facets,
    HeatMap,
    Histogram,
    Lines,
    legend_of,
    own_legend,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Picture: TypeAlias = Literal["png", "pdf", "svg"]

_COLUMNS = 2
_SIZE = (6.0, 3.6)  # inches of a chart
_TEXT = "#333333"
_TITLE_SIZE = 14
_TITLE_WIDTH = 90
_KEY_WIDTH = 150
"""The number of letters of the smaller size that fit across the picture."""
_KEY_GAP = 8
"""The width of an entry's colour and the space around it, in letters."""
_NAME_WIDTH = 26
"""The width of a bar's name, in letters; longer ones are wrapped, or shortened if there are many
bars."""
_LEGEND_WIDTH = 30
_LABEL_PER_INCH = 7
"""Letters of the label of a figure's y axis, by the figure's width."""
_MAX_OVERLAID = 2
_MAX_BROKEN = 6

_NARROW = 2.5
"""Inches of a chart with a few ticks only."""
_FIGURE_HEIGHT = 0.62
"""The height of a figure without its legend, by its width."""
_LETTERS_PER_INCH = 17
"""Of the legend's size."""
_ROW = 0.13
"""The height of a row of the legend or of a bar, in inches."""
_DPI: Final[dict[Picture, int]] = {"png": 120, "pdf": 72, "svg": 72}
_FIGURE_DPI = 300
# Type 42 fonts, since publishers refuse Type 3; text of an SVG as shapes, which look the same
# everywhere; no metadata that differ from day to day.
_STYLE = {"pdf.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": "simfl"}
_METADATA: Final[dict[Picture, dict[str, None]]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    "svg": {"Date": None, "Creator": None},
}
_FIGURE_STYLE = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 3,
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
    figures = _matplotlib("figure")
    rows = max(1, -(-len(charts) // _COLUMNS))
    lines_of_key = -(-len(key) // _key_columns(key))
    size = (_SIZE[0] * _COLUMNS, _SIZE[1] * rows + 0.5 + 0.2 * lines_of_key)
    figure = figures.Figure(figsize=size, layout="constrained")
    _draw_head(figure, title, key)
    places = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axes, chart in zip(places, charts, strict=False):
        _draw(chart, axes)
        _finish(axes, chart)
        axes.set_title(chart.title, loc="left", fontsize=11, color=_TEXT)
        _draw_legend(axes, own_legend(chart, key))
    for axes in places[len(charts) :]:
        axes.set_axis_off()
    if not charts:
        places[0].text(0, 0.5, "There is nothing to draw yet.", color=_TEXT)
    _save(figure, path, format, dpi=_DPI[format])


def draw_figure(chart: Chart | Facets, path: Path, *, width: float, format: Picture) -> None:
    """Draw one chart, or facets, as a figure of a paper: no title, small type, the legend below.

    Args:
        chart: what to draw; facets share the x axis, and those of a row the y axis.
        path: the file to write.
        width: of the figure, in inches: that of a column, so that the type keeps its size.
        format: of the file.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    grid = chart if isinstance(chart, Facets) else Facets("", ("",), ("",), ((chart,),))
    drawn = [one for row in grid.charts for one in row if one is not None]
    entries = tuple(dict.fromkeys(entry for one in drawn for entry in legend_of(one)))
    below = _ROW * -(-len(entries) // _figure_columns(entries, width))
    each = width / len(grid.columns)
    heights = [max((_height(one, each) for one in row if one), default=each) for row in grid.charts]
    figures, style = _matplotlib("figure"), _matplotlib("style")
    with style.context(_FIGURE_STYLE):
        figure = figures.Figure(figsize=(width, sum(heights) + below), layout="constrained")
        places = figure.subplots(
            len(grid.rows), len(grid.columns), squeeze=False, sharex=True, sharey="row"
        )
        for row, (title, charts) in enumerate(zip(grid.rows, grid.charts, strict=True)):
            for column, one in enumerate(charts):
                _draw_facet(places[row, column], one, title if column == 0 else "", width=each)
        for column, title in enumerate(grid.columns):
            places[0, column].set_title(title, fontsize=8, color=_TEXT)
        for axes in places.flat:
            axes.label_outer()
        _draw_figure_legend(figure, entries, places.flat, width=width)
        _save(figure, path, format, dpi=_FIGURE_DPI)


def _draw_facet(axes: Axes, chart: Chart | None, title: str, *, width: float) -> None:
    """Draw one chart of a figure, with its row's title before the label of its y axis."""
    if chart is None:
        axes.set_axis_off()
        return
    _draw(chart, axes)
    _finish(axes, chart)
    if isinstance(chart, Lines) and width < _NARROW and not (chart.log or chart.ticks):
        axes.locator_params(nbins=3)
    label = _broken(chart.y, int(_LABEL_PER_INCH * width))
    axes.set_ylabel(f"{title}\n{label}" if title else label, color=_TEXT)


def _draw_figure_legend(
    figure: Figure, entries: Sequence[Entry], places: Iterable[Axes], *, width: float
) -> None:
    """Draw a figure's legend below its axes."""
    if not entries:
        return
    handles: dict[str, Any] = {}
    for axes in places:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    shown = [entry.label for entry in entries if entry.label in handles]
    figure.legend(
        [handles[label] for label in shown],
        [_fitted(label, _figure_letters(width)) for label in shown],
        loc="outside lower center",
        ncols=_figure_columns(entries, width),
        frameon=False,
        fontsize=7,
        borderpad=0,
        handlelength=1.4,
        columnspacing=1.2,
        labelspacing=0.3,
    )


def _matplotlib(module: str) -> Any:
    return import_extra(f"matplotlib.{module}", what="simfl report --format png", extra="report")


def _save(figure: Figure, path: Path, format: Picture, *, dpi: int) -> None:
    with _matplotlib("style").context(_STYLE), warnings.catch_warnings():
        # About missing glyphs and labels without room, which the picture shows anyway.
        warnings.simplefilter("ignore")
        figure.savefig(path, dpi=dpi, format=format, facecolor="white", metadata=_METADATA[format])


def _height(chart: Chart, width: float) -> float:
    """Return the height of a figure without its legend, in inches."""
    if isinstance(chart, Bars) and chart.is_horizontal:
        return 0.6 + 1.6 * _ROW * len(chart.names)
    if isinstance(chart, HeatMap):
        return 0.5 + min(width, 0.25 * len(chart.rows))
    return _FIGURE_HEIGHT * width


def _figure_letters(width: float) -> int:
    return max(10, int(_LETTERS_PER_INCH * width) - _KEY_GAP)


def _figure_columns(entries: Sequence[Entry], width: float) -> int:
    """Return how many entries of a figure's legend fit side by side."""
    longest = max((min(len(e.label), _figure_letters(width)) for e in entries), default=0)
    return max(1, min(len(entries), int(_LETTERS_PER_INCH * width) // (longest + _KEY_GAP)))


def _key_columns(key: Sequence[Entry]) -> int:
    """Return how many entries fit side by side, all as wide as the longest."""
    longest = max((len(entry.label) for entry in key), default=0)
    return max(1, min(len(key), _KEY_WIDTH // (longest + _KEY_GAP)))


def _broken(text: str, width: int) -> str:
    """Break a long name into lines."""
    return "\n".join(textwrap.wrap(text, width)) or text


def _fitted(text: str, width: int) -> str:
    """Cut out the middle of a long name, since names of groups often differ at the end."""
    half = width // 2
    return text if len(text) <= width else f"{text[:half]}…{text[-half:]}"


def _draw_head(figure: Figure, title: str, key: Sequence[Entry]) -> None:
    from matplotlib.lines import Line2D

    if not key:
        figure.suptitle(
            _broken(title, _TITLE_WIDTH), x=0.01, ha="left", fontsize=_TITLE_SIZE, color=_TEXT
        )
        return
    figure.legend(
        [Line2D([], [], color=entry.colour, linewidth=3) for entry in key],
        [entry.label for entry in key],
        title=_broken(title, _TITLE_WIDTH),
        title_fontsize=_TITLE_SIZE,
        alignment="left",
        labelcolor=_TEXT,
        loc="outside upper left",
        ncols=_key_columns(key),
        frameon=False,
        fontsize=8,
    )


@singledispatch
def _draw(chart: Any, axes: Axes) -> None:
    raise TypeError(f"no chart to draw on {axes}: {chart!r}")


@_draw.register(Lines)
def _lines(chart: Lines, axes: Axes) -> None:
    for line in chart.lines:
        style = "none" if line.is_points else "--" if line.is_dashed else "-"
        label = None if line.belongs_to else line.label
        marker = "o" if line.is_points or chart.is_marked else "none"
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


@_draw.register(HeatMap)
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


@_draw.register(Bars)
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
        fitted = _fitted if len(names) > _MAX_BROKEN else _broken
        axes.set_yticks(shown, [fitted(name, _NAME_WIDTH) for name in names], fontsize=7)
        axes.invert_yaxis()
    else:
        axes.set_xticks(shown, names, fontsize=8)
    if chart.is_percent:
        axis = axes.xaxis if chart.is_horizontal else axes.yaxis
        axis.set_major_formatter(lambda share, _: f"{share:.0%}")


@_draw.register(Histogram)
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
        axes.text(x, axes.get_ylim()[1], f" {label} {x:,.4g}", va="top", fontsize=8, color=_TEXT)


def _finish(axes: Axes, chart: Chart) -> None:
    axes.set_xlabel(chart.x, color=_TEXT)
    axes.set_ylabel(chart.y, color=_TEXT)
    axes.tick_params(colors=_TEXT, length=3)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_legend(axes: Axes, entries: Sequence[Entry]) -> None:
    """Draw a chart's legend in its axes, or beside them if it is long."""
    handles, labels = axes.get_legend_handles_labels()
    own = {entry.label for entry in entries}
    shown = {
        _broken(label, _LEGEND_WIDTH): handle
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
