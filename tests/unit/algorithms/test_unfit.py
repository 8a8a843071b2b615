"""What an algorithm cannot work with, and what it must work with, in whole runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor, nn

import simfl
from simfl.algorithms import Algorithm
from simfl.client import ClientHost
from simfl.errors import ConfigError, ScenarioError
from simfl.messages import Chunk
from simfl.simulation import build

SCENARIO: dict[str, Any] = {
    "rounds": 3,
    "data": {"source": "synthetic", "clients": 4, "features": 4, "classes": 3},
    "model": {"kind": "logistic"},
    "client": {"batch_size": 8, "optimizer": {"lrate": 0.1}},
}


@pytest.mark.parametrize("on_failure", ["raise", "drop"])
@pytest.mark.parametrize("name", ["q-fedavg", "feddc"])
def test_a_learning_rate_of_0_is_no_divisor(name: str, on_failure: str, tmp_path: Path) -> None:
    """That is no failure of a client, which could be dropped: it fails for every one."""
    lrate = ["linear", {"base": 0.1, "length": 2}]
    client = {"stack": 2, "on_failure": on_failure, "optimizer": {"lrate": lrate}}
    with pytest.raises(
        ConfigError, match=rf"'{name}' divides by client.optimizer.lrate, .* round 3"
    ):
        simfl.run({**SCENARIO, "algorithm": name, "client": client}, tmp_path / "out", "inline")


@pytest.mark.parametrize("field", ["fedrep.head", "fedbabu.head", "heterofl.widths"])
def test_an_empty_list_is_refused(field: str) -> None:
    name, _, key = field.partition(".")
    with pytest.raises(ConfigError, match=rf"{key}.* is \[\]|{key}.*at least 1"):
        Algorithm.from_name(name, {key: []})


def test_a_graph_that_does_not_exist_is_one_line() -> None:
    fields = {"nodes": 7, "topology": "random-regular", "degree": 3}
    data = {**SCENARIO["data"], "clients": 7}
    scenario = simfl.load_scenario({**SCENARIO, "data": data, "algorithm": ["gossip", fields]})
    with pytest.raises(ScenarioError, match=r"graph of 7 nodes: n \* d must be even$"):
        build(scenario)


@pytest.mark.parametrize(("algorithm", "notes"), [("fedavg", 1), ("feddf", 0)])
def test_public_examples_that_nothing_uses_are_noted(algorithm: str, notes: int) -> None:
    data = {**SCENARIO["data"], "public": 0.25}
    found = build(simfl.load_scenario({**SCENARIO, "data": data, "algorithm": algorithm})).notes
    assert sum("which algorithm 'fedavg' does not use" in note for note in found) == notes


@pytest.mark.parametrize("stack", [1, 4])
def test_heterofl_leaves_personal_weights_whole(stack: int, tmp_path: Path) -> None:
    """With one width, that of the whole model, it is FedAvg."""
    base = with_personal_biases(stack)
    whole = {**base, "algorithm": ["heterofl", {"widths": [1.0]}]}
    found = simfl.run(whole, tmp_path / "a", "inline")
    expected = simfl.run({**base, "server": {"weighting": "uniform"}}, tmp_path / "b", "inline")
    for name, weights in expected.weights.items():
        np.testing.assert_allclose(found.weights[name], weights, rtol=1e-5, atol=1e-6)


def with_personal_biases(stack: int) -> dict[str, Any]:
    model = {"kind": "mlp", "hidden": [5], "personal": ["output.bias"]}
    return {**SCENARIO, "model": model, "client": {**SCENARIO["client"], "stack": stack}}


class Normed(nn.Module):
    """Has running averages."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.output = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.output(self.norm(inputs))
        return outputs


WITH_NORM: dict[str, Any] = {
    **SCENARIO,
    "model": {"kind": "python", "path": f"{__name__}:Normed"},
    "client": {**SCENARIO["client"], "drop_last": True},
}


@pytest.mark.parametrize("name", ["moon", "mime", "scaffold", "feddyn"])
def test_running_averages_of_the_broadcast_stay_as_they_are(name: str) -> None:
    """Or the next client would start from others, and which is next depends on the actors."""
    simulation = build(simfl.load_scenario({**WITH_NORM, "algorithm": name}))
    broadcast = simulation.server.build().snapshot(2).broadcast
    before = broadcast.weights.clone()
    host = ClientHost(simulation.client, simulation.dataset)
    host.train_chunk(Chunk(2, 0, (0,), 1), broadcast, [None])
    assert {n: t.tolist() for n, t in broadcast.weights.items()} == {
        n: t.tolist() for n, t in before.items()
    }


@pytest.mark.parametrize(
    ("algorithm", "weighting"),
    [(["moon", {"mu": 0.0}], "examples"), (["heterofl", {"widths": [1.0]}], "uniform")],
)
def test_running_averages_are_those_of_fedavg(
    algorithm: Any, weighting: str, tmp_path: Path
) -> None:
    found = simfl.run({**WITH_NORM, "algorithm": algorithm}, tmp_path / "a", "inline")
    fedavg = {**WITH_NORM, "server": {"weighting": weighting}}
    for name, weights in simfl.run(fedavg, tmp_path / "b", "inline").weights.items():
        np.testing.assert_allclose(found.weights[name], weights, rtol=1e-5, atol=1e-6)


class Thinned(nn.Module):
    """Drops numbers at random in training."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.output = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.output(self.drop(inputs))
        return outputs


def test_feddf_takes_teachers_as_they_predict(tmp_path: Path) -> None:
    """With dropout of torch's, which cannot draw for several models at once."""
    changes = {
        "algorithm": ["feddf", {"steps": 3}],
        "data": {**SCENARIO["data"], "public": 0.3},
        "model": {"kind": "python", "path": f"{__name__}:Thinned"},
    }
    result = simfl.run({**SCENARIO, **changes}, tmp_path / "out", "inline")
    assert np.isfinite(result.weights["output.weight"]).all()
