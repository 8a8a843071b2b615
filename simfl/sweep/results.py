"""The results of a sweep: by trial and by combination of values, as a CSV file and a report."""

from __future__ import annotations

import csv
import io
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simfl.errors import InputError, MissingExtraError
from simfl.observers import write_whole
from simfl.record import RoundRecord
from simfl.report.reading import Run, read_run
from simfl.report.report import make_report
from simfl.report.study import make_study
from simfl.report.wording import deviation_of, distinct, mean_of, value_text
from simfl.report.writing import write_report
from simfl.scenario.sweeps import SEED, Trial
from simfl.sweep.ledger import Past

TABLE_FILE = "sweep.csv"
REPORT_FILE = "report.html"

_OWN_COLUMNS = ("trial", "state", "rounds", "seconds", "folder", "error")


@dataclass(frozen=True)
class Goal:
    """The metric that ranks trials."""

    metric: str
    mode: str
    """``max`` or ``min``."""

    def is_better(self, one: float, other: float) -> bool:
        """Return whether the first value is better than the second."""
        return one > other if self.mode == "max" else one < other


@dataclass(frozen=True)
class TrialResult:
    """The result of one trial."""

    number: int
    values: Mapping[str, Any]
    """By key: its values in place of the scenario's own; of a case its ``label`` alone."""
    out: Path
    """The folder of its run."""
    state: str
    """``done``; ``stopped``: early; ``failed``; ``interrupted``; ``waiting``: it has not begun."""
    rounds: int
    """How many are done."""
    metrics: Mapping[str, float]
    """As last measured, without those that had no finite value then."""
    seconds: float | None
    error: str | None
    """Why it failed, on one line."""


@dataclass(frozen=True)
class Combination:
    """Trials with the same values but for the seed."""

    values: Mapping[str, Any]
    """By key, without the seed."""
    trials: tuple[TrialResult, ...]
    """One for each seed."""
    metrics: Mapping[str, float]
    """The mean over the trials that have the metric, as last measured in each."""
    deviations: Mapping[str, float]
    """The sample standard deviation over them, where there are two or more."""
    counts: Mapping[str, int]
    """How many have it."""


@dataclass(frozen=True)
class SweepResult:
    """The results of a sweep."""

    out: Path
    """The sweep's folder."""
    goal: Goal
    trials: tuple[TrialResult, ...]
    """All of them, by number."""

    @property
    def failed(self) -> tuple[TrialResult, ...]:
        """The trials that failed."""
        return tuple(trial for trial in self.trials if trial.state == "failed")

    @property
    def best(self) -> Combination | None:
        """The values whose metric was best at the end, on average over seeds; None without any."""
        first = next(iter(self.ranked), None)
        return first if first is not None and self.goal.metric in first.metrics else None

    @property
    def ranked(self) -> list[Combination]:
        """The combinations, best first by the mean over seeds.

        Those in which only some trials have the metric come after those in which all have it, since
        the trials that failed may be the bad ones. Those without it are last.
        """
        sign = -1 if self.goal.mode == "max" else 1

        def rank(tried: Combination) -> tuple[int, float, int]:
            with_value = tried.counts.get(self.goal.metric, 0)
            has_mean = self.goal.metric in tried.metrics
            level = int(with_value < len(tried.trials)) if has_mean else 2
            return level, sign * tried.metrics.get(self.goal.metric, 0.0), tried.trials[0].number

        return sorted(self.combinations, key=rank)

    @property
    def combinations(self) -> list[Combination]:
        """The trials by their values without the seed, in the order of the trials."""
        by_values: dict[str, list[TrialResult]] = {}
        for trial in self.trials:
            values = {key: value for key, value in trial.values.items() if key != SEED}
            by_values.setdefault(json.dumps(values, default=str), []).append(trial)
        return [_combination(trials) for trials in by_values.values()]


def _combination(trials: Sequence[TrialResult]) -> Combination:
    names = dict.fromkeys(name for trial in trials for name in trial.metrics)
    columns = {
        name: [
            value for trial in trials if math.isfinite(value := trial.metrics.get(name, math.nan))
        ]
        for name in names
    }
    means = {name: mean_of(values) for name, values in columns.items()}
    deviations = {name: deviation_of(values) for name, values in columns.items()}
    return Combination(
        values={key: value for key, value in trials[0].values.items() if key != SEED},
        trials=tuple(trials),
        metrics={name: value for name, value in means.items() if value is not None},
        deviations={name: value for name, value in deviations.items() if value is not None},
        counts={name: len(values) for name, values in columns.items()},
    )


def read_trial(trial: Trial, folder: Path, past: Past) -> TrialResult:
    """Read the result of a trial from its folder, and its state from the ledger's past."""
    run = _run(folder)
    latest: dict[str, float | None] = {}
    for record in run.records if run else ():
        latest |= RoundRecord.parse(record).measures
    ended = past.ended.get(trial.number, {})
    unfinished = "interrupted" if trial.number in past.started else "waiting"
    return TrialResult(
        number=trial.number,
        values=trial.values,
        out=folder,
        state=ended.get("state", unfinished),
        rounds=run.rounds if run else 0,
        metrics={k: v for k, v in latest.items() if v is not None and math.isfinite(v)},
        seconds=run.seconds if run else None,
        error=ended.get("error"),
    )


def write_results(result: SweepResult, *, with_report: bool) -> list[str]:
    """Write ``sweep.csv`` and ``report.html``; return a message for each that cannot be written."""
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
    key_columns = distinct(keys, "over", taken=_OWN_COLUMNS)
    metric_columns = distinct(names, "metric", taken=(*_OWN_COLUMNS, *key_columns))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    header = ("trial", *key_columns, "state", "rounds", *metric_columns)
    table.writerow((*header, "seconds", "folder", "error"))
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
