"""``simfl report``."""

from __future__ import annotations

import os
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simfl.cli.exit_codes import exit_codes
from simfl.cli.options import Trust, Trusted
from simfl.cli.tables import say

if TYPE_CHECKING:
    from simfl.report.reading import Run


class Format(StrEnum):
    """What a report is written as."""

    html = "html"
    png = "png"
    csv = "csv"
    md = "md"


@exit_codes()
def report_runs(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="The folders of runs, or of sweeps: all its trials."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="The file. Default: report.html, in the run's folder if it is one."),
    ] = None,
    format: Annotated[
        Format | None,
        typer.Option(
            help="A page, a picture of its charts, all rounds' numbers, or its tables as text. "
            "Default: as --out ends, or html."
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(metavar="METRIC=VALUE", help="How long runs took to it: accuracy=0.9."),
    ] = None,
    no_data: Annotated[
        bool, typer.Option("--no-data", help="Load no data: do not show what clients hold.")
    ] = False,
    trust: Trusted = Trust.all,
) -> None:
    """Write a report of one run, or a comparison of several.

    Runs that differ in their seed only are one curve, with a confidence band. Runs may be going
    on, or have failed: what is missing is said.
    """
    from simfl.report.curves import parse_target
    from simfl.report.report import make_report
    from simfl.report.study import make_study
    from simfl.report.writing import write_report

    runs = _read(folders)
    chosen = None if target is None else parse_target(target, runs)
    kind = format or _format_of(out)
    path = out or _default_path(folders, kind)
    study = make_study(runs, target=chosen)
    report = make_report(study, with_data=not no_data, trust=trust.value)
    write_report(
        report, path, format=kind.value, written=time.strftime("%Y-%m-%d %H:%M", time.localtime())
    )
    say(path, is_exact=True)


def _read(folders: list[Path]) -> list[Run]:
    from simfl.report.reading import find_runs, read_run

    now = time.time()
    distinct: dict[Path, Path] = {}
    for folder in folders:
        # One that is no run's stands for the runs in it, and without any for the error about that.
        for run in (os.path.isdir(folder) and find_runs(folder)) or [folder]:
            distinct.setdefault(run.resolve(), run)
    return [read_run(run, now=now) for run in distinct.values()]


def _format_of(out: Path | None) -> Format:
    known = {f".{format.value}": format for format in Format}
    if out is None:
        return Format.html
    if out.suffix not in known:
        raise typer.BadParameter(
            f"{out} does not end in {', '.join(known)}; give --format", param_hint="--out"
        )
    return known[out.suffix]


def _default_path(folders: list[Path], kind: Format) -> Path:
    name = f"report.{kind.value}"
    return folders[0] / name if len(folders) == 1 else Path(name)
