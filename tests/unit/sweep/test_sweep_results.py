"""The results of trials: their ranking and the CSV file."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest

from simfl.sweep.results import Goal, SweepResult, TrialResult, write_results


def trial(number: int, *, state: str = "done", error: str | None = None, **metrics: float):
    out = Path("out/trials") / str(number)
    values = {"client.optimizer.lrate": 0.1 * number, "model.hidden": [64, number]}
    return TrialResult(number, values, out, state, 5, metrics, 1.25, error)


def result(*trials: TrialResult, metric: str = "accuracy", mode: str = "max") -> SweepResult:
    return SweepResult(Path("out"), Goal(metric, mode), trials)


def test_the_best_comes_first_and_what_has_no_number_last():
    nan = float("nan")
    trials = (trial(0, accuracy=nan), trial(1), trial(2, accuracy=0.5), trial(3, accuracy=0.9))
    swept = result(*trials)
    assert [t.trials[0].number for t in swept.ranked] == [3, 2, 0, 1]
    assert swept.best.trials == (trials[3],)


def test_of_a_loss_the_smallest_is_the_best():
    trials = (trial(0, loss=2.0), trial(1, loss=1.0))
    assert result(*trials, metric="loss", mode="min").best.trials == (trials[1],)


def test_where_no_trial_has_the_metric_none_is_best():
    assert result(trial(0), trial(1, accuracy=float("nan"))).best is None


def test_the_csv_has_all_numbers_exactly_and_an_error_on_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()
    third = 1 / 3
    failed = trial(1, state="failed", error="client 3 failed:\nworn out")
    assert write_results(result(trial(0, accuracy=third), failed), with_report=True) == []
    with Path("out/sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["accuracy"]) == third
    assert rows[1]["accuracy"] == ""
    assert rows[1]["error"] == "client 3 failed: worn out"
    assert rows[1]["model.hidden"] == "[64, 1]"
    assert [row["folder"] for row in rows] == ["trials/0", "trials/1"]


def seeded(number: int, lrate: float, seed: int, **metrics: float) -> TrialResult:
    values = {"lrate": lrate, "seed": seed}
    return TrialResult(number, values, Path("out"), "done", 5, metrics, 1.0, None)


def test_the_best_values_are_those_with_the_best_mean_over_seeds():
    """The best single seed, 0.9, is of a rate whose mean is 0.6; the other's is 0.7 ± 0.1414."""
    trials = (
        seeded(0, 0.1, 0, accuracy=0.9),
        seeded(1, 0.1, 1, accuracy=0.3),
        seeded(2, 0.5, 0, accuracy=0.6),
        seeded(3, 0.5, 1, accuracy=0.8),
    )
    best = result(*trials).best
    assert best.values == {"lrate": 0.5}
    assert best.trials == trials[2:]
    assert best.metrics["accuracy"] == pytest.approx(0.7)
    assert best.deviations["accuracy"] == pytest.approx(0.2 / math.sqrt(2))


def test_values_of_which_a_seed_has_failed_come_after_those_of_which_none_has():
    trials = (
        seeded(0, 0.1, 0, accuracy=0.9),
        seeded(1, 0.1, 1, accuracy=math.nan),
        seeded(2, 0.5, 0, accuracy=0.6),
        seeded(3, 0.5, 1, accuracy=0.8),
        seeded(4, 1.0, 0),
    )
    swept = result(*trials)
    assert [tried.values["lrate"] for tried in swept.ranked] == [0.5, 0.1, 1.0]
    assert [tried.counts.get("accuracy", 0) for tried in swept.ranked] == [2, 1, 0]


def test_no_two_columns_of_the_csv_have_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()
    values, metrics = {"rounds": 9, "seed": 1}, {"state": 0.5, "seed": 0.25, "accuracy": 0.75}
    swept = result(TrialResult(0, values, Path("out/0"), "done", 5, metrics, 1.25, None))
    assert write_results(swept, with_report=False) == []
    with Path("out/sweep.csv").open(newline="") as file:
        header, row = csv.reader(file)
    assert len(set(header)) == len(header)
    assert dict(zip(header, row, strict=True)) == {
        "trial": "0",
        "over.rounds": "9",
        "seed": "1",
        "state": "done",
        "rounds": "5",
        "metric.state": "0.5",
        "metric.seed": "0.25",
        "accuracy": "0.75",
        "seconds": "1.250",
        "folder": "0",
        "error": "",
    }
