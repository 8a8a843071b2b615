"""Centralized training against plain torch on the same batches of all clients' examples."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import simfl
from simfl.algorithms import Centralized
from simfl.client import LocalWork
from simfl.data import Examples
from simfl.errors import ScenarioError
from simfl.simulation import build
from tests.unit.algorithms.federation import Federation, Net64, three_classes

CLIENTS = three_classes()
X = np.concatenate([x for x, _ in CLIENTS]).astype(np.float32)
Y = np.concatenate([y for _, y in CLIENTS])
LRATE = 0.2


class Normed64(nn.Module):
    """A linear layer of normalized inputs, in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4).double()
        self.layer = nn.Linear(4, 3).double()

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layer(self.norm(inputs.double()))
        return outputs


@pytest.mark.parametrize("module", [Net64(), Normed64()], ids=["net", "batch norm"])
def test_it_is_sgd_on_the_examples_of_all_clients(module: nn.Module) -> None:
    made = Federation(
        Centralized(),
        CLIENTS,
        copy.deepcopy(module),
        loss="cross-entropy",
        lrate=LRATE,
        public=Examples(X, Y),
        epochs=2,
        batch_size=5,
    )
    net = copy.deepcopy(module)
    optimizer = torch.optim.SGD(net.parameters(), lr=LRATE)
    for round in (1, 2, 3):
        work = LocalWork(epochs=2, batch_size=5)
        for rows in work.draw_batches(np.arange(len(X)), seed=0, round=round, client=0):
            optimizer.zero_grad()
            cross_entropy(net(torch.from_numpy(X[rows])), torch.from_numpy(Y[rows])).backward()
            optimizer.step()
        made.run(cohort=[1])  # whoever takes part
        for name, tensor in net.state_dict().items():
            torch.testing.assert_close(made.weights[name], tensor, rtol=0, atol=1e-10)


SCENARIO: dict[str, Any] = {
    "rounds": 2,
    "data": {
        "source": "digits",
        "test_fraction": 0.2,
        "holdout_fraction": 0.3,
        "partition": {"kind": "shards", "clients": 10, "shards_per_client": 2},
    },
    "model": {"kind": "logistic"},
    "algorithm": "centralized",
    "client": {"per_round": 1, "batch_size": 50, "optimizer": {"lrate": 0.1}},
}


def test_the_server_has_what_clients_train_on_and_nothing_that_is_evaluated() -> None:
    new = {"clients_every": 1, "new_clients": {"ids": [3]}}
    simulation = build(simfl.load_scenario({**SCENARIO, "evaluation": new}))
    data, public = simulation.dataset, simulation.server.public
    assert public is not None
    rows = [data.train_rows(client) for client in range(10) if client != 3]
    assert len(public.examples) == sum(map(len, rows)) < 0.7 * len(data.train)
    inputs: Any = data.train.inputs
    np.testing.assert_array_equal(public.examples.inputs, inputs[np.concatenate(rows)])
    np.testing.assert_array_equal(public.examples.targets, data.train.targets[np.concatenate(rows)])


@pytest.mark.parametrize("key", [{"data.public": 0.1}, {"model.personal": ["output"]}], ids=str)
def test_what_has_no_effect_is_refused(key: dict[str, Any]) -> None:
    ((name, value),) = key.items()
    section, field = name.split(".")
    changed = {**SCENARIO, section: {**SCENARIO[section], field: value}}
    with pytest.raises(ScenarioError, match=f"{name}: has no effect: algorithm 'centralized'"):
        simfl.load_scenario(changed)


def test_clients_that_do_nothing_have_no_loss(tmp_path: Path) -> None:
    result = simfl.run(simfl.load_scenario(SCENARIO), out=tmp_path / "out", backend="inline")
    assert [record["train_loss"] for record in result.history] == [None, None]
    assert result.history[-1]["loss"] < result.history[0]["loss"]
