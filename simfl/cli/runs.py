"""``simfl ls``, ``compare`` and ``export``: what runs have left in their folders."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simfl.cli.options import AsJson, Target, Trusted, complete_folder
from simfl.cli.output import finite, print_json, print_table, say
from simfl.errors import one_line

if TYPE_CHECKING:
    from simfl.cli.json_output import Listed
    from simfl.report.comparison import Comparison
    from simfl.report.reading import Run
    from simfl.report.targets import Reached

_MAX_REASON = 300
"""Characters of an error in the list of runs."""


def list_runs(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="The folder that holds runs.", autocompletion=complete_folder
        ),
    ] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """List runs, the latest one first: state, round, accuracy or loss, time.

    A run is running, done, failed or interrupted; or stopped: nothing has been written for longer
    than its rounds take, and its folder records no reason.
    """
    from simfl.report.reading import find_runs, read_run

    now = time.time()
    runs = [read_run(found, now=now) for found in find_runs(folder)]
    runs.sort(key=lambda run: -run.changed)
    if as_json:
        print_json([_described(run) for run in runs])
        return
    if not runs:
        say(f"no runs in {folder}")
        return
    header = ("run", "name", "state", "round", "result", "time", "last written")
    title = f"{len(runs)} run{'s' if len(runs) != 1 else ''} in {folder}"
    print_table(header, [_row(run, folder, now) for run in runs], title=title)
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
        run.state + (" (damaged)" if run.is_damaged else ""),
        run.progress,
        "—" if key is None else f"{key} {number(value)}",
        duration(run.seconds),
        ago(now - run.changed),
    )


def _result(run: Run) -> tuple[str | None, float | None]:
    """Return the main metric of a run, and its latest value."""
    from simfl.report.judging import main_metric

    key = main_metric([run])
    return key, None if key is None else run.latest(key)


def _described(run: Run) -> Listed:
    key, value = _result(run)
    return {
        "folder": str(run.folder),
        "name": run.name,
        "state": run.state,
        "error": _reason(run),
        "round": run.rounds,
        "rounds": run.planned_rounds,
        "metric": key,
        "value": value,
        "seconds": run.seconds,
        "last_written": run.changed,
        "faults": list(run.faults),
    }


def compare_runs(
    a: Annotated[
        Path,
        typer.Argument(metavar="A", help="The folder of a run.", autocompletion=complete_folder),
    ],
    b: Annotated[
        Path,
        typer.Argument(metavar="B", help="The folder of another.", autocompletion=complete_folder),
    ],
    target: Target = None,
    as_json: AsJson = False,
) -> None:
    """Show where two resolved scenarios and their curves differ.

    Numbers are compared exactly: the same scenario and seed give the same bits. The exit code is
    0 whether they differ or not.
    """
    from simfl.report.comparison import compare
    from simfl.report.reading import read_run
    from simfl.report.targets import default_target, parse_target

    now = time.time()
    runs = read_run(a, now=now), read_run(b, now=now)
    chosen = default_target(runs) if target is None else parse_target(target, runs)
    comparison = compare(*runs, target=chosen)
    if as_json:
        print_json(described(comparison))
        return
    _print_scenarios(comparison)
    _print_curves(comparison)
    _print_target(comparison)
    _print_faults(comparison)


def _print_scenarios(comparison: Comparison) -> None:
    a, b = comparison.a, comparison.b
    if not (a.scenario and b.scenario):
        say("scenarios: cannot be compared")
    elif not comparison.scenario:
        say("scenarios: the same")
    else:
        count = len(comparison.scenario)
        say(f"scenarios: {'1 key differs' if count == 1 else f'{count} keys differ'}")
    for difference in comparison.scenario if a.scenario and b.scenario else ():
        one, other = ("(not there)" if v is None else v for v in difference.values)
        say(f"  {one_line(f'{difference.key}: {one} -> {other}')}")
    say("")


def _print_curves(comparison: Comparison) -> None:
    from simfl.report.wording import number

    common, first = comparison.common_rounds, comparison.first_round
    say(f"rounds: {comparison.a.rounds} and {comparison.b.rounds}, {common} in common")
    if common == 0:
        say("curves: no round to compare")
    elif first is None:
        which = (
            ("the one round" if common == 1 else f"all {common} rounds") + " that both have"
            if _lengths_differ(comparison)
            else "every round"
        )
        say(f"curves: the same numbers in {which}")
    else:
        say(f"curves: differ from round {first} on")
    say("")
    same = f"none of {common}" if _lengths_differ(comparison) else "none"
    rows = [
        (
            metric.metric,
            same if metric.first_round is None else str(metric.first_round),
            number(metric.final_a),
            number(metric.final_b),
            number(metric.final_difference),
            number(metric.largest),
            "—" if metric.largest_round is None else str(metric.largest_round),
        )
        for metric in comparison.metrics
    ]
    header = ("number", "first different round", "A, last", "B, last", "B - A", "largest")
    if rows:
        print_table((*header, "in round"), rows, title="curves")


def _lengths_differ(comparison: Comparison) -> bool:
    return not len(comparison.a.records) == len(comparison.b.records) == comparison.common_rounds


def _print_target(comparison: Comparison) -> None:
    if comparison.target is None:
        return
    sides = (("A", comparison.reached_a), ("B", comparison.reached_b))
    say(f"to {comparison.target}: " + "; ".join(f"{s} {_when(r)}" for s, r in sides))


def _when(reached: Reached | None) -> str:
    from simfl.report.wording import duration

    if reached is None:
        return "never"
    after = "" if reached.seconds is None else f", after {duration(reached.seconds)}"
    return f"in round {reached.round}{after}"


def _print_faults(comparison: Comparison) -> None:
    for run in (comparison.a, comparison.b):
        for fault in run.faults:
            say(one_line(f"{run.folder}: {fault}"), err=True)


def described(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as plain data that JSON can hold."""
    plain: dict[str, Any] = {
        "a": str(comparison.a.folder),
        "b": str(comparison.b.folder),
        "scenario": [dataclasses.asdict(difference) for difference in comparison.scenario],
        "common_rounds": comparison.common_rounds,
        "first_round": comparison.first_round,
        "metrics": [
            dataclasses.asdict(metric) | {"final_difference": metric.final_difference}
            for metric in comparison.metrics
        ],
        "target": None if comparison.target is None else dataclasses.asdict(comparison.target),
        "reached_a": comparison.reached_a and dataclasses.asdict(comparison.reached_a),
        "reached_b": comparison.reached_b and dataclasses.asdict(comparison.reached_b),
        "faults": {str(run.folder): list(run.faults) for run in (comparison.a, comparison.b)},
    }
    return {key: finite(value) for key, value in plain.items()}


def export_run(
    folder: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="The folder of a run.", autocompletion=complete_folder),
    ],
    round: Annotated[
        int | None, typer.Option(help="After which round. Default: the last one with a checkpoint.")
    ] = None,
    client: Annotated[
        int | None, typer.Option(help="With this client's own personal weights (model.personal).")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="A folder. Default: export/round-000010 in the run's.")
    ] = None,
    trust: Trusted = "all",
) -> None:
    """Write a checkpoint's weights: weights.safetensors, and adapters for peft and other runs."""
    from simfl.simulation.exporting import export

    say(export(folder, out, round=round, client=client, trust=trust), is_exact=True)
