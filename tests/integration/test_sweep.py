"""Sweeps: parallel trials have the numbers of single runs."""

from __future__ import annotations

import csv
import json
import signal
import sys
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from torch import nn

import simfl
from simfl.algorithms import ServerEMA
from simfl.errors import InputError
from simfl.sweep import SweepResult, TrialResult

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

HERE = str(Path(__file__).parent)

OVER = ["client.optimizer.modules=[],[[broken-after, {rounds: 3}]]", "seed=0..1"]


def scenario(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "name": "swept",
        "rounds": 6,
        "plugins": ["sweep_plugins"],
        "search": [HERE],
        "data": {
            "source": "python",
            "path": "sweep_plugins:load_counted",
            "arguments": {"log": str(folder / "loads.txt")},
            "test_fraction": 0.2,
            "partition": {"kind": "dirichlet", "clients": 8, "alpha": 0.5},
        },
        "model": {"kind": "logistic"},
        "client": {"per_round": 4, "batch_size": 16, "optimizer": {"lrate": 0.1}},
        "checkpoint": {"every": 2},
        **changes,
    }


def undisturbed(folder: Path, values: dict[str, Any], **changes: Any) -> simfl.Result:
    """Run the scenario with a trial's values alone, in this process."""
    overrides = [f"{key}={json.dumps(value)}" for key, value in values.items()]
    loaded = simfl.load_scenario(scenario(folder, **changes), overrides=overrides)
    return simfl.run(loaded, out=folder / "undisturbed", backend="inline")


def assert_same_run(trial: TrialResult, run: simfl.Result) -> None:
    ours = load_file(trial.out / "weights.safetensors")
    assert ours.keys() == run.weights.keys()
    for name, value in run.weights.items():
        assert value.tobytes() == ours[name].tobytes(), name
    records = [json.loads(line) for line in (trial.out / "metrics.jsonl").read_text().splitlines()]
    assert [record["accuracy"] for record in records] == [r["accuracy"] for r in run.history]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def swept(folder: Path, ray_cluster: None) -> SweepResult:
    """Two trials that fail in round 4, and two that do not."""
    return simfl.run_sweep(
        scenario(folder), folder / "swept", "inline", over=OVER, overrides=["sweep.concurrent=2"]
    )


def test_a_trial_has_the_bits_of_a_single_run(
    swept: SweepResult, folder: Path, tmp_path: Path
) -> None:
    trial = swept.trials[1]
    assert (trial.state, trial.values["seed"]) == ("done", 1)
    assert_same_run(trial, undisturbed(tmp_path, dict(trial.values)))


def test_failed_trials_do_not_sink_the_others_and_say_why(swept: SweepResult) -> None:
    assert [trial.state for trial in swept.trials] == ["done", "done", "failed", "failed"]
    assert [trial.rounds for trial in swept.trials] == [6, 6, 3, 3]
    for trial in swept.failed:
        assert "in round 4: ValueError: worn out" in (trial.error or "")
        assert 'raise ValueError("worn out")' in (trial.out / "error.txt").read_text()
    assert swept.best is not None
    assert swept.best.trials == swept.trials[:2]


def test_each_data_set_is_loaded_once_for_all_its_trials(swept: SweepResult, folder: Path) -> None:
    # Two seeds, of two trials each: a trial that loaded its own would make a third line.
    assert (folder / "loads.txt").read_text() == "loaded\n" * 2


def test_the_table_has_a_row_for_each_trial(swept: SweepResult) -> None:
    with (swept.out / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["seed"] for row in rows] == ["0", "1", "0", "1"]
    assert [row["state"] for row in rows] == ["done", "done", "failed", "failed"]
    metrics = (swept.out / rows[0]["folder"] / "metrics.jsonl").read_text().splitlines()
    assert float(rows[0]["accuracy"]) == json.loads(metrics[-1])["accuracy"]
    assert "worn out" in rows[3]["error"]
    assert "<html" in (swept.out / "report.html").read_text(encoding="utf-8")[:200]


def test_a_trials_client_actors_have_its_bits_too_and_read_the_data_where_it_lies(
    tmp_path: Path,
) -> None:
    # All of the cluster's CPUs: actors have to be in the trial's own bundles, or nowhere.
    case = {
        "client.optimizer.modules": ["scaffold-client"],
        "server.optimizer.modules": ["scaffold-server"],
    }
    sweep = {"cases": {"scaffold": case}}
    changed = scenario(tmp_path, cluster={"actors": 2, "num_cpus": 4.0}, sweep=sweep)
    result = simfl.run_sweep(changed, tmp_path / "swept", "ray", over=["seed=5"])
    (trial,) = result.trials
    assert trial.state == "done", trial.error
    assert (tmp_path / "loads.txt").read_text() == "loaded\n"
    assert trial.values == {"label": "scaffold", "seed": 5}
    assert_same_run(trial, undisturbed(tmp_path, {**case, "seed": 5, "sweep": None}))


def test_a_trial_that_falls_behind_is_stopped_and_could_go_on(tmp_path: Path) -> None:
    sweep = {"asha": {"grace_rounds": 2, "factor": 2}, "concurrent": 1}
    result = simfl.run_sweep(
        scenario(tmp_path, sweep=sweep),
        tmp_path / "swept",
        "inline",
        over=["client.optimizer.lrate=0.1,1e-9"],
    )
    first, second = result.trials
    # With a factor of 2 the second is compared with the first alone, after 2 rounds, and is worse.
    assert (first.state, first.rounds) == ("done", 6)
    assert (second.state, second.rounds) == ("stopped", 2)
    summary = json.loads((second.out / "summary.json").read_text())
    assert (summary["status"], summary["rounds"]) == ("stopped", 2)
    simfl.resume(second.out, "inline")
    assert_same_run(second, undisturbed(tmp_path, dict(second.values)))


@pytest.fixture
def interrupting(tmp_path: Path) -> Iterator[None]:
    """Send this process a Ctrl-C as soon as the second trial has done three rounds."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            found = list(tmp_path.glob("swept/trials/1-*/metrics.jsonl"))
            if found and found[0].read_text().count("\n") >= 3:
                signal.raise_signal(signal.SIGINT)
                return
            time.sleep(0.01)

    thread = threading.Thread(target=watch)
    thread.start()
    yield
    ended.set()
    thread.join()


def test_an_interrupted_sweep_goes_on_to_what_it_would_have_brought(
    tmp_path: Path, interrupting: None
) -> None:
    hold = tmp_path / "hold"
    hold.touch()
    cases = {"short": {"rounds": 2}, "long": {"rounds": 40}}
    slow = scenario(tmp_path, rounds=3, sweep={"concurrent": 1, "cases": cases})
    slow["client"]["optimizer"]["modules"] = [["slow-while", {"file": str(hold)}]]
    with pytest.raises(KeyboardInterrupt, match="continue with: simfl sweep --resume"):
        simfl.run_sweep(slow, tmp_path / "swept", "inline", over=["seed=3"])
    before = json.loads((next(tmp_path.glob("swept/trials/1-*")) / "summary.json").read_text())
    assert before["status"] == "interrupted"
    done = next(tmp_path.glob("swept/trials/0-*")) / "summary.json"
    changed = done.stat().st_mtime_ns
    hold.unlink()
    result = simfl.resume_sweep(tmp_path / "swept", "inline")
    assert [(trial.state, trial.rounds) for trial in result.trials] == [("done", 2), ("done", 40)]
    assert done.stat().st_mtime_ns == changed  # not run again
    after = json.loads((result.trials[1].out / "summary.json").read_text())
    assert after["resumed_after_round"] >= 2  # from its checkpoint
    assert result.trials[1].values == {"label": "long", "seed": 3}
    values = {"rounds": 40, "seed": 3}
    assert_same_run(result.trials[1], undisturbed(tmp_path, values, client=slow["client"]))
    table = (result.out / "sweep.csv").read_text().splitlines()
    assert table[0].startswith("trial,label,seed,state,")
    assert table[1].startswith("0,short,3,done,2,")
    with pytest.raises(InputError, match="is done; there is nothing to continue"):
        simfl.resume_sweep(tmp_path / "swept", "inline")


def test_a_searcher_proposes_what_comes_next(tmp_path: Path) -> None:
    sweep = {
        "cases": {"plain": {}, "momentum": {"client.optimizer.modules": ["momentum"]}},
        "over": {"client.optimizer.lrate": {"loguniform": [1e-4, 1.0]}, "seed": [1, 2]},
        "searcher": {"kind": "optuna"},
        "samples": 2,
        "concurrent": 1,
    }
    swept = simfl.run_sweep(scenario(tmp_path, rounds=2, sweep=sweep), tmp_path / "swept", "inline")
    assert [trial.state for trial in swept.trials] == ["done", "done"]
    assert len({trial.values["client.optimizer.lrate"] for trial in swept.trials}) == 2
    assert all(trial.values["seed"] in (1, 2) for trial in swept.trials)
    for trial in swept.trials:
        modules = simfl.load_scenario(trial.out / "scenario.yaml").client.optimizer.modules
        assert [module.name for module in modules] == {"plain": [], "momentum": ["momentum"]}[
            trial.values["label"]
        ]


def test_a_trial_ends_early_as_its_run_does_beside_its_baselines(tmp_path: Path) -> None:
    """With the bits of runs in this process: the same last and best rounds."""
    judged: dict[str, Any] = {"rounds": 30, "stop": {"patience": 2}, "output": {"best": "auto"}}
    plain = scenario(tmp_path, **judged)
    plain["data"] |= {"holdout_fraction": 0.2}
    plain["client"] |= {"optimizer": {"lrate": 2.0}}
    both: Any = ["centralized", "local"]
    result = simfl.run_sweep(plain, tmp_path / "swept", "inline", over=["seed=5"], baselines=both)
    assert [trial.state for trial in result.trials] == ["done"] * 3, result.failed
    for trial, baseline in zip(result.trials, [None, *both], strict=True):
        alone = simfl.run(
            {**plain, "seed": 5}, tmp_path / str(baseline), "inline", baseline=baseline
        )
        assert trial.rounds == len(alone.history) < judged["rounds"]
        for name in ("weights.safetensors", "best.safetensors"):
            assert (trial.out / name).read_bytes() == (alone.out / name).read_bytes()
        summary = json.loads((trial.out / "summary.json").read_text())
        for key in ("best", "stopped_early"):
            assert summary[key] == alone.summary[key]


def own_net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


@pytest.mark.parametrize("is_of_main", [False, True])
def test_trials_have_the_objects_that_the_sweep_was_given(
    is_of_main: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module, or a function of ``__main__``, which trials cannot import."""
    model: Any = nn.Linear(6, 3)
    if is_of_main:
        model = types.FunctionType(own_net.__code__, globals(), "own_net")
        model.__module__, model.__qualname__ = "__main__", "own_net"
        monkeypatch.setattr(sys.modules["__main__"], "own_net", model, raising=False)
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(60, 6)).astype(np.float32), rng.integers(0, 3, 60)
    given: Any = {"model": model, "data": (inputs, targets, np.repeat(np.arange(6), 10))}
    given |= {"algorithm": ServerEMA(beta=0.5)}
    plain = {"rounds": 2, "data": {"source": "digits"}, "model": {"kind": "mlp", "hidden": [4]}}
    plain |= {"client": {"batch_size": 5, "optimizer": {"lrate": 0.1}}, "cluster": {"actors": 1}}
    over = ["client.optimizer.lrate=0.1,0.3"]
    result = simfl.run_sweep(plain, tmp_path / "swept", "inline", over=over, **given)
    assert [trial.state for trial in result.trials] == ["done", "done"], result.failed
    faster = {**plain, "client": {"batch_size": 5, "optimizer": {"lrate": 0.3}}}
    alone = simfl.run(faster, tmp_path / "alone", "inline", **given)
    ours = load_file(result.trials[1].out / "weights.safetensors")
    assert all(ours[name].tobytes() == array.tobytes() for name, array in alone.weights.items())
    monkeypatch.undo()
    with pytest.raises(InputError, match="by a notebook or script, which defines source "):
        simfl.resume_sweep(tmp_path / "swept", "inline")
    with pytest.raises(InputError, match="is done; there is nothing to continue"):
        simfl.resume_sweep(tmp_path / "swept", "inline", **given)
