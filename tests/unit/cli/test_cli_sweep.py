"""``simfl sweep``: what it is given, what it prints, and the exit code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from simfl.errors import MissingExtraError
from simfl.sweep import SweepResult, TrialResult
from simfl.sweep.results import Goal


def trial(number: int, *, state: str = "done", error: str | None = None, **metrics: float):
    out = Path("out/trials") / str(number)
    return TrialResult(number, {"rounds": number}, out, state, 5, metrics, 1.25, error)


def seeded(number: int, rounds: int, **metrics: float) -> TrialResult:
    values = {"rounds": rounds, "seed": number}
    return TrialResult(number, values, Path("out/trials"), "done", 5, metrics, 1.25, None)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Note what the sweep is called with instead of running."""
    noted: list[dict[str, Any]] = []

    def called(*arguments: Any, **options: Any) -> SweepResult:
        noted.append({"arguments": arguments, **options})
        trials = (trial(0, accuracy=0.5), trial(1, accuracy=0.75), *noted[0].get("more", ()))
        return SweepResult(Path("out"), Goal("accuracy", "max"), trials)

    monkeypatch.setattr("simfl.sweep.run_sweep", called)
    monkeypatch.setattr("simfl.sweep.resume_sweep", called)
    return noted


def test_options_reach_the_sweep_and_the_table_is_printed_best_first(simfl, scenario, calls):
    arguments = ["--over", "seed=0..1", "--set", "rounds=5", "--backend", "inline", "--out", "o"]
    result = simfl("sweep", scenario, *arguments)
    assert result.exit_code == 0, result.output
    assert calls == [
        {
            "arguments": (Path(scenario), "o", "inline"),
            "over": ["seed=0..1"],
            "overrides": ["rounds=5"],
            "baselines": [],
            "address": None,
            "progress": True,
            "trust": "all",
        }
    ]
    title, header, first, second, _, closing = result.stdout.splitlines()
    assert title == "# 2 trials, best final accuracy first"
    assert header.split() == ["trial", "rounds", "state", "round", "accuracy", "time"]
    assert first.split() == ["1", "1", "done", "5", "0.7500", "1.2", "s"]
    assert second.split()[0] == "0"
    assert closing == "results in out"


def test_over_seeds_the_table_has_means(simfl, scenario, monkeypatch):
    trials = (
        seeded(0, 5, accuracy=0.9),
        seeded(1, 5, accuracy=0.7),
        seeded(2, 9, accuracy=1.0),
        seeded(3, 9),
    )
    swept = SweepResult(Path("out"), Goal("accuracy", "max"), trials)
    monkeypatch.setattr("simfl.sweep.run_sweep", lambda *arguments, **options: swept)
    title, header, *rows = simfl("sweep", scenario, "--over", "seed=0,1").stdout.splitlines()[:4]
    assert title == (
        "# 4 trials, best final accuracy first; mean ± sample standard deviation over seeds; "
        "each trial is in sweep.csv"
    )
    assert [row.split() for row in (header, *rows)] == [
        ["rounds", "seeds", "accuracy"],
        ["5", "2", "0.8000", "±", "0.1414"],
        ["9", "1", "of", "2", "1.0000"],
    ]


def test_a_sweep_is_resumed_by_its_folder(simfl, calls):
    result = simfl("sweep", "--resume", "old", "--quiet")
    assert result.output == f"{Path('out')}\n"
    assert calls == [
        {"arguments": (Path("old"), "ray"), "address": None, "progress": False, "trust": "all"},
    ]


def test_a_failed_trial_is_named_and_exits_with_1(simfl, scenario, monkeypatch):
    failed = trial(1, state="failed", error="client 3 failed in round 2: ValueError: no")
    swept = SweepResult(Path("out"), Goal("accuracy", "max"), (trial(0, accuracy=0.5), failed))
    monkeypatch.setattr("simfl.sweep.run_sweep", lambda *arguments, **options: swept)
    result = simfl("sweep", scenario, "--over", "seed=0,1")
    assert result.exit_code == 1
    out = Path("out/trials/1")
    reason = "trial 1 failed: client 3 failed in round 2: ValueError: no"
    assert result.stderr == f"{reason} ({out})\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyboardInterrupt("interrupted; continue with: simfl sweep --resume out"), 130),
        (MissingExtraError("simfl sweep", package="pandas", extra="tune"), 2),
    ],
)
def test_how_it_ends_is_one_line(simfl, scenario, monkeypatch, error, code):
    def raising(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr("simfl.sweep.run_sweep", raising)
    result = simfl("sweep", scenario, "--over", "seed=0,1")
    assert (result.exit_code, result.stderr) == (code, f"{error}\n")


@pytest.mark.parametrize(
    "arguments", [[], ["s.yaml", "--resume", "out"], ["--resume", "out", "--over", "seed=1"]]
)
def test_a_file_or_a_folder_and_not_both(simfl, scenario, arguments):
    result = simfl("sweep", *arguments)
    assert result.exit_code == 2
    assert "Error: " in result.stderr


def test_a_faulty_trial_exits_with_2_and_starts_nothing(simfl, scenario):
    result = simfl("sweep", scenario, "--over", "client.batch_size=4,0", "--out", "out")
    assert result.exit_code == 2
    assert result.stderr == "--over: client.batch_size: is 0; should be at least 1\n"
    assert not Path("out").exists()


def test_a_run_of_a_scenario_with_a_sweep_says_what_to_do(simfl, scenario):
    with Path(scenario).open("a") as file:
        file.write("sweep: {over: {seed: 0..1}}\n")
    result = simfl("run", scenario, "--backend", "inline")
    assert result.exit_code == 2
    assert result.stderr.startswith("s.yaml:6: sweep: describes many runs; start them")
    assert simfl("run", scenario, "--backend", "inline", "--set", "sweep=null").exit_code == 0


def test_validate_checks_the_trials_too(simfl, scenario):
    with Path(scenario).open("a") as file:
        file.write("sweep: {over: {rounds: 0..1}}\n")
    result = simfl("validate", scenario)
    assert (result.exit_code, result.stdout) == (
        2,
        "s.yaml:6: rounds: is 0; should be at least 1\n",
    )
