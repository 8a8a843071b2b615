"""Early stopping and best weights: by rules worked out by hand, and the same after a resume."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import simfl
from simfl.errors import CheckpointError, InputError, ScenarioError
from simfl.record import RoundRecord
from simfl.simulation import build
from simfl.simulation.api import open_run
from simfl.simulation.judging import Rule, Rules, Watch
from simfl.simulation.runner import RunOptions


def watch(values: list[float | str | None], rule: Rule) -> Watch:
    """Judge rounds with these values; "" is a round in which the metric was not measured."""
    judge = Watch(Rules(stop=rule, best=Rule("m", rule.is_max)))
    for round, value in enumerate(values, start=1):
        metrics: Any = {} if value == "" else {"m": value}
        judge.take(RoundRecord(round, clients=1, metrics=metrics))
        if judge.reason is not None:
            break
    return judge


@pytest.mark.parametrize(
    ("values", "rule", "ends", "best"),
    [
        # No better than in round 2, twice.
        ([0.1, 0.5, 0.4, 0.5, 0.9], Rule("m", True, patience=2), 4, 2),
        ([0.9, 0.5, 0.6, 0.4, 0.4, 0.5], Rule("m", False, patience=2), 6, 4),
        # Rounds in which it is not measured do not count; those without a value do.
        ([0.1, "", None, "", 0.1, 0.9], Rule("m", True, patience=2), 5, 1),
        # 0.55 and 0.6 are no more than 0.1 better than 0.5, but better weights.
        ([0.5, 0.55, 0.6, 0.7], Rule("m", True, min_delta=0.1, patience=2), 3, 3),
        ([0.1, 0.5, 0.4], Rule("m", True, target=0.5), 2, 2),
        ([0.9, 0.5, 0.4], Rule("m", False, target=0.45), 3, 3),
        ([0.1, 0.2, 0.3], Rule("m", True, patience=1), None, 3),
        ([None, None], Rule("m", True, patience=2), 2, 0),
    ],
)
def test_a_run_ends_by_patience_or_target(
    values: Any, rule: Rule, ends: int | None, best: int
) -> None:
    judge = watch(values, rule)
    assert (judge.reason is not None) == (ends is not None)
    assert len(judge._standings) - 1 == (ends or len(values))
    assert judge.best_round() == best


def test_going_back_forgets_later_rounds() -> None:
    judge = watch([0.1, 0.5, 0.4, 0.3], Rule("m", True, patience=2))
    judge.go_back(1)
    assert judge.reason is None
    assert judge.best_round() == 1
    judge.take(RoundRecord(2, clients=1, metrics={"m": 0.05}))
    assert judge.best_round() == 1


SCENARIO: dict[str, Any] = {
    "rounds": 12,
    "seed": 2,
    "data": {
        "source": "digits",
        "test_fraction": 0.2,
        "holdout_fraction": 0.2,
        "partition": {"kind": "dirichlet", "clients": 10, "alpha": 0.3},
    },
    "model": {"kind": "mlp", "hidden": [8]},
    "client": {
        "per_round": 3,
        "batch_size": 16,
        "optimizer": {"lrate": 0.1, "modules": ["momentum"]},
    },
    "evaluation": {"every": 1, "clients_every": 4},
    "checkpoint": {"every": 2},
    "output": {"best": "accuracy"},
    "stop": {"patience": 4},
}


def run(out: Path, **changes: Any) -> tuple[simfl.Result, dict[str, Any]]:
    result = simfl.run({**SCENARIO, **changes}, out=out, backend="inline", resume="auto")
    return result, load_file(out / "best.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[simfl.Result, dict[str, Any]]:
    """Its accuracy is best in round 6, so that it ends after round 10."""
    return run(tmp_path_factory.mktemp("whole") / "run")


def are_equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[n], other[n]) for n in one)


def test_the_best_weights_are_those_of_a_run_that_ends_there(
    whole: tuple[simfl.Result, dict[str, Any]], tmp_path: Path
) -> None:
    """And what is evaluated after a last round is evaluated after the one that ends the run."""
    result, best = whole
    accuracies = [record["accuracy"] for record in result.history]
    assert (int(np.argmax(accuracies)) + 1, len(accuracies)) == (6, 10)
    assert "client_accuracy" in result.history[-1]
    assert result.summary["status"] == "done"
    assert result.summary["best"] == {"metric": "accuracy", "round": 6, "value": max(accuracies)}
    assert result.summary["stopped_early"] == (
        "accuracy was measured 4 times in a row without being better than in round 6"
    )
    with pytest.raises(InputError, match="is done"):
        simfl.resume(result.out, backend="inline")
    shorter, _ = run(tmp_path / "run", rounds=6, stop=None)
    assert are_equal(best, shorter.weights)
    module = result.model(best=True)
    assert are_equal({name: t.numpy() for name, t in module.state_dict().items()}, best)
    with pytest.raises(InputError, match=r"no .*best.safetensors; run with output.best: auto"):
        replace(result, out=tmp_path).model(best=True)


def test_a_run_that_is_killed_and_resumed_ends_in_the_same_round_with_the_same_best_weights(
    whole: tuple[simfl.Result, dict[str, Any]], tmp_path: Path
) -> None:
    """Checkpoints are written after every other round: some best rounds are after the last one."""
    expected, best = whole
    scenario = simfl.load_scenario(SCENARIO)
    for killed in (3, 6, 9):
        folder = tmp_path / str(killed)
        with suppress(KeyboardInterrupt), open_run(scenario, folder, RunOptions("inline")) as begun:
            for record in begun.rounds():
                if record["round"] == killed:
                    raise KeyboardInterrupt
        result, again = run(folder)
        assert result.summary.get("resumed_after_round", 0) in (killed - 1, killed - 2)
        assert are_equal(best, again)
        for key in ("best", "stopped_early"):
            assert result.summary[key] == expected.summary[key]
        for one, other in zip(result.history, expected.history, strict=True):
            assert RoundRecord.parse(one).reproducible == RoundRecord.parse(other).reproducible
        # The best of all checkpoints that may be continued from.
        assert [path.name for path in (folder / "best").iterdir()] == ["round-000006.safetensors"]


def test_a_run_goes_on_without_its_rule(
    whole: tuple[simfl.Result, dict[str, Any]], tmp_path: Path
) -> None:
    """The numbers are those of a run that never had one: the extra evaluation goes."""
    folder = tmp_path / "run"
    shutil.copytree(whole[0].out, folder)
    later, _ = run(folder, stop=None)
    never, _ = run(tmp_path / "never", stop=None)
    assert later.summary["resumed_after_round"] == 10
    assert "client_accuracy" not in later.history[9]
    for one, other in zip(later.history, never.history, strict=True):
        assert RoundRecord.parse(one).reproducible == RoundRecord.parse(other).reproducible
    assert later.summary["best"] == never.summary["best"]


def test_best_weights_that_were_deleted_are_missed(
    whole: tuple[simfl.Result, dict[str, Any]], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole[0].out, folder)
    (folder / "best" / "round-000006.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"round-000006.safetensors is missing, .*best: null"):
        run(folder, stop=None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"stop": {"patience": 1, "metric": "acuracy"}},
            r"stop\.metric: is 'acuracy', which the run does not measure. Did you mean 'accuracy'",
        ),
        ({"output": {"best": "f1"}}, r"output\.best: is 'f1', which the run does not measure"),
        ({"stop": {}}, "stop: has neither patience nor target"),
        (
            {"stop": {"target": 0.5, "min_delta": 0.1}},
            r"stop\.min_delta: is 0.1, but goes with pat",
        ),
    ],
)
def test_what_cannot_be_judged_is_found_before_the_run(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ScenarioError, match=message):
        build(simfl.load_scenario({**SCENARIO, **changes}))


def test_a_rule_is_no_number_of_a_round(tmp_path: Path) -> None:
    """Nor in the YAML of a scenario that has none."""
    plain = simfl.load_scenario({**SCENARIO, "stop": None, "output": {}})
    assert plain.fingerprint() == simfl.load_scenario(SCENARIO).fingerprint()
    assert "stop" not in plain.to_dict()
    own = {**SCENARIO, "rounds": 2, "stop": {"metric": "client_loss_worst", "target": 100.0}}
    own["evaluation"] = {"clients_every": 1}
    result = simfl.run({**own, "output": {"best": "auto"}}, out=tmp_path / "a", backend="inline")
    assert len(result.history) == 1
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert summary["stopped_early"] == "client_loss_worst has reached 100"
    assert summary["best"]["metric"] == "accuracy"
