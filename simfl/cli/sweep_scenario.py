"""``simfl sweep``."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simfl.cli.exit_codes import FAILED, exit_codes
from simfl.cli.options import Overrides, Trust, Trusted, found
from simfl.cli.run_scenario import Backend
from simfl.cli.tables import print_table, say

if TYPE_CHECKING:
    from simfl.sweep import Combination, SweepResult, TrialResult

_MAX_ROWS = 20
_PADDING = 3
"""Around a cell, on a terminal."""


@exit_codes()
def sweep_scenario(
    file: Annotated[
        str | None,
        typer.Argument(metavar="[FILE]", help="A scenario file, or the name of a shipped one."),
    ] = None,
    over: Annotated[
        list[str],
        typer.Option(
            "--over",
            metavar="KEY=VALUES",
            help="What to try: client.optimizer.lrate=0.01,0.1 or seed=0..4 or "
            "client.optimizer.lrate='{loguniform: [0.001, 1]}'. Can be given several times.",
        ),
    ] = [],  # noqa: B006
    overrides: Overrides = [],  # noqa: B006
    backend: Annotated[
        Backend,
        typer.Option(help="Whether a trial has client actors, or is one process. Same numbers."),
    ] = Backend.ray,
    address: Annotated[
        str | None, typer.Option(help="A running Ray cluster, instead of cluster.address.")
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="The sweep's folder. Default: a new one under output.dir.")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Go on with the sweep in this folder, without FILE."),
    ] = None,
    trust: Trusted = Trust.all,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the sweep's folder only.")] = False,
) -> None:
    """Run a scenario with other values in some of its keys, several trials at once.

    All combinations of the values are tried. Each trial is a run in a folder of its own, and has
    the numbers that simfl run has with the same values. The sweep's folder gets the table as
    sweep.csv, and a report that compares the trials. A trial that fails does not end the others;
    the exit code is then 1. Needs simfl[tune].
    """
    if (file is None) == (resume is None):
        raise typer.BadParameter("give either FILE or --resume FOLDER", param_hint="FILE")
    if resume is not None and (over or overrides or out):
        raise typer.BadParameter("goes without --over, --set and --out", param_hint="--resume")
    if file is not None:
        path = found(file)

    from simfl.sweep import resume_sweep, run_sweep

    if resume is not None:
        result = resume_sweep(
            resume, backend.value, address=address, progress=not quiet, trust=trust.value
        )
    else:
        result = run_sweep(
            path,
            out,
            backend.value,
            over=over,
            overrides=overrides,
            address=address,
            progress=not quiet,
            trust=trust.value,
        )
    _print_result(result, quiet=quiet)
    if result.failed:
        raise typer.Exit(FAILED)


def _print_result(result: SweepResult, *, quiet: bool) -> None:
    if quiet:
        say(result.out, is_exact=True)
    else:
        _print_trials(result)
        say(f"results in {result.out}")
    for trial in result.failed:
        say(f"trial {trial.number} failed: {trial.error} ({trial.out})", err=True)


def _print_trials(result: SweepResult) -> None:
    ranked = result.ranked
    has_seeds = len(ranked) < len(result.trials)
    keys = list(dict.fromkeys(key for tried in ranked for key in tried.values))
    if not has_seeds:
        keys = list(dict.fromkeys(key for trial in result.trials for key in trial.values))
    names = list(dict.fromkeys([result.goal.metric, *(n for t in ranked for n in t.metrics)]))
    short = [key.rpartition(".")[2] for key in keys]
    shown = short if len(set(short)) == len(short) else keys
    for count in (3, 2, 1):  # as many metrics as there is room for
        if has_seeds:
            header = (*shown, "seeds", *names[:count])
            rows = [_mean_row(tried, keys, names[:count]) for tried in ranked[:_MAX_ROWS]]
        else:
            header = ("trial", *shown, "state", "round", *names[:count], "time")
            rows = [_row(tried.trials[0], keys, names[:count]) for tried in ranked[:_MAX_ROWS]]
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


def _mean_row(tried: Combination, keys: list[str], names: list[str]) -> tuple[str, ...]:
    from simfl.report.wording import mean_and_deviation

    metric, total = names[0], len(tried.trials)
    has_value = tried.counts.get(metric, 0)
    columns = [
        [trial.metrics[name] for trial in tried.trials if name in trial.metrics] for name in names
    ]
    return (
        *(_value(tried.values.get(key)) for key in keys),
        str(total) if has_value == total else f"{has_value} of {total}",
        *map(mean_and_deviation, columns),
    )


def _value(value: Any) -> str:
    from simfl.report.wording import value_text

    return f"{value:.4g}" if isinstance(value, float) else value_text(value)


def _row(trial: TrialResult, keys: list[str], names: list[str]) -> tuple[str, ...]:
    from simfl.report.wording import duration, number

    return (
        str(trial.number),
        *(_value(trial.values.get(key)) for key in keys),
        trial.state,
        str(trial.rounds),
        *(number(trial.metrics.get(name)) for name in names),
        duration(trial.seconds),
    )
