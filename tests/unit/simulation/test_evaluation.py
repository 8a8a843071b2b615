"""Evaluation of every client: each as it is alone, and the same bits wherever it is done."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn import metrics as sk
from torch.nn import functional as F  # noqa: N812

import simfl
from simfl.client import ClientHost, read_batch
from simfl.engine import InlineEngine
from simfl.errors import ScenarioError
from simfl.messages import EvaluationChunk, Snapshot
from simfl.models.model import MetricSums
from simfl.observers import ClientEvaluation
from simfl.record import ClientMetric
from simfl.report.client_tables import read_evaluations
from simfl.simulation import Simulation, build
from simfl.simulation.evaluation import better_values, evaluate
from simfl.simulation.metric_values import over_clients

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
        self._each = hosts
        self.batches: list[int] = []
        for host in hosts:
            host._model.module.register_forward_hook(
                lambda _, inputs, outputs: self.batches.append(len(outputs))
            )

    def evaluate(self, chunk: EvaluationChunk, handle: Snapshot) -> list[MetricSums]:
        size = -(-len(chunk.items) // len(self._each))
        return [
            sums
            for index, host in enumerate(self._each)
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


METRICS: list[Any] = [
    "f1",
    ["recall", {"average": "none"}],
    "confusion",
    "auc",
    "accuracy",
    "balanced-accuracy",
]


def test_metrics_that_are_no_means_are_those_of_scikit_learn_of_each_client_and_of_all() -> None:
    """Over all clients they follow from the sums, and clients' means do not."""
    scenario = {**SCENARIO, "evaluation": {**SCENARIO["evaluation"], "metrics": METRICS}}
    simulation = build(simfl.load_scenario(scenario))
    engine = Shares(simulation, 3)
    done = evaluate(simulation, engine, engine.start(), round=1)
    (clients,) = done.clients
    module, dataset = simulation.server.build_model().module.eval(), simulation.dataset
    batches = [read_batch(dataset.train, dataset.evaluation_rows(c)) for c in range(40)]
    with torch.no_grad():
        outputs = [module(batch.inputs).double() for batch in batches]
    for client, (batch, logits) in enumerate(zip(batches, outputs, strict=True)):
        predicted = logits.argmax(1)
        f1 = sk.f1_score(batch.targets, predicted, average="macro", zero_division=0)
        assert clients.metrics["f1"][client] == pytest.approx(f1, rel=1e-9)
        matrix = sk.confusion_matrix(batch.targets, predicted, labels=range(10))
        assert clients.arrays["confusion"][client].tolist() == matrix.tolist()
        has_area = len(batch.targets.unique()) > 1
        assert (clients.weights["auc"][client] > 0) == has_area
    targets, logits = torch.cat([b.targets for b in batches]), torch.cat(outputs)
    over = done.client_metrics
    f1 = sk.f1_score(targets, logits.argmax(1), average="macro")
    assert over["f1"].by_examples == pytest.approx(f1, rel=1e-9)
    assert over["f1"].by_examples != pytest.approx(over["f1"].mean, rel=1e-3)
    # Outputs are float32, on whose last bits the order of scores may depend.
    area = sk.roc_auc_score(targets, logits.softmax(1), multi_class="ovr")
    assert over["auc"].by_examples == pytest.approx(area, rel=1e-6)
    matrix = sk.confusion_matrix(targets, logits.argmax(1))
    assert done.arrays["client_confusion"] == matrix.tolist()
    recalls = sk.recall_score(targets, logits.argmax(1), average=None)
    assert done.arrays["client_recall-by-class"] == pytest.approx(recalls.tolist())
    assert set(done.arrays) == {
        *("confusion", "recall-by-class", "client_confusion", "client_recall-by-class")
    }
    assert next(iter(better_values(simulation))) == "f1"
    assert "confusion" not in better_values(simulation)


def test_matrices_are_in_the_files_of_a_run_and_no_number_of_a_summary(tmp_path: Path) -> None:
    evaluation = {"metrics": METRICS, "clients_every": 1}
    scenario = {**SCENARIO, "rounds": 2, "evaluation": evaluation}
    result = simfl.run(scenario, out=tmp_path / "run", backend="inline")
    last = result.history[-1]
    assert np.shape(last["confusion"]) == (10, 10)
    assert (
        np.sum(last["client_confusion"])
        == pq.read_table(tmp_path / "run" / "evaluations.parquet", filters=[("round", "=", 2)])[
            "weight"
        ]
        .to_numpy()
        .sum()
    )
    assert "confusion" not in result.summary["final"]
    table = pq.read_table(tmp_path / "run" / "evaluations.parquet")
    sums = np.sum(table["confusion"].to_pylist(), axis=1)
    assert sums.tolist() == table["weight"].to_pylist()
    faults: list[str] = []
    assert "f1" in read_evaluations(tmp_path / "run", faults)
    assert faults == []
    halves = {**scenario, "checkpoint": {"every": 1}}
    simfl.run({**halves, "rounds": 1}, out=tmp_path / "halves", backend="inline")
    resumed = simfl.run(halves, out=tmp_path / "halves", backend="inline", resume="auto")
    assert resumed.summary["resumed_after_round"] == 1
    assert resumed.history[-1]["client_confusion"] == last["client_confusion"]
    assert "confusion" in resumed.history[0]


def test_a_metric_that_does_not_fit_the_targets_is_found_before_the_run() -> None:
    metric = ["f1", {"label": 12}]
    scenario = {**SCENARIO, "evaluation": {"metrics": [metric]}}
    with pytest.raises(
        ScenarioError, match=r"evaluation\.metrics: f1: label is 12, but there are 10"
    ):
        build(simfl.load_scenario(scenario))


def test_the_global_training_loss_is_torchs_over_all_that_clients_train_on() -> None:
    """Without the examples that they hold out, and those of clients that never train."""
    evaluation = {"train_loss": True, "clients_every": 1, "new_clients": {"ids": [3, 4]}}
    simulation = build(simfl.load_scenario({**SCENARIO, "evaluation": evaluation}))
    host = ClientHost(simulation.client, simulation.dataset)
    engine = InlineEngine(simulation.server.build(), [host])
    found = evaluate(simulation, engine, engine.start(), round=1).metrics["global_train_loss"]
    dataset = simulation.dataset
    rows = np.concatenate([dataset.train_rows(c) for c in range(40) if c not in (3, 4)])
    batch = read_batch(dataset.train, rows)
    with torch.no_grad():
        outputs = simulation.server.build_model().module.eval()(batch.inputs)
    expected = F.cross_entropy(outputs.double(), batch.targets).item()
    assert found == pytest.approx(expected, rel=1e-6)  # outputs are float32
    assert next(iter(better_values(simulation))) == "accuracy"
    assert better_values(simulation)["global_train_loss"] == "min"


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
