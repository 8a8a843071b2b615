"""``simfl report``: a page, figures or tables of what runs have left in their folders."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias, get_args

import typer

from simfl.cli.options import Target, Trusted, complete_folder
from simfl.cli.output import say

if TYPE_CHECKING:
    from simfl.report.reading import Run

_COLUMN_WIDTH = 3.3
"""Inches; the width of a column of most papers with two."""

_Picture: TypeAlias = Literal["pdf", "svg", "png"]
_Format: TypeAlias = Literal["html", "pdf", "svg", "png", "tex", "csv", "md"]
_Band: TypeAlias = Literal["ci", "sd", "se", "range", "none"]
_PICTURES: tuple[_Picture, ...] = ("pdf", "svg", "png")


_Folders: TypeAlias = Annotated[
    list[Path],
    typer.Argument(
        metavar="RUN",
        help="The folders of runs, or of sweeps: all its trials.",
        autocompletion=complete_folder,
    ),
]
_Out: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        help="The file, or a folder for figures. Default: report.html, or figures/, in the "
        "run's folder if there is a single run."
    ),
]
_Kind: TypeAlias = Annotated[
    _Format | None,
    typer.Option(
        help="html: a page; pdf, svg, png: a figure for each chart; tex: tables over seeds; "
        "csv: all rounds' numbers; md: tables as text. Default: as --out ends, or html."
    ),
]
_Charts: TypeAlias = Annotated[
    list[str],
    typer.Option(
        "--chart",
        metavar="NAME",
        help="Draw this chart only: accuracy, loss, ... For tex, a metric of the table. Can be "
        "given several times.",
    ),
]
_Facets: TypeAlias = Annotated[
    list[str],
    typer.Option(
        "--facet",
        metavar="KEY",
        help="Draw each figure once for each value of this key, side by side; a second KEY "
        "makes rows.",
    ),
]
_Width: TypeAlias = Annotated[
    float, typer.Option(min=1.0, max=20.0, help="Of a figure, in inches.")
]
_Bands: TypeAlias = Annotated[
    _Band | None,
    typer.Option(
        help="Around means over seeds: 95 % confidence interval, standard deviation, standard "
        "error, lowest to highest, nothing. Default: ci in charts, sd in tables."
    ),
]
_Smooth: TypeAlias = Annotated[
    int,
    typer.Option(min=1, metavar="N", help="Smooth each seed's curve over N evaluations."),
]
_Log: TypeAlias = Annotated[
    Literal["x", "y", "xy"] | None, typer.Option(help="Logarithmic axes of the curves.")
]
_NoData: TypeAlias = Annotated[
    bool, typer.Option("--no-data", help="Load no data: do not show what clients hold.")
]


def report_runs(
    folders: _Folders,
    out: _Out = None,
    format: _Kind = None,
    charts: _Charts = [],  # noqa: B006
    facets: _Facets = [],  # noqa: B006
    width: _Width = _COLUMN_WIDTH,
    band: _Bands = None,
    smooth: _Smooth = 1,
    log: _Log = None,
    target: Target = None,
    no_data: _NoData = False,
    trust: Trusted = "all",
) -> None:
    """Write a report of one run, or a comparison of several; or figures and tables for a paper.

    Runs that differ only in their seed are one curve, with a band. Runs may still be running, or
    have failed: the report lists what is missing.
    """
    from simfl.report.bands import View
    from simfl.report.charts import name_of
    from simfl.report.facets import make_facets
    from simfl.report.report import make_report
    from simfl.report.study import make_study
    from simfl.report.targets import parse_target
    from simfl.report.writing import write_figures, write_report

    kind = format or _format_of(out)
    _check_charts(charts, kind)
    runs = _read(folders)
    chosen = None if target is None else parse_target(target, runs)
    study = make_study(runs, target=chosen, view=View(band, smooth, log or ""))
    figures = out or _default_path(folders, "figures")
    if facets:
        picture = _picture_of(kind)
        grids = make_facets(study, facets)
        _say_all(write_figures(grids, figures, format=picture, charts=charts, width=width))
        return
    needs_data = not no_data and kind not in ("tex", "csv")
    report = make_report(study, with_data=needs_data and not charts, trust=trust)
    if needs_data and not {*charts} <= {name_of(chart) for chart in report.charts}:
        report = make_report(study, with_data=True, trust=trust)  # charts of what clients hold
    if kind in _PICTURES and (out is None or out.suffix != f".{kind}"):
        paths = write_figures(report.charts, figures, format=kind, charts=charts, width=width)
        _say_all(paths)
        if not paths:
            say(f"{', '.join(map(str, folders))}: there is nothing to draw yet", err=True)
        return
    path = out or _default_path(folders, f"report.{kind}")
    written = time.strftime("%Y-%m-%d %H:%M", time.localtime())
    write_report(report, path, format=kind, written=written, charts=charts, width=width)
    say(path, is_exact=True)


def _say_all(paths: list[Path]) -> None:
    for path in paths:
        say(path, is_exact=True)


def _picture_of(kind: _Format) -> _Picture:
    for picture in _PICTURES:
        if picture == kind:
            return picture
    message = f"is for figures, not for {kind}; add --format pdf"
    raise typer.BadParameter(message, param_hint="--facet")


def _check_charts(charts: list[str], kind: _Format) -> None:
    if charts and kind not in (*_PICTURES, "tex"):
        raise typer.BadParameter(
            f"is for figures and LaTeX, not for {kind}; add --format pdf", param_hint="--chart"
        )


def _read(folders: list[Path]) -> list[Run]:
    from simfl.report.reading import find_runs, read_run

    now = time.time()
    distinct: dict[Path, Path] = {}
    for folder in folders:
        # A folder that is not a run's stands for the runs in it; one without any is an error.
        for run in (os.path.isdir(folder) and find_runs(folder)) or [folder]:
            distinct.setdefault(run.resolve(), run)
    return [read_run(run, now=now) for run in distinct.values()]


def _format_of(out: Path | None) -> _Format:
    known: dict[str, _Format] = {f".{format}": format for format in get_args(_Format)}
    if out is None:
        return "html"
    if out.suffix not in known:
        raise typer.BadParameter(
            f"{out} does not end in {', '.join(known)}; give --format", param_hint="--out"
        )
    return known[out.suffix]


def _default_path(folders: list[Path], name: str) -> Path:
    return folders[0] / name if len(folders) == 1 else Path(name)
