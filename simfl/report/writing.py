"""A report as a file: a page, a picture, a table of numbers, or text."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeAlias

from simfl.errors import InputError, import_extra, one_line
from simfl.report.charts import Bars, Chart, Table, own_legend
from simfl.report.draw_plotly import library, specification
from simfl.report.report import Report
from simfl.report.study import Study
from simfl.version import __version__

Format: TypeAlias = Literal["html", "png", "csv", "md"]
FORMATS: tuple[Format, ...] = ("html", "png", "csv", "md")


def write_report(report: Report, path: Path, *, format: Format, written: str) -> None:
    """Write a report as one file.

    Args:
        report: what to write.
        path: the file.
        format: ``html``: a self-contained page; ``png``: its charts; ``csv``: a row for
            each run and round; ``md``: its tables as Markdown.
        written: the time, for the reader.

    Raises:
        InputError: if the file cannot be written.
        MissingExtraError: if the format needs a package that is not installed.
    """
    try:
        if format == "png":
            from simfl.report.draw_png import draw_png

            draw_png(report.charts, path, title=report.title, key=report.key)
        else:
            path.write_text(_text(report, format, written), encoding="utf-8", newline="")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose another --out") from None


def _text(report: Report, format: Format, written: str) -> str:
    if format == "csv":
        return _csv(report.study)
    if format == "md":
        return "\n".join(_markdown(report, written)) + "\n"
    return render_page(report, written=written)


def _csv(study: Study) -> str:
    keys = dict.fromkeys(key for run in study.runs for record in run.records for key in record)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("run", "group", "seed", *keys))
    for group in study.groups:
        for run in group.members:
            for record in run.records:
                numbers = ("" if math.isnan(n := record.get(key, math.nan)) else n for key in keys)
                table.writerow((run.folder.name, group.label, run.seed, *numbers))
    return text.getvalue()


def _markdown(report: Report, written: str) -> Iterator[str]:
    yield f"# {_cell(report.title)}"
    yield ""
    yield f"{_cell(report.subtitle)}. Written {written}."
    yield ""
    yield from _markdown_table(report.runs)
    for section in report.sections:
        if not (section.tables or section.notes):
            continue
        yield f"## {_cell(section.title)}"
        yield ""
        for table in section.tables:
            yield f"### {_cell(table.title)}"
            yield ""
            yield from _markdown_table(table)
        yield from (f"- {_cell(note)}" for note in section.notes)
        if section.notes:
            yield ""


def _markdown_table(table: Table) -> Iterator[str]:
    yield f"| {' | '.join(map(_cell, table.header))} |"
    yield f"|{'---|' * len(table.header)}"
    for row in table.rows:
        yield f"| {' | '.join(map(_cell, row))} |"
    yield ""
    if table.note:
        yield _cell(table.note)
        yield ""


def _cell(text: str) -> str:
    """Escape text so that Markdown shows it literally."""
    return one_line(text.replace("|", "\\|").replace("[", "\\[").replace("<", "&lt;"))


def render_page(report: Report, *, written: str) -> str:
    """Return the page's HTML.

    Args:
        report: what to show.
        written: the time, for the reader.

    Raises:
        MissingExtraError: if plotly or Jinja2 is not installed.
    """
    jinja = import_extra("jinja2", what="simfl report", extra="report")
    figures = [specification(chart) for chart in report.charts]
    numbered = {id(chart): number for number, chart in enumerate(report.charts)}
    environment = jinja.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja.StrictUndefined
    )
    template = environment.from_string(_resource("page.html.j2"))
    page: str = template.render(
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
    return page


def wide_charts(charts: Sequence[Chart]) -> set[int]:
    """Return the indexes of full-width charts: bars with many names, or without neighbours."""
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
    """Return JSON for a script element; no text in it can end the element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
