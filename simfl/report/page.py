"""The page: one file with all that it needs in it, which asks no network for anything."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from simfl.errors import MissingExtraError
from simfl.report.charts import Bars, Chart, own_legend
from simfl.report.draw_plotly import library, specification
from simfl.report.report import Report


def render_page(report: Report, *, written: str) -> str:
    """Return the page's HTML.

    Args:
        report: what to show.
        written: the time, in words.

    Raises:
        MissingExtraError: if plotly or Jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise MissingExtraError("simfl report", package="jinja2", extra="report") from error

    from simfl.version import __version__

    figures = [specification(chart) for chart in report.charts]
    numbered = {id(chart): number for number, chart in enumerate(report.charts)}
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    template = environment.from_string(_resource("page.html.j2"))
    return template.render(
        report=report,
        written=written,
        version=__version__,
        key=report.key,
        number_of=lambda chart: numbered[id(chart)],
        own_legend=lambda chart: own_legend(chart, report.key),
        wide_charts=wide_charts,
        style=_resource("page.css"),
        script=_resource("page.js"),
        library=library(),
        figures=_for_script(figures),
    )


def wide_charts(charts: Sequence[Chart]) -> set[int]:
    """Return the numbers of those that take the whole width, so that no place beside stays empty.

    Bars with a name each need it, and a chart that has no neighbour may have it.
    """
    wide = {number for number, chart in enumerate(charts) if _is_broad(chart)}
    left: int | None = None
    for number in range(len(charts) + 1):
        if number == len(charts) or number in wide:
            wide |= set() if left is None else {left}
            left = None
        else:
            left = number if left is None else None
    return wide


def _is_broad(chart: Chart) -> bool:
    return isinstance(chart, Bars) and not chart.is_horizontal


def _resource(name: str) -> str:
    return (files("simfl.report") / name).read_text(encoding="utf-8")


def _for_script(value: Any) -> str:
    """Write JSON that can stand in a script element: no text in it can end the element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
