"""Figures of a paper by matplotlib: a chart, or facets; small type, no title, the legend below."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simfl.report.charts import Bars, Chart, Entry, Facets, HeatMap, Lines, legend_of
from simfl.report.draw_matplotlib import (
    KEY_GAP,
    TEXT,
    Picture,
    broken,
    draw_chart,
    finish,
    fitted,
    matplotlib_module,
    save,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LABEL_PER_INCH = 7
"""Letters of the label of a figure's y axis, by the figure's width."""
_NARROW = 2.5
"""Inches of a chart with a few ticks only."""
_HEIGHT = 0.62
"""The height of a figure without its legend, by its width."""
_LETTERS_PER_INCH = 17
"""Of the legend's size."""
_ROW = 0.13
"""The height of a row of the legend or of a bar, in inches."""
_DPI = 300
_STYLE = {
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
    below = _ROW * -(-len(entries) // _legend_columns(entries, width))
    each = width / len(grid.columns)
    heights = [
        max((_height_of(one, each) for one in row if one), default=each) for row in grid.charts
    ]
    figures, style = matplotlib_module("figure"), matplotlib_module("style")
    with style.context(_STYLE):
        figure = figures.Figure(figsize=(width, sum(heights) + below), layout="constrained")
        size = len(grid.rows), len(grid.columns)
        places = figure.subplots(*size, squeeze=False, sharex=True)
        for row, (title, charts) in enumerate(zip(grid.rows, grid.charts, strict=True)):
            for column, one in enumerate(charts):
                _draw_facet(places[row, column], one, title if column == 0 else "", width=each)
            _share_y([axes for axes, one in zip(places[row], charts, strict=True) if one])
        for column, title in enumerate(grid.columns):
            places[0, column].set_title(title, fontsize=8, color=TEXT)
        for axes in places.flat:
            axes.label_outer()
        _draw_legend(figure, entries, places.flat, width=width)
        save(figure, path, format, dpi=_DPI)


def _draw_facet(axes: Axes, chart: Chart | None, title: str, *, width: float) -> None:
    """Draw one chart of a figure, with its row's title before the label of its y axis."""
    if chart is None:
        axes.set_axis_off()
        return
    draw_chart(chart, axes)
    finish(axes, chart)
    if isinstance(chart, Lines) and width < _NARROW and not (chart.log or chart.ticks):
        axes.locator_params(nbins=3)
    label = broken(chart.y, int(_LABEL_PER_INCH * width))
    axes.set_ylabel(f"{title}\n{label}" if title else label, color=TEXT)


def _share_y(row: Sequence[Axes]) -> None:
    """Give all charts of a row the range of y that each of them shows."""
    for axes in row if len(row) > 1 else ():
        axes.set_ylim(min(a.get_ylim()[0] for a in row), max(a.get_ylim()[1] for a in row))


def _draw_legend(
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
        [fitted(label, _letters(width)) for label in shown],
        loc="outside lower center",
        ncols=_legend_columns(entries, width),
        frameon=False,
        fontsize=7,
        borderpad=0,
        handlelength=1.4,
        columnspacing=1.2,
        labelspacing=0.3,
    )


def _height_of(chart: Chart, width: float) -> float:
    """Return the height of a figure without its legend, in inches."""
    if isinstance(chart, Bars) and chart.is_horizontal:
        return 0.6 + 1.6 * _ROW * len(chart.names)
    if isinstance(chart, HeatMap):
        return 0.5 + min(width, 0.25 * len(chart.rows))
    return _HEIGHT * width


def _letters(width: float) -> int:
    return max(10, int(_LETTERS_PER_INCH * width) - KEY_GAP)


def _legend_columns(entries: Sequence[Entry], width: float) -> int:
    """Return how many entries of a figure's legend fit side by side."""
    longest = max((min(len(e.label), _letters(width)) for e in entries), default=0)
    return max(1, min(len(entries), int(_LETTERS_PER_INCH * width) // (longest + KEY_GAP)))
