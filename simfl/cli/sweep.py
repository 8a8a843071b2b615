"""``simfl sweep``."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from simfl.cli.options import Address, AsJson, Backend, Overrides, Trusted, complete_scenario, found
from simfl.cli.output import FAILED, print_json, print_table, say

if TYPE_CHECKING:
    from simfl.cli.json_output import Best, Swept
    from simfl.sweep import Combination, SweepResult

_MAX_ROWS = 20
_PADDING = 3
"""Around a cell, on a terminal."""

_File: TypeAlias = Annotated[
    str | None,
    typer.Argument(
        metavar="FILE",
        help="A scenario file, or the name of a shipped one.",
        autocompletion=complete_scenario,
    ),
]
_Over: TypeAlias = Annotated[
    list[str],
    typer.Option(
        "--over",
        metavar="KEY=VALUES",
        help="What to try: client.optimizer.lrate=0.01,0.1 or seed=0..4 or "
        "client.optimizer.lrate='{loguniform: [0.001, 1]}'. Can be given several times.",
    ),
]
_Baselines: TypeAlias = Annotated[
    list[str],
    typer.Option(
        "--baseline",
        metavar="[centralized|local]",
        help="Run a baseline besides: all examples in one place, or each client alone. "
        "Can be given twice.",
    ),
]
_TrialBackend: TypeAlias = Annotated[
    Backend,
    typer.Option(help="Whether a trial has client actors, or is one process. Same numbers."),
]
_Out: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="FOLDER", help="The sweep's folder. Default: a new one under output.dir."),
]
_Resumed: TypeAlias = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Continue the sweep in this folder, without FILE."),
]
_Quiet: TypeAlias = Annotated[bool, typer.Option("--quiet", help="Print the sweep's folder only.")]


def sweep_scenario(
    file: _File = None,
    over: _Over = [],  # noqa: B006
    overrides: Overrides = [],  # noqa: B006
    baseline: _Baselines = [],  # noqa: B006
    backend: _TrialBackend = "ray",
    address: Address = None,
    out: _Out = None,
    resume: _Resumed = None,
    trust: Trusted = "all",
    quiet: _Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Run a scenario with several values of some keys, in parallel trials.

    All combinations of the values are tried. Each trial is a run in its own folder, with the same
    results as simfl run with the same values. The sweep's folder gets the table as
    sweep.csv, and a report that compares the trials. A trial that fails does not end the others;
    the exit code is then 1. Needs simfl[tune].
    """
    if (file is None) == (resume is None):
        raise typer.BadParameter("give either FILE or --resume FOLDER", param_hint="FILE")
    if resume is not None and (over or overrides or baseline or out):
        raise typer.BadParameter(
            "excludes --over, --set, --baseline and --out", param_hint="--resume"
        )
    path = None if file is None else found(file)

    from simfl.sweep import resume_sweep, run_sweep

    shows = not (quiet or as_json)
    if resume is not None:
        result = resume_sweep(resume, backend, address=address, progress=shows, trust=trust)
    else:
        assert path is not None, "either FILE or --resume is given"
        result = run_sweep(
            path,
            out,
            backend,
            over=over,
            overrides=overrides,
            baselines=baseline,
            address=address,
            progress=shows,
            trust=trust,
        )
    if as_json:
        print_json(_described(result))
    else:
        _print_result(result, quiet=quiet)
    if result.failed:
        raise typer.Exit(FAILED)


def _described(result: SweepResult) -> Swept:
    best = result.best
    return {
        "folder": str(result.out),
        "metric": result.goal.metric,
        "mode": result.goal.mode,
        "best": None if best is None else _described_best(best),
        "trials": [
            {
                "number": trial.number,
                "values": dict(trial.values),
                "folder": str(trial.out),
                "state": trial.state,
                "rounds": trial.rounds,
                "metrics": dict(trial.metrics),
                "seconds": trial.seconds,
                "error": trial.error,
            }
            for trial in result.trials
        ],
    }


def _described_best(best: Combination) -> Best:
    return {
        "values": dict(best.values),
        "metrics": dict(best.metrics),
        "deviations": dict(best.deviations),
        "trials": [trial.number for trial in best.trials],
    }


def _print_result(result: SweepResult, *, quiet: bool) -> None:
    if quiet:
        say(result.out, is_exact=True)
    else:
        _print_trials(result)
        say(f"results in {result.out}")
    for trial in result.failed:
        say(f"trial {trial.number} failed: {trial.error} ({trial.out})", err=True)


def _print_trials(result: SweepResult) -> None:
    """Print a row for each trial, or for each combination of values if there are several seeds."""
    ranked = result.ranked
    has_seeds = len(ranked) < len(result.trials)
    keys = dict.fromkeys(
        key for one in (ranked if has_seeds else result.trials) for key in one.values
    )
    names = dict.fromkeys([result.goal.metric, *(n for t in ranked for n in t.metrics)])
    table = _means if has_seeds else _trials
    for count in (3, 2, 1):  # as many metrics as there is room for
        header, rows = table(ranked[:_MAX_ROWS], list(keys), list(names)[:count])
        if _fits(header, rows):
            break
    print_table(header, rows, title=_title(result, has_seeds=has_seeds))


def _title(result: SweepResult, *, has_seeds: bool) -> str:
    number, ranked = len(result.trials), result.ranked
    title = f"{number} trial{'s' if number != 1 else ''}, best final {result.goal.metric} first"
    if has_seeds:
        title += "; mean ± sample standard deviation over seeds"
    if len(ranked) > _MAX_ROWS:
        title += f"; {_MAX_ROWS} of {len(ranked)} rows are shown"
    return title + ("; each trial is in sweep.csv" if has_seeds or len(ranked) > _MAX_ROWS else "")


def _fits(header: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    if not sys.stdout.isatty():
        return True
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return sum(widths) + _PADDING * len(widths) < shutil.get_terminal_size().columns


_Table: TypeAlias = tuple[Sequence[str], Sequence[Sequence[str]]]
"""A header and its rows."""


def _means(ranked: Sequence[Combination], keys: list[str], names: list[str]) -> _Table:
    from simfl.report.wording import mean_and_deviation

    rows = []
    for tried in ranked:
        total, with_value = len(tried.trials), tried.counts.get(names[0], 0)
        columns = [[t.metrics[name] for t in tried.trials if name in t.metrics] for name in names]
        rows.append(
            (
                *(_value(tried.values, key) for key in keys),
                str(total) if with_value == total else f"{with_value} of {total}",
                *map(mean_and_deviation, columns),
            )
        )
    return (*_short(keys), "seeds", *names), rows


def _trials(ranked: Sequence[Combination], keys: list[str], names: list[str]) -> _Table:
    from simfl.report.wording import duration, number

    rows = [
        (
            str(trial.number),
            *(_value(trial.values, key) for key in keys),
            trial.state,
            str(trial.rounds),
            *(number(trial.metrics.get(name)) for name in names),
            duration(trial.seconds),
        )
        for trial in (tried.trials[0] for tried in ranked)
    ]
    return ("trial", *_short(keys), "state", "round", *names, "time"), rows


def _short(keys: list[str]) -> list[str]:
    """Return the last part of each key, or the whole keys if two of them end alike."""
    short = [key.rpartition(".")[2] for key in keys]
    return short if len(set(short)) == len(short) else keys


def _value(values: Mapping[str, Any], key: str) -> str:
    from simfl.report.wording import value_text

    if key not in values:
        return "—"
    value = values[key]
    return f"{value:.4g}" if isinstance(value, float) else value_text(value)
