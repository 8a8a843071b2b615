"""What a sweep has brought: a row a trial, as a table, a CSV file and a report."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simfl.errors import InputError, MissingExtraError
from simfl.observers import measured, write_whole
from simfl.report.reading import Run, read_run
from simfl.report.report import make_report
from simfl.report.study import make_study
from simfl.report.wording import value_text
from simfl.report.writing import write_report
from simfl.scenario.sweeps import Trial
from simfl.sweep.preflight import Goal

__all__ = ["REPORT_FILE", "TABLE_FILE", "SweepResult", "TrialResult", "read_trial", "write_results"]

TABLE_FILE = "sweep.csv"
REPORT_FILE = "report.html"


@dataclass(frozen=True)
class TrialResult:
    """What one trial has brought."""

    number: int
    values: Mapping[str, Any]
    """By key: what it had in place of the scenario's own."""
    out: Path
    """The folder of its run."""
    state: str
    """``done``; ``stopped``: early; ``failed``; ``interrupted``; ``waiting``: it has not begun."""
    rounds: int
    """How many are done."""
    metrics: Mapping[str, float]
    """As they were last measured; what had no finite value then is not there."""
    seconds: float | None
    error: str | None
    """Why it has failed, in one line."""


@dataclass(frozen=True)
class SweepResult:
    """What a sweep has brought."""

    out: Path
    """The sweep's folder."""
    goal: Goal
    trials: tuple[TrialResult, ...]
    """All of them, by number."""

    @property
    def failed(self) -> tuple[TrialResult, ...]:
        """Those that have failed."""
        return tuple(trial for trial in self.trials if trial.state == "failed")

    @property
    def best(self) -> TrialResult | None:
        """The one whose metric was best at its end; None where none has it."""
        return next(iter(self.ranked), None) if self._has_value(self.ranked[:1]) else None

    @property
    def ranked(self) -> list[TrialResult]:
        """The trials, best first; those without the metric come last."""
        sign = -1 if self.goal.mode == "max" else 1

        def rank(trial: TrialResult) -> tuple[bool, float, int]:
            value = trial.metrics.get(self.goal.metric)
            has_none = value is None or value != value
            return has_none, 0.0 if value is None or has_none else sign * value, trial.number

        return sorted(self.trials, key=rank)

    def _has_value(self, trials: Sequence[TrialResult]) -> bool:
        return any(self.goal.metric in trial.metrics for trial in trials)


def read_trial(trial: Trial, folder: Path, *, state: str, error: str | None) -> TrialResult:
    """Read what a trial has left in its folder."""
    run = _run(folder)
    latest: dict[str, float | None] = {}
    for record in run.records if run else ():
        latest |= measured(record)
    return TrialResult(
        number=trial.number,
        values=trial.values,
        out=folder,
        state=state,
        rounds=run.rounds if run else 0,
        metrics={k: v for k, v in latest.items() if v is not None and math.isfinite(v)},
        seconds=run.seconds if run else None,
        error=error,
    )


def write_results(result: SweepResult, *, with_report: bool) -> list[str]:
    """Write ``sweep.csv`` and ``report.html``; return a line for each that could not be.

    Args:
        result: what to write.
        with_report: whether to write the report.
    """
    missing = []
    try:
        write_whole(result.out / TABLE_FILE, _csv(result))
    except OSError as error:
        missing.append(f"{result.out / TABLE_FILE} cannot be written: {error.strerror}")
    runs = [run for trial in result.trials if (run := _run(trial.out)) is not None]
    if with_report and len(runs) > 1:
        report = make_report(make_study(runs, target=None), with_data=False)
        written = time.strftime("%Y-%m-%d %H:%M", time.localtime())
        try:
            write_report(report, result.out / REPORT_FILE, format="html", written=written)
        except (MissingExtraError, InputError) as error:
            missing.append(f"there is no {REPORT_FILE}: {error}")
    return missing


def _run(folder: Path) -> Run | None:
    try:
        return read_run(folder, now=time.time())
    except InputError:
        return None


def _csv(result: SweepResult) -> str:
    keys = list(dict.fromkeys(key for trial in result.trials for key in trial.values))
    names = list(dict.fromkeys(name for trial in result.trials for name in trial.metrics))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("trial", *keys, "state", "rounds", *names, "seconds", "folder", "error"))
    for trial in result.trials:
        table.writerow(
            (
                trial.number,
                *(value_text(trial.values.get(key)) for key in keys),
                trial.state,
                trial.rounds,
                *(trial.metrics.get(name, "") for name in names),
                "" if trial.seconds is None else f"{trial.seconds:.3f}",
                trial.out.relative_to(result.out),
                " ".join((trial.error or "").split()),
            )
        )
    return text.getvalue()
