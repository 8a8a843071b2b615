"""Charts as one picture, by matplotlib."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Sequence
from functools import singledispatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from simfl.errors import import_extra
from simfl.report.charts import INK, Bars, Chart, Entry, Histogram, Lines, own_legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
_MAX_OVERLAID = 2
_MAX_BROKEN = 6


def draw_png(charts: Sequence[Chart], path: Path, *, title: str, key: Sequence[Entry] = ()) -> None:
    """Draw the charts beneath one another in two columns, as a PNG.

    Args:
        charts: what to draw; without any the picture says so.
        path: the file to write.
        title: stands above.
        key: the legend of all charts.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    figures = import_extra("matplotlib.figure", what="simfl report --format png", extra="report")
    rows = max(1, -(-len(charts) // _COLUMNS))
    lines_of_key = -(-len(key) // _key_columns(key))
    size = (_SIZE[0] * _COLUMNS, _SIZE[1] * rows + 0.5 + 0.2 * lines_of_key)
    figure = figures.Figure(figsize=size, layout="constrained")
    _draw_head(figure, title, key)
    places = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axes, chart in zip(places, charts, strict=False):
        _draw(chart, axes)
        _finish(axes, chart, key)
    for axes in places[len(charts) :]:
        axes.set_axis_off()
    if not charts:
        places[0].text(0, 0.5, "There is nothing to draw yet.", color=_TEXT)
    with warnings.catch_warnings():
        # About missing glyphs and labels without room, which the picture shows anyway.
        warnings.simplefilter("ignore")
        figure.savefig(path, dpi=120, format="png", facecolor="white")


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
        style = "--" if line.is_dashed else "-"
        label = None if line.belongs_to else line.label
        axes.plot(line.x, line.y, style, color=line.colour, label=label, linewidth=1.6)
        if line.band is not None:
            low_R, high_R = line.band.low, line.band.high
            axes.fill_between(line.x, low_R, high_R, color=line.colour, alpha=0.18, linewidth=0)
    if chart.y_range is not None:
        axes.set_ylim(*chart.y_range)
    axes.grid(color="#e6e6e6", linewidth=0.8)


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


def _finish(axes: Axes, chart: Chart, key: Sequence[Entry]) -> None:
    axes.set_title(chart.title, loc="left", fontsize=11, color=_TEXT)
    axes.set_xlabel(chart.x, color=_TEXT)
    axes.set_ylabel(chart.y, color=_TEXT)
    axes.tick_params(colors=_TEXT, length=3)
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    own = {entry.label for entry in own_legend(chart, key)}
    entries = {
        _broken(label, _LEGEND_WIDTH): handle
        for label, handle in zip(labels, handles, strict=True)
        if label in own
    }
    if entries:
        few = len(entries) <= 6
        axes.legend(
            entries.values(),
            entries.keys(),
            frameon=False,
            fontsize=8 if few else 7,
            loc="best" if few else "center left",
            bbox_to_anchor=None if few else (1, 0.5),
        )
