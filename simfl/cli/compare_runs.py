"""``simfl compare``."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simfl.cli.exit_codes import exit_codes
from simfl.cli.tables import print_table, say
from simfl.errors import one_line

if TYPE_CHECKING:
    from simfl.report.comparison import Comparison
    from simfl.report.curves import Reached


@exit_codes()
def compare_runs(
    a: Annotated[Path, typer.Argument(metavar="A", help="The folder of a run.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The folder of another.")],
    target: Annotated[
        str | None,
        typer.Option(metavar="METRIC=VALUE", help="How long each took to it: accuracy=0.9."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say where two resolved scenarios differ, and then how their curves do.

    Numbers are compared exactly: the same scenario and seed give the same bits. The exit code is
    0 whether they differ or not.
    """
    from simfl.report.comparison import compare
    from simfl.report.curves import default_target, parse_target
    from simfl.report.reading import read_run

    now = time.time()
    runs = read_run(a, now=now), read_run(b, now=now)
    chosen = default_target(runs) if target is None else parse_target(target, runs)
    comparison = compare(*runs, target=chosen)
    if as_json:
        plain = described(comparison)
        say(json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False), is_exact=True)
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
        say("curves: there is no round to compare")
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
    header = (
        "number",
        "first different round",
        "A, last",
        "B, last",
        "B - A",
        "largest",
        "in round",
    )
    if rows:
        print_table(header, rows, title="curves")


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
    """Return a comparison as plain data, for programs."""
    from simfl.cli.plain_json import finite

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
