"""``simfl run``: what it is given, and the exit code."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from simfl.errors import (
    ClientError,
    ClusterError,
    ConfigError,
    MissingExtraError,
    NonFiniteUpdateError,
    VectorError,
)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Note what ``simfl.simulation.run`` is called with instead of running."""
    noted: list[dict[str, Any]] = []

    def run(scenario: Any, **options: Any) -> SimpleNamespace:
        noted.append({"scenario": scenario, **options})
        return SimpleNamespace(out=Path("runs/1"))

    monkeypatch.setattr("simfl.simulation.run", run)
    return noted


def raising(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*args: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr("simfl.simulation.run", run)


def test_options_reach_the_run(simfl, scenario, calls):
    arguments = ["--backend", "ray", "--address", "host:6379", "--out", "here", "--seed", "7"]
    result = simfl("run", scenario, *arguments, "--set", "rounds=5", "--profile")
    assert result.exit_code == 0
    (call,) = calls
    assert (call["scenario"].seed, call["scenario"].rounds) == (7, 5)
    options = {key: value for key, value in call.items() if key != "scenario"}
    assert options == {
        "backend": "ray",
        "address": "host:6379",
        "out": "here",
        "progress": True,
        "resume": "never",
        "profile": True,
        "baseline": None,
    }


def test_by_default_a_run_is_on_ray_in_a_folder_of_its_own(simfl, scenario, calls):
    simfl("run", scenario)
    assert (calls[0]["backend"], calls[0]["out"], calls[0]["address"]) == ("ray", None, None)


def test_a_quiet_run_prints_its_folder(simfl, scenario, calls):
    result = simfl("run", scenario, "--quiet")
    assert result.output == f"{Path('runs/1')}\n"
    assert calls[0]["progress"] is False


def test_a_shipped_scenario_is_told_of(simfl, calls):
    result = simfl("run", "quickstart")
    assert result.exit_code == 0
    assert result.stderr.startswith("quickstart: taking the scenario shipped with simfl, ")
    assert calls[0]["scenario"].name == "quickstart"


def test_a_fault_of_the_scenario_exits_with_2_and_runs_nothing(simfl, scenario, calls):
    result = simfl("run", scenario, "--set", "rounds=0")
    assert result.exit_code == 2
    assert result.stderr == "--set: rounds: is 0; should be at least 1\n"
    assert result.stdout == ""
    assert calls == []


def test_an_address_needs_ray(simfl, scenario, calls):
    result = simfl("run", scenario, "--backend", "inline", "--address", "host:6379")
    assert result.exit_code == 2
    assert "--address" in result.stderr
    assert calls == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("model mlp: inputs do not fit"), 2),
        (MissingExtraError("the 'x' source", package="x", extra="hf"), 2),
        (ClusterError("there are 2 CPUs, but 4 are asked for"), 1),
        (NonFiniteUpdateError("client 3 sent NaN in round 2"), 1),
        (VectorError("names differ"), 1),
        (KeyboardInterrupt("interrupted"), 130),
    ],
)
def test_an_error_is_one_line_and_has_its_code(simfl, scenario, monkeypatch, error, code):
    raising(error, monkeypatch)
    result = simfl("run", scenario)
    assert result.exit_code == code
    assert result.stderr == f"{error}\n"
    assert result.stdout == ""


def test_a_clients_error_shows_its_own_traceback(simfl, scenario, monkeypatch):
    own = "Traceback (most recent call last):\n  File 'model.py'\nValueError: no\n"
    message = "client 3 failed in round 2: ValueError: no"
    raising(ClientError(message, client=3, round=2, client_traceback=own), monkeypatch)
    result = simfl("run", scenario)
    assert result.exit_code == 1
    assert result.stderr == f"{message}\n\n{own}"


def test_an_unexpected_error_is_not_hidden(simfl, scenario, monkeypatch):
    raising(ZeroDivisionError("division by zero"), monkeypatch)
    result = simfl("run", scenario)
    assert result.exit_code == 1
    assert isinstance(result.exception, ZeroDivisionError)


def test_a_run_in_this_process_leaves_its_folder(simfl, scenario):
    result = simfl("run", scenario, "--backend", "inline", "--out", "out")
    assert result.exit_code == 0, result.output
    names = {path.name for path in Path("out").iterdir()}
    assert names >= {"scenario.yaml", "metrics.jsonl", "weights.safetensors", "summary.json"}
    assert json.loads(Path("out/summary.json").read_text())["rounds"] == 2


def test_a_run_is_verified_in_one_line(simfl, scenario):
    assert simfl("run", scenario, "--backend", "inline", "--out", "out").exit_code == 0
    command = ("verify", "out", "--backend", "inline", "--quiet", "--rounds", "1")
    same = simfl(*command)
    assert (same.exit_code, same.stdout) == (0, "out: the same bits in 1 round\n")
    path = Path("out/metrics.jsonl")
    path.write_text(path.read_text().replace('"train_loss": ', '"train_loss": 1'))
    other = simfl(*command)
    assert other.exit_code == 1
    assert other.stdout.startswith("out: differs first in round 1: train_loss was 1")
