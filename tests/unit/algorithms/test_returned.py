"""What the server's half of an algorithm must return, and where a fault in it is reported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

import simfl
from simfl.algorithms import Algorithm, Local, ServerSide, State, Total, Update
from simfl.algorithms.returned import run_server
from simfl.errors import AggregationError, ConfigError, ScenarioError
from simfl.models import Inputs, ModelFunction
from simfl.simulation import build
from simfl.vector import Vector

WEIGHTS = Vector({"w": torch.zeros(2)})

SCENARIO: dict[str, Any] = {
    "rounds": 2,
    "data": {"source": "synthetic", "clients": 4, "features": 3, "classes": 2},
    "model": {"kind": "logistic"},
    "client": {"batch_size": 4, "optimizer": {"lrate": 0.1}},
}


@dataclass(frozen=True)
class BrokenServer(Algorithm):
    """Returns a gradient that does not fit the weights, or raises."""

    name: ClassVar[str] = "test-broken-server"
    how: str = "raise"

    def server(self, total: Total, state: State, here: ServerSide) -> tuple[Vector, State]:
        if self.how == "name":
            return Vector({"v": torch.zeros(2)}), state
        if self.how == "shape":
            return Vector({"w": torch.zeros(3)}), state
        raise KeyError("h")


HERE = ServerSide(WEIGHTS, population=4, round=3, seed=0)
TOTAL = Total(WEIGHTS, 1.0, 1, {})


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("name", "server.. returns 'v', which is no weight of the server"),
        ("shape", r"server.. returns 'w' of shape \[3\]; the weight's is \[2\]"),
    ],
)
def test_a_gradient_that_does_not_fit_the_weights_is_refused(how: str, says: str) -> None:
    with pytest.raises(ConfigError, match=rf"algorithm 'test-broken-server': {says}"):
        run_server(BrokenServer(how), TOTAL, {}, HERE, weights=WEIGHTS)


def test_an_exception_of_the_servers_half_is_one_line() -> None:
    with pytest.raises(AggregationError) as caught:
        run_server(BrokenServer(), TOTAL, {}, HERE, weights=WEIGHTS)
    where = "algorithm 'test-broken-server': server() fails in round 3"
    assert str(caught.value).startswith(f"{where}: KeyError: 'h' ({__file__}, line ")


@pytest.mark.parametrize("how", ["name", "raise"])
def test_the_servers_half_is_tried_out_before_a_run(how: str) -> None:
    scenario = simfl.load_scenario({**SCENARIO, "algorithm": ["test-broken-server", {"how": how}]})
    with pytest.raises(ScenarioError, match=r"^algorithm: a first step of training") as caught:
        build(scenario)
    assert str(caught.value).count(__file__) == (how == "raise")


@dataclass(frozen=True)
class BrokenEvaluation(Algorithm):
    """Fails where clients are evaluated."""

    name: ClassVar[str] = "test-broken-evaluation"
    how: str = ""

    def personal(self, local: Local) -> Vector:
        return Vector({"v": torch.zeros(2)}) if self.how == "personal" else local.weights

    def outputs(
        self, model: ModelFunction, weights: Vector, received: State, inputs: Inputs
    ) -> Any:
        return (
            model(weights, inputs)[:, :1].sum() if self.how == "outputs" else model(weights, inputs)
        )


@pytest.mark.parametrize(
    ("how", "says"), [("personal", r"unknown \['v'\]"), ("outputs", r"outputs of shape \[\]")]
)
def test_evaluation_is_tried_out_before_a_run(how: str, says: str) -> None:
    written = {**SCENARIO, "algorithm": ["test-broken-evaluation", {"how": how}]}
    with pytest.raises(ScenarioError, match=rf"a first evaluation of a client fails: .*{says}"):
        build(simfl.load_scenario(written))


@dataclass(frozen=True)
class BrokenClient(Algorithm):
    """Returns an update alone."""

    name: ClassVar[str] = "test-broken-client"

    def client(self, local: Local) -> tuple[Update, State]:
        return Update(local.train_delta(local.weights))  # type: ignore[return-value]


def test_what_a_client_must_not_return_is_reported_at_the_algorithm() -> None:
    scenario = simfl.load_scenario({**SCENARIO, "algorithm": "test-broken-client"})
    with pytest.raises(ScenarioError, match=r"^algorithm: .* client\(\) returns Update; it must"):
        build(scenario)
