"""``simfl ls``."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simfl.cli.exit_codes import exit_codes
from simfl.cli.tables import print_table, say
from simfl.errors import one_line

if TYPE_CHECKING:
    from simfl.report.reading import Run

_MAX_REASON = 300


@exit_codes()
def list_runs(
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="The folder in which runs have theirs.")
    ] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List runs, the last one first: state, round, accuracy or loss, time.

    A run is running, done, failed or interrupted; or stopped: it has written nothing for longer
    than its rounds take, and did not say why.
    """
    from simfl.report.reading import find_runs, read_run

    now = time.time()
    runs = [read_run(found, now=now) for found in find_runs(folder)]
    runs.sort(key=lambda run: -run.changed)
    if as_json:
        described = [_described(run) for run in runs]
        say(json.dumps(described, indent=2, ensure_ascii=False, allow_nan=False), is_exact=True)
        return
    if not runs:
        say(f"no runs in {folder}")
        return
    header = ("run", "name", "state", "round", "result", "time", "last written")
    rows = [_row(run, folder, now) for run in runs]
    print_table(header, rows, title=f"{len(runs)} run{'s' if len(runs) != 1 else ''} in {folder}")
    for run in runs:
        if reason := _reason(run):
            say(f"{run.folder.relative_to(folder)} {run.state}: {reason}")


def _reason(run: Run) -> str | None:
    """Return the error that ended a failed run, on one line."""
    error = run.summary.get("error") if run.state == "failed" else None
    text = one_line(error) if isinstance(error, str) else ""
    return (text if len(text) <= _MAX_REASON else f"{text[: _MAX_REASON - 3]}...") or None


def _row(run: Run, parent: Path, now: float) -> tuple[str, ...]:
    from simfl.report.wording import ago, duration, number

    key, value = _result(run)
    return (
        str(run.folder.relative_to(parent)),
        run.name,
        run.state + (" (damaged)" if _is_damaged(run) else ""),
        run.progress,
        "—" if key is None else f"{key} {number(value)}",
        duration(run.seconds),
        ago(now - run.changed),
    )


def _result(run: Run) -> tuple[str | None, float | None]:
    """Return the metric that a run is mainly judged by, as it was last measured."""
    from simfl.report.judging import main_metric

    key = main_metric([run])
    return key, None if key is None else run.latest(key)


def _is_damaged(run: Run) -> bool:
    return any("not there" not in fault for fault in run.faults)


def _described(run: Run) -> dict[str, Any]:
    from simfl.cli.plain_json import finite

    key, value = _result(run)
    return {
        "folder": str(run.folder),
        "name": run.name,
        "state": run.state,
        "error": _reason(run),
        "round": run.rounds,
        "rounds": run.planned_rounds,
        "metric": key,
        "value": finite(value),
        "seconds": finite(run.seconds),
        "last_written": run.changed,
        "faults": list(run.faults),
    }
