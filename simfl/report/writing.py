"""A report as files: a page, pictures, a table of numbers, or text."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

from simfl.errors import InputError, did_you_mean, import_extra, one_line
from simfl.report.charts import Bars, Chart, Facets, Table, name_of, own_legend
from simfl.report.comparison import differences
from simfl.report.draw_matplotlib import Picture, draw_overview
from simfl.report.draw_plotly import library, specification
from simfl.report.figures import draw_figure
from simfl.report.latex import latex
from simfl.report.report import Report
from simfl.report.study import NO_PART, Study
from simfl.report.wording import distinct
from simfl.version import __version__

Format: TypeAlias = Literal["html", "pdf", "svg", "png", "tex", "csv", "md"]
C = TypeVar("C", bound="Chart | Facets")
PICTURES: tuple[Picture, ...] = ("pdf", "svg", "png")


def write_report(
    report: Report,
    path: Path,
    *,
    format: Format,
    written: str,
    charts: Sequence[str] = (),
    width: float = 3.3,
) -> None:
    """Write a report as one file.

    Args:
        report: what to write.
        path: the file.
        format: ``html``: a self-contained page; ``png``, ``pdf``, ``svg``: its charts, or a figure
            if one is chosen; ``tex``: its numbers over seeds as LaTeX tables; ``csv``: a row for
            each run and round; ``md``: its tables as Markdown.
        written: the time, for the reader of a page or of Markdown; other files hold no dates.
        charts: the names of those to draw; of metrics, those in the tables of ``tex``. Empty: all.
        width: of a figure, in inches; 3.3 is a column of most papers with two.

    Raises:
        InputError: if the file cannot be written, or there is no such chart.
        MissingExtraError: if the format needs a package that is not installed.
    """
    with _explained(path):
        if format in PICTURES:
            chosen = _chosen(report.charts, charts)
            if len(chosen) == 1 and charts:
                draw_figure(chosen[0], path, width=width, format=format)
                return
            draw_overview(chosen, path, title=report.title, key=report.key, format=format)
            return
        text = latex(report.study, charts) if format == "tex" else _text(report, format, written)
        path.write_text(text, encoding="utf-8", newline="")


def write_figures(
    drawn: Sequence[Chart | Facets],
    path: Path,
    *,
    format: Picture,
    charts: Sequence[str] = (),
    width: float = 3.3,
) -> list[Path]:
    """Write a figure for each chart, named after it; return the files.

    Args:
        drawn: the charts, or facets.
        path: a folder for the figures, which is created; or the file of a single one.
        format: of the figures.
        charts: as for ``write_report``.
        width: as for ``write_report``.

    Raises:
        InputError: as ``write_report``; and if there are several figures for one file.
        MissingExtraError: if matplotlib is not installed.
    """
    chosen = _chosen(drawn, charts)
    is_file = path.suffix == f".{format}"
    if is_file and len(chosen) != 1:
        raise InputError(f"{path} is one file, for {len(chosen)} figures; choose one with --chart")
    paths = [path] if is_file else [path / f"{name_of(one)}.{format}" for one in chosen]
    for one, file in zip(chosen, paths, strict=True):
        with _explained(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            draw_figure(one, file, width=width, format=format)
    return paths


def _chosen(drawn: Sequence[C], names: Sequence[str]) -> list[C]:
    """Return the charts with these names, in their order; all, if there are no names.

    Raises:
        InputError: if a chart does not exist.
    """
    known = {name_of(chart): chart for chart in drawn}
    for name in names:
        if name not in known:
            raise InputError(f"there is no chart {name!r}. {did_you_mean(name, known)}")
    return [known[name] for name in dict.fromkeys(names)] or list(drawn)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose another --out") from None


def _text(report: Report, format: Format, written: str) -> str:
    if format == "csv":
        return _csv(report.study)
    if format == "md":
        return "\n".join(_markdown(report, written)) + "\n"
    return render_page(report, written=written)


def _csv(study: Study) -> str:
    """Return a row for each run and round, with the keys of the scenarios that differ."""
    keys = dict.fromkeys(key for run in study.runs for record in run.records for key in record)
    differing = differences([_plain(run.scenario) for run in study.runs])
    columns = ("run", "group", "seed", *distinct([d.key for d in differing], "over", taken=keys))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow((*columns, *keys))
    own = {
        run.folder: ["" if d.values[n] is None else d.values[n] for d in differing]
        for n, run in enumerate(study.runs)
    }
    for group in study.groups:
        for run in group.members:
            for record in run.records:
                numbers = ("" if math.isnan(n := record.get(key, math.nan)) else n for key in keys)
                row = (run.folder.name, group.label, run.seed, *own[run.folder], *numbers)
                table.writerow(row)
    return text.getvalue()


def _plain(scenario: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in scenario.items() if key not in NO_PART}


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
