"""Charts as plotly figures, for the page. Colours of text and grid are the page's own."""

from __future__ import annotations

import json
from functools import singledispatch
from typing import Any

import numpy as np

from simfl.errors import import_extra
from simfl.report.charts import INK, Bars, Chart, HeatMap, Histogram, Line, Lines, Stack
from simfl.report.curves import Floats

_HEIGHT = 320
_ROW = 26
_MARGIN = {"l": 56, "r": 16, "t": 8, "b": 44}
_ABOVE = 24
"""The margin above a chart with marks, whose names stand there."""
_SIGNIFICANT = 6
_MAX_OVERLAID = 2
_MAX_AT_ONCE = 8
"""The number of values that a hover label can show side by side."""


def library() -> str:
    """Return the source of plotly.js, which the page carries.

    Raises:
        MissingExtraError: if plotly is not installed.
    """
    source: str = _plotly("offline").get_plotlyjs()
    return source


def specification(chart: Chart) -> dict[str, Any]:
    """Return a figure as plotly.js takes it: plain data, checked by plotly.

    Raises:
        MissingExtraError: if plotly is not installed.
    """
    traces, layout = _draw(chart)
    base = {
        "height": _HEIGHT,
        "margin": _MARGIN,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "showlegend": False,  # the page's own, which takes no room from the curves
        "hovermode": "x unified",
    }
    # Without plotly's own template, which brings 7 kB of colours that the page sets itself.
    figure = _plotly("graph_objects").Figure(data=traces, layout=base | layout | {"template": None})
    plain: dict[str, Any] = _as_text(json.loads(figure.to_json()))
    return plain


def _as_text(value: Any) -> Any:
    """Keep plotly.js from taking what runs and classes are called for links and the like."""
    if isinstance(value, str):
        return value.replace("<", "&lt;")
    if isinstance(value, dict):
        return {key: _as_text(item) for key, item in value.items()}
    return [_as_text(item) for item in value] if isinstance(value, list) else value


def _plotly(module: str) -> Any:
    return import_extra(f"plotly.{module}", what="simfl report", extra="report")


@singledispatch
def _draw(chart: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    raise TypeError(f"no chart: {chart!r}")


@_draw.register
def _lines(chart: Lines) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    is_log = "y" in chart.log
    traces = [trace for line in chart.lines for trace in _line_traces(line, is_log=is_log)]
    x_axis: dict[str, Any] = {"title": {"text": chart.x}, "rangemode": "tozero"}
    y_axis: dict[str, Any] = {"title": {"text": chart.y}}
    if chart.y_range:
        # plotly takes the range of a logarithmic axis as logarithms.
        y_axis["range"] = np.log10(chart.y_range).tolist() if is_log else list(chart.y_range)
    for axis, letter in ((x_axis, "x"), (y_axis, "y")):
        axis |= {"type": "log"} if letter in chart.log else {}
    if chart.ticks:
        places = list(range(len(chart.ticks)))
        x_axis |= {"tickvals": places, "ticktext": list(chart.ticks), "rangemode": "normal"}
    return traces, {"xaxis": x_axis, "yaxis": y_axis}


def _line_traces(line: Line, *, is_log: bool) -> list[dict[str, Any]]:
    traces: list[dict[str, Any]] = []
    if line.band is not None:
        traces = _band_traces(line, is_log=is_log)
    few = len(line.x) <= 40
    traces.append(
        {
            "type": "scatter",
            "mode": "markers" if line.is_points else "lines+markers" if few else "lines",
            "name": line.label,
            "legendgroup": line.entry,
            "x": _plain(line.x),
            "y": _plain(line.y),
            "line": {
                "color": line.colour,
                "width": 2,
                "dash": "dash" if line.is_dashed else "solid",
            },
            "marker": {"size": 4},
            "hovertemplate": "%{y:.4~g}",
        }
    )
    return traces


def _band_traces(line: Line, *, is_log: bool) -> list[dict[str, Any]]:
    """Return the band as one closed shape for each stretch without a gap."""
    assert line.band is not None
    low_R, high_R = line.band.low, line.band.high
    if is_log:  # 0 has no place on the axis
        low_R = np.where(np.isfinite(low_R), np.maximum(low_R, np.finfo(float).tiny), low_R)
    is_there = np.isfinite(low_R) & np.isfinite(high_R)
    shapes = []
    for part in np.split(np.arange(len(is_there)), np.flatnonzero(np.diff(is_there)) + 1):
        if not len(part) or not is_there[part[0]]:
            continue
        shapes.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": _plain(np.concatenate([line.x[part], line.x[part][::-1]])),
                "y": _plain(np.concatenate([high_R[part], low_R[part][::-1]])),
                "fill": "toself",
                "fillcolor": _faded(line.colour),
                "line": {"width": 0},
                "legendgroup": line.entry,
                "hoverinfo": "skip",
            }
        )
    return shapes


@_draw.register
def _heat_map(chart: HeatMap) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    trace = {
        "type": "heatmap",
        "x": list(chart.columns),
        "y": list(chart.rows),
        "z": [_plain(row) for row in chart.values],
        "text": [list(row) for row in chart.texts],
        "texttemplate": "%{text}",
        "colorscale": "Viridis",
        "reversescale": chart.is_reversed,
        "hovertemplate": "%{x}, %{y}: %{z:.4~g}<extra></extra>",
    }
    axis = {"type": "category", "automargin": True}
    return [trace], {
        "xaxis": axis | {"title": {"text": chart.x}},
        "yaxis": axis | {"title": {"text": chart.y}},
        "hovermode": "closest",
    }


@_draw.register
def _bars(chart: Bars) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    names, along = list(chart.names), "h" if chart.is_horizontal else "v"
    form = ".1%" if chart.is_percent else ".4~g"
    traces = []
    for stack in chart.stacks:
        values = _plain(np.array(stack.values))
        x, y = (values, names) if chart.is_horizontal else (names, values)
        traces.append(
            {
                "type": "bar",
                "orientation": along,
                "name": stack.label,
                "legendgroup": stack.label,
                "x": x,
                "y": y,
                "marker": {"color": stack.colour, "line": {"width": 0}},
                "hovertemplate": f"%{{{'x' if chart.is_horizontal else 'y'}:{form}}}",
            }
        )
    categories = {"type": "category", "automargin": True, "showgrid": False}
    values_axis: dict[str, Any] = {}
    if chart.is_percent:
        highest = np.sum([stack.values for stack in chart.stacks], axis=0).max(initial=1)
        values_axis = {"tickformat": ".0%", "range": [0, float(highest)]}
    x_axis, y_axis = (values_axis, categories) if chart.is_horizontal else (categories, values_axis)
    layout: dict[str, Any] = {
        "barmode": "stack",
        "bargap": 0.3 if chart.is_horizontal else 0.12,
        "xaxis": x_axis | {"title": {"text": chart.x}},
        "yaxis": y_axis | {"title": {"text": chart.y}},
    }
    if chart.is_horizontal:
        layout["yaxis"] |= {"autorange": "reversed"}
        layout |= {"hovermode": "y unified", "height": max(140, 70 + _ROW * len(names))}
    elif len(chart.stacks) > _MAX_AT_ONCE:
        layout["hovermode"] = "closest"
    return traces, layout


@_draw.register
def _histogram(chart: Histogram) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    edges = chart.edges
    spans = list(map(_span, edges[:-1], edges[1:]))
    spans.append(spans[-1])  # of the last edge, where a step ends
    is_step = len(chart.stacks) > _MAX_OVERLAID
    traces = [
        {
            "name": stack.label,
            "legendgroup": stack.label,
            "customdata": spans,
            "hovertemplate": "%{customdata}: %{y:.4~g}",
        }
        | (_step(stack, edges) if is_step else _columns(stack, edges))
        | ({"opacity": 0.6} if len(chart.stacks) == _MAX_OVERLAID else {})
        for stack in chart.stacks
    ]
    return traces, {
        "barmode": "overlay",
        "xaxis": {"title": {"text": chart.x}} | (_log_axis(chart) if chart.is_log else {}),
        "yaxis": {"title": {"text": chart.y}},
        "hovermode": "closest",
        "margin": _MARGIN | ({"t": _ABOVE} if chart.marks else {}),
        "shapes": [_mark(x) for _, x in chart.marks],
        "annotations": [_mark_text(label, x, is_log=chart.is_log) for label, x in chart.marks],
    }


def _columns(stack: Stack, edges: Floats) -> dict[str, Any]:
    return {
        "type": "bar",
        "x": _plain((edges[1:] + edges[:-1]) / 2),
        "y": _plain(np.array(stack.values)),
        "width": _plain(np.diff(edges) * 0.96),
        "marker": {"color": stack.colour, "line": {"width": 0}},
    }


def _step(stack: Stack, edges: Floats) -> dict[str, Any]:
    """Draw a line over the bins, from the first edge to the last."""
    return {
        "type": "scatter",
        "mode": "lines",
        "x": _plain(edges),
        "y": _plain(np.array([*stack.values, stack.values[-1]])),
        "line": {"color": stack.colour, "width": 2, "shape": "hv"},
    }


def _log_axis(chart: Histogram) -> dict[str, Any]:
    ticks = chart.log_ticks
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:,.12g}" for tick in ticks]}


def _mark(x: float) -> dict[str, Any]:
    line = {"dash": "dash", "width": 1.5, "color": INK}
    return {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "line": line}


def _mark_text(label: str, x: float, *, is_log: bool) -> dict[str, Any]:
    return {
        "x": float(np.log10(x)) if is_log else x,
        "y": 1,
        "yref": "paper",
        "yanchor": "bottom",
        "text": f"{label} {x:,.4g}",
        "showarrow": False,
        "xanchor": "left",
        "xshift": -4,
    }


def _span(low: float, high: float) -> str:
    """Name a bin: by the whole numbers in it where it is made for such, else by its edges."""
    if (low - 0.5).is_integer() and (high - 0.5).is_integer():
        first, last = int(low + 0.5), int(high - 0.5)
        return f"{first:,}" if first == last else f"{first:,} to {last:,}"
    return f"{low:.3g} to {high:.3g}"


def _faded(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"


def _plain(values: Floats) -> list[float | None]:
    """Return numbers of six digits, which no eye can tell from the whole; None for gaps."""
    return [
        float(f"{value:.{_SIGNIFICANT}g}") if np.isfinite(value) else None
        for value in values.tolist()
    ]
