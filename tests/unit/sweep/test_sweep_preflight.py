"""Which metric ranks trials by default, and errors that appear only with the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from simfl.errors import InputError, ScenarioError
from simfl.models import Accuracy
from simfl.scenario.sweeps import load_sweep
from simfl.simulation import build
from simfl.simulation.evaluation import better_values
from simfl.sweep.preflight import goal_of, prepare
from simfl.sweep.results import Goal


@dataclass(frozen=True)
class Wrong(Accuracy):
    """The share of wrong predictions would be the better the smaller."""

    name: ClassVar[str] = "wrong-of-a-test"
    larger_is_better: ClassVar[bool] = False


def goal(**changes: Any) -> Goal:
    scenario = {
        "rounds": 1,
        "data": {"source": "digits", "partition": {"kind": "iid", "clients": 4}},
        "model": {"kind": "logistic"},
        "client": {"optimizer": {"lrate": 0.1}},
        "sweep": {"over": {"seed": "0..1"}},
    }
    plan = load_sweep(scenario | changes)
    return goal_of(plan, [better_values(build(plan.scenario({})))])


SPLIT = {"source": "digits", "test_fraction": 0.2, "partition": {"kind": "iid", "clients": 4}}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"data": SPLIT}, Goal("accuracy", "max")),
        ({"data": SPLIT, "evaluation": {"clients_every": 1}}, Goal("accuracy", "max")),
        ({"data": SPLIT, "evaluation": {"metrics": []}}, Goal("loss", "min")),
        ({"evaluation": {"clients_every": 1}}, Goal("client_accuracy", "max")),
        (
            {"data": SPLIT, "evaluation": {"every": 0, "clients_every": 1}},
            Goal("client_accuracy", "max"),
        ),
        (
            {"evaluation": {"clients_every": 1, "metrics": ["wrong-of-a-test", "accuracy"]}},
            Goal("client_wrong-of-a-test", "min"),
        ),
        ({}, Goal("train_loss", "min")),
    ],
)
def test_the_first_metric_of_the_test_split_or_else_of_the_clients_counts(
    changes: dict[str, Any], expected: Goal
) -> None:
    assert goal(**changes) == expected


def test_baselines_without_personal_models_come_last_in_a_ranking_by_these() -> None:
    scenario = {
        "rounds": 1,
        "data": {"source": "digits", "partition": {"kind": "iid", "clients": 4}},
        "model": {"kind": "logistic"},
        "client": {"optimizer": {"lrate": 0.1}},
        "evaluation": {"clients_every": 1},
    }
    metric = "client_personal_accuracy"
    sweep = {"over": {"algorithm": ["fedavg", "ditto"]}, "metric": metric}
    plan = load_sweep(scenario | {"sweep": sweep})
    measured = [better_values(build(plan.scenario(values))) for values in plan.tried]
    assert goal_of(plan, measured) == Goal(metric, "max")
    early = load_sweep(scenario | {"sweep": sweep | {"asha": {}}})
    with pytest.raises(ScenarioError, match=f"{metric}.*one of the trials does not measure"):
        goal_of(early, measured)


def test_the_mean_over_examples_can_be_asked_for() -> None:
    sweep = {"over": {"seed": "0..1"}, "metric": "client_accuracy_by_examples"}
    asked = {"evaluation": {"clients_every": 1}, "sweep": sweep}
    assert goal(**asked) == Goal("client_accuracy_by_examples", "max")


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        (
            {"model.loss": "bce-with-logits"},
            "model.loss: bce-with-logits: targets are integers up to 9",
        ),
        ({"data.partition.clients": 2000}, "data.partition.clients is 2000, but there are 1797"),
    ],
)
def test_what_only_shows_with_the_data_names_the_trial(values: dict[str, Any], fault: str) -> None:
    scenario = {
        "rounds": 1,
        "data": {"source": "digits", "partition": {"kind": "iid", "clients": 4}},
        "model": {"kind": "logistic"},
        "client": {"optimizer": {"lrate": 0.1}},
        "sweep": {"cases": {"theirs": values}, "over": {"seed": [3]}},
    }
    plan = load_sweep(scenario)
    with pytest.raises(InputError, match=rf"^{fault}.* \(in trial label=theirs,seed=3\)$"):
        prepare(plan, [plan.scenario(values) for values in plan.tried], backend="inline")
