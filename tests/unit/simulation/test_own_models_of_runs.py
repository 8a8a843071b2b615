"""Clients' own models in a run: as plain torch has them, in records and tables, without a trace."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

import simfl
from simfl.client import read_batch
from simfl.errors import ScenarioError
from simfl.models.metrics import Accuracy
from simfl.record import RoundRecord
from simfl.simulation import Simulation, build
from simfl.simulation.evaluation import better_values

CLIENTS = 5


@dataclass(frozen=True)
class Clashing(Accuracy):
    name: ClassVar[str] = "tuned_accuracy"


EVALUATION = {"clients_every": 1, "personal_steps": 2, "new_clients": {"ids": [3]}}


def scenario(**changes: Any) -> dict[str, Any]:
    return {
        "rounds": 1,
        "data": {
            "source": "digits",
            "holdout_fraction": 0.25,
            "partition": {"kind": "dirichlet", "clients": CLIENTS, "alpha": 0.5},
        },
        "model": {"kind": "mlp", "hidden": [8], "personal": ["output"]},
        "client": {"steps": 3, "stack": 1, "optimizer": {"lrate": 0.1}},
        "evaluation": EVALUATION,
    } | changes


def train(module: torch.nn.Module, simulation: Simulation, client: int, steps: int) -> None:
    """Make steps of SGD on all examples that a client trains on."""
    dataset = simulation.dataset
    batch = read_batch(dataset.train, dataset.train_rows(client))
    sgd = torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(steps):
        sgd.zero_grad()
        F.cross_entropy(module(batch.inputs), batch.targets).backward()
        sgd.step()


def losses_by_torch(simulation: Simulation) -> dict[str, list[float]]:
    """Return each client's loss with each model after a round of FedPer, in plain torch."""
    dataset = simulation.dataset
    start = simulation.client.build_model().module.state_dict()
    start = {name: tensor.clone() for name, tensor in start.items()}

    def module(weights: dict[str, torch.Tensor]) -> torch.nn.Module:
        made = simulation.client.build_model().module
        made.load_state_dict(weights)
        return made.train()

    ends: dict[int, dict[str, torch.Tensor]] = {}
    for client in (0, 1, 2, 4):
        trained = module(start)
        train(trained, simulation, client, steps=3)
        ends[client] = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    sizes = {client: len(dataset.train_rows(client)) for client in ends}
    shared = {
        name: sum(sizes[c] * end[name] for c, end in ends.items()) / sum(sizes.values())
        for name in start
        if not name.startswith("output")
    }
    found: dict[str, list[float]] = {"global": [], "personal": [], "tuned": []}
    for client in range(CLIENTS):
        head = {n: t for n, t in ends.get(client, start).items() if n.startswith("output")}
        tuned = module(shared | head)
        train(tuned, simulation, client, steps=2)
        initial = {n: t for n, t in start.items() if n.startswith("output")}
        models = [module(shared | initial), module(shared | head), tuned]
        batch = read_batch(dataset.train, dataset.evaluation_rows(client))
        for name, model in zip(found, models, strict=True):
            with torch.no_grad():
                loss = F.cross_entropy(model.eval()(batch.inputs), batch.targets)
            found[name].append(loss.item())
    return found


def test_the_table_has_each_client_with_each_model_as_torch_has_it(tmp_path: Path) -> None:
    simulation = build(simfl.load_scenario(scenario()))
    expected = losses_by_torch(simulation)
    result = simfl.run(scenario(), out=tmp_path / "out", backend="inline")
    table = pq.read_table(result.out / "evaluations.parquet").to_pandas()
    assert list(table) == ["round", "client", "weight", "model", "new", "loss", "accuracy"]
    assert table.client.tolist() == [0, 1, 2, 3, 4] * 3
    record = result.history[0]
    for model, prefix in (("global", ""), ("personal", "personal_"), ("tuned", "tuned_")):
        rows = table[table.model == model]
        assert rows.loss.tolist() == pytest.approx(expected[model], rel=1e-5)
        others = [expected[model][c] for c in (0, 1, 2, 4)]
        assert record[f"client_{prefix}loss"] == pytest.approx(np.mean(others), rel=1e-5)
        assert record[f"client_{prefix}loss_worst"] == pytest.approx(max(others), rel=1e-5)
        assert record[f"client_{prefix}loss_best"] == pytest.approx(min(others), rel=1e-5)
        assert record[f"client_new_{prefix}loss"] == pytest.approx(expected[model][3], rel=1e-5)
        assert record[f"client_new_{prefix}loss_count"] == 1
    assert record["client_personal_loss"] < record["client_loss"]
    assert record["client_new_personal_loss"] == pytest.approx(record["client_new_loss"])


def test_evaluations_change_nothing_of_the_run(tmp_path: Path) -> None:
    """With kept momentum, dropout, personal weights and batches in an order."""
    base = scenario(
        rounds=3,
        model={"kind": "mlp", "hidden": [8], "dropout": 0.2, "personal": ["output"]},
        client={
            "batch_size": 8,
            "stack": 2,
            "per_round": 3,
            "optimizer": {"lrate": 0.1, "modules": ["momentum"]},
        },
    )

    def run(name: str, **evaluation: Any) -> tuple[Any, ...]:
        changed = base | {"evaluation": {"new_clients": {"ids": [3]}, **evaluation}}
        result = simfl.run(changed, out=tmp_path / name, backend="inline")
        weights = {key: value.tobytes() for key, value in result.weights.items()}
        last = RoundRecord.parse(result.history[-1]).reproducible
        return weights, [record["train_loss"] for record in result.history], last

    every = run("every", clients_every=1, personal_steps=2)
    assert run("last", clients_every=3, personal_steps=2) == every
    assert run("untuned", clients_every=1)[:2] == every[:2]
    assert every[2]["client_tuned_loss"] != every[2]["client_personal_loss"]


def test_what_ranks_runs_is_the_global_models_and_every_key_has_a_side(tmp_path: Path) -> None:
    simulation = build(simfl.load_scenario(scenario()))
    better = better_values(simulation)
    assert next(iter(better)) == "client_accuracy"
    assert (better["client_new_tuned_accuracy"], better["client_personal_loss"]) == ("max", "min")
    result = simfl.run(scenario(), out=tmp_path / "out", backend="inline")
    keys = [key for key in result.history[0] if key.startswith("client_")]
    assert len(keys) == 2 * 6 * 6
    assert {key for key in keys if not key.endswith("_count")} <= better.keys()


def test_a_metric_whose_name_is_another_ones_with_a_model_is_refused() -> None:
    """Only if the scenario has that model."""
    metrics = {"metrics": ["accuracy", "tuned_accuracy"]}
    load_scenario = simfl.load_scenario
    load_scenario(scenario(evaluation={"clients_every": 1, **metrics}))
    with pytest.raises(ScenarioError, match="both give a number the name 'client_tuned_accuracy'"):
        load_scenario(scenario(evaluation=EVALUATION | metrics))
