"""A trial in its process, without Ray: its reports, and how its run ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

import simfl
from simfl.scenario.sweeps import load_sweep
from simfl.sweep.ledger import Ledger
from simfl.sweep.trials import RunningTrial, Trials

SCENARIO = {
    "rounds": 4,
    "data": {
        "source": "digits",
        "test_fraction": 0.2,
        "partition": {"kind": "iid", "clients": 4},
    },
    "model": {"kind": "logistic"},
    "client": {"optimizer": {"lrate": 0.1}},
    "evaluation": {"every": 2},
}


@pytest.fixture
def trials(tmp_path: Path) -> Trials:
    plan = load_sweep(SCENARIO, over=["seed=0..1"])
    Ledger(tmp_path).write("began", folders=[])
    return Trials(plan, tmp_path, "inline", metric="accuracy", stops_early=True, shared={})


def begin(trials: Trials, number: int = 0) -> RunningTrial:
    return trials.begin(trials.order(trials.plan.trials[number], actors=[1]))


def test_all_groups_train_their_clients_inline(tmp_path):
    """There is one process for all of them: the numbers are those of a single run."""
    groups = [{"name": "first", "clients": {"range": [0, 1]}}, {"name": "others"}]
    plan = load_sweep(SCENARIO | {"cluster": {"groups": groups}}, over=["seed=0..1"])
    trials = Trials(plan, tmp_path, "inline", metric="accuracy", stops_early=False, shared={})
    running = begin(trials)
    while not (report := running.step()).get("done"):
        pass
    assert report["state"] == "done", report["error"]
    alone = simfl.run(plan.scenario(plan.trials[0].values), out=tmp_path / "a", backend="inline")
    weights = load_file(trials.folder_of(plan.trials[0]) / "weights.safetensors")
    assert {name: array.tobytes() for name, array in weights.items()} == {
        name: array.tobytes() for name, array in alone.weights.items()
    }


def summary(trials: Trials, number: int = 0) -> dict[str, Any]:
    folder = trials.folder_of(trials.plan.trials[number])
    return json.loads((folder / "summary.json").read_text())


def test_a_trial_reports_each_evaluation_and_then_that_it_is_done(trials):
    running = begin(trials)
    reports = [running.step()]
    while not reports[-1].get("done"):
        reports.append(running.step())
    measured = [report["round"] for report in reports if "value" in report]
    assert measured == [2, 4, 4]
    assert reports[-1] == {"done": True, "state": "done", "round": 4, "value": reports[-2]["value"]}
    running.stop()  # has no effect
    assert summary(trials)["status"] == "done"


@pytest.mark.parametrize(("is_in_ledger", "status"), [(True, "stopped"), (False, "interrupted")])
def test_a_trial_that_is_stopped_can_be_resumed(trials, is_in_ledger, status):
    running = begin(trials)
    running.step()
    if is_in_ledger:
        event = {"trial": 0, "state": "stopped", "value": None, "error": None}
        Ledger(trials.folder).write("ended", **event)
    running.stop()
    assert summary(trials)["status"] == status
    resumed = begin(trials)
    while not (report := resumed.step()).get("done"):
        pass
    assert (report["state"], report["round"]) == ("done", 4)
    assert summary(trials)["status"] == "done"


def test_what_a_trial_reported_before_counts_when_it_is_resumed(trials):
    running = begin(trials)
    first = running.step()
    while "value" not in first:
        first = running.step()
    running.stop()
    assert trials.earlier_reports(trials.plan.trials[0]) == [first]
    assert trials.earlier_reports(trials.plan.trials[1]) == []


def test_an_error_ends_the_trial_alone_and_its_traceback_is_kept(trials):
    folder = trials.folder_of(trials.plan.trials[1])
    folder.mkdir(parents=True)
    (folder / "scenario.yaml").write_text("rounds: x\n")
    (folder / "metrics.jsonl").write_text("")
    report = begin(trials, 1).step()
    assert report["done"]
    assert report["state"] == "failed"
    assert "rounds" in report["error"]
    assert "Traceback" in (folder / "error.txt").read_text()
