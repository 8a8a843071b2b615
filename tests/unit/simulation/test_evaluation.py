"""Evaluation of every client: each as it is alone, and the same bits wherever it is done."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

import simfl
from simfl.client import ClientHost, read_batch
from simfl.engine import InlineEngine
from simfl.messages import EvaluationChunk, Snapshot
from simfl.models.model import MetricSums
from simfl.observers import ClientEvaluation
from simfl.record import ClientMetric
from simfl.simulation import Simulation, build
from simfl.simulation.evaluation import evaluate, over_clients

SCENARIO: dict[str, Any] = {
    "rounds": 1,
    "data": {
        "source": "digits",
        "test_fraction": 0.2,
        "holdout_fraction": 0.2,
        "partition": {"kind": "dirichlet", "clients": 40, "alpha": 0.3},
    },
    "model": {"kind": "mlp", "hidden": [16]},
    "client": {"optimizer": {"lrate": 0.1}},
    "evaluation": {"clients_every": 1, "batch_size": 15},
}


class Shares(InlineEngine):
    """Evaluates as so many actors would: contiguous shares of the items, on a host for each."""

    def __init__(self, simulation: Simulation, num_shares: int) -> None:
        hosts = [ClientHost(simulation.client, simulation.dataset) for _ in range(num_shares)]
        super().__init__(simulation.server.build(), hosts)
        self.batches: list[int] = []
        for host in hosts:
            host._model.module.register_forward_hook(
                lambda _, inputs, outputs: self.batches.append(len(outputs))
            )

    def evaluate(self, chunk: EvaluationChunk, handle: Snapshot) -> list[MetricSums]:
        size = -(-len(chunk.items) // len(self._hosts))
        return [
            sums
            for index, host in enumerate(self._hosts)
            for sums in host.evaluate_chunk(
                replace(chunk, items=chunk.items[index * size : (index + 1) * size]),
                handle.broadcast,
            )
        ]


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    return build(simfl.load_scenario(SCENARIO))


def evaluated(simulation: Simulation, num_shares: int) -> tuple[Any, ...]:
    engine = Shares(simulation, num_shares)
    result = evaluate(simulation, engine, engine.start(), round=1)
    (clients,) = result.clients
    columns = {name: column.tobytes() for name, column in clients.metrics.items()}
    return result.metrics, columns, clients.weight.tobytes(), engine.batches


@pytest.mark.parametrize("num_shares", [2, 3, 7])
def test_the_distribution_of_items_changes_no_bit(simulation: Simulation, num_shares: int) -> None:
    """Nor what is in a batch, on which an example's last bits may depend with other kernels."""
    assert evaluated(simulation, num_shares) == evaluated(simulation, 1)


def test_the_metrics_of_each_client_are_torchs_on_that_client_alone(simulation: Simulation) -> None:
    """Some clients share a batch of 15, and some take several."""
    dataset = simulation.dataset
    sizes = [len(dataset.evaluation_rows(client)) for client in range(40)]
    assert min(sizes) < 5
    assert max(sizes) > 15
    assert dataset.num_evaluation_examples().tolist() == sizes
    engine = Shares(simulation, 1)
    (clients,) = evaluate(simulation, engine, engine.start(), round=1).clients
    assert clients.weight.tolist() == sizes
    module = simulation.server.build_model().module.eval()
    for client in range(40):
        batch = read_batch(dataset.train, dataset.evaluation_rows(client))
        with torch.no_grad():
            outputs = module(batch.inputs)
        loss = F.cross_entropy(outputs.double(), batch.targets).item()
        accuracy = (outputs.argmax(dim=1) == batch.targets).double().mean().item()
        # Outputs are float32: matrix products of other sizes round differently.
        assert clients.metrics["loss"][client] == pytest.approx(loss, rel=1e-6)
        assert clients.metrics["accuracy"][client] == pytest.approx(accuracy, rel=1e-12)


def table_of(values: list[float], weights: list[float]) -> ClientEvaluation:
    ids = np.arange(len(values))
    return ClientEvaluation(ids, {"m": np.array(weights)}, {"m": np.array(values)})


def test_clients_without_a_value_are_excluded_from_means() -> None:
    """Of 1, 2 and 6: mean 3, variance (4 + 1 + 9) / 3; by weight (1 + 4 + 30) / 8."""
    nothing = math.nan
    found = over_clients(
        table_of([nothing, 2.0, nothing, 1.0, 6.0], [0, 2, 0, 1, 5]), ascending=["m"]
    )
    assert found == {
        "m": ClientMetric(
            mean=3.0,
            by_examples=35 / 8,
            std=pytest.approx(math.sqrt(14 / 3)),
            worst=1.0,
            best=6.0,
            count=3,
        )
    }


def test_without_any_value_there_is_no_mean() -> None:
    found = over_clients(table_of([math.nan, math.nan], [0, 0]), ascending=[])
    assert found == {"m": ClientMetric(count=0)}


@pytest.mark.parametrize("value", [math.inf, math.nan, 1e308])
def test_a_value_that_is_not_finite_makes_the_mean_null(value: float) -> None:
    """A mean over the others would hide it. 1e308 has no finite variance, and three no sum."""
    found = over_clients(table_of([value] * 3 + [0.0], [1, 1, 1, 1]), ascending=["m"])
    assert found["m"].count == 4
    assert found["m"].std is None
    assert found["m"].mean is None
    assert found["m"].by_examples is None
