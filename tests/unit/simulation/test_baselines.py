"""Scenarios as their own baselines, against loops in plain torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import simfl
from simfl.client import LocalWork
from simfl.errors import InputError, ScenarioError
from simfl.record import RoundRecord
from simfl.scenario import baseline_of

SIZES = (9, 4, 17, 12, 5)
SEED, BATCH = 3, 4

SCENARIO: dict[str, Any] = {
    "name": "mine",
    "rounds": 4,
    "seed": SEED,
    "data": {"source": "digits"},
    "model": {"kind": "logistic"},
    "algorithm": "fedavg",
    "client": {
        "per_round": 3,
        "epochs": 2,
        "batch_size": BATCH,
        "optimizer": {
            "lrate": 0.2,
            "w_decay": 0.01,
            "regularizers": ["fedprox"],
            "modules": ["scaffold-client"],
        },
        "transforms": [["top-k", {"fraction": 0.5}]],
        "keep_state": True,
    },
    "server": {
        "optimizer": {"lrate": 0.5, "modules": ["scaffold-server"]},
        "aggregator": "median",
        "weighting": "uniform",
    },
    "checkpoint": {"every": 2},
}


def examples() -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(0)
    clients = np.repeat(np.arange(len(SIZES)), SIZES)
    inputs = rng.normal(size=(len(clients), 6)).astype(np.float32)
    return inputs, rng.integers(0, 3, len(clients)), clients


X, Y, CLIENTS = examples()


def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Linear(6, 3)


def run(out: Path, baseline: Any, **changes: Any) -> simfl.Result:
    scenario = {**SCENARIO, **changes}
    given: Any = {"model": net, "data": (X, Y, CLIENTS)}
    return simfl.run(scenario, out=out, backend="inline", resume="auto", baseline=baseline, **given)


def sgd(module: nn.Module, rows: Any, optimizer: torch.optim.Optimizer) -> None:
    inputs, targets = torch.from_numpy(X[rows]), torch.from_numpy(Y[rows])
    optimizer.zero_grad()
    cross_entropy(module(inputs), targets).backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def decayed(module: nn.Module) -> torch.optim.Optimizer:
    """w - lr (g + decay w)."""
    return torch.optim.SGD(module.parameters(), lr=0.2, weight_decay=0.01)


def test_centralized_is_sgd_on_all_examples_for_as_many_steps(tmp_path: Path) -> None:
    """Of the federation's, round by round; its algorithm, server and transforms play no part."""
    federated = run(tmp_path / "federated", None)
    module = net()
    optimizer = decayed(module)
    for record in federated.history:
        work = LocalWork(steps=record["steps"], batch_size=BATCH)
        rows = np.arange(len(X))
        for batch in work.draw_batches(rows, seed=SEED, round=record["round"], client=0):
            sgd(module, batch, optimizer)
    result = run(tmp_path / "centralized", "centralized")
    for name, tensor in module.state_dict().items():
        np.testing.assert_allclose(result.weights[name], tensor.numpy(), rtol=0, atol=2e-6)


def test_local_is_each_client_trained_alone(tmp_path: Path) -> None:
    """In the rounds in which the federation has it train, from the same initial weights."""
    federated = run(tmp_path / "federated", None)
    taking_part = federated.clients()
    alone = {client: net() for client in range(len(SIZES))}
    optimizers = {client: decayed(module) for client, module in alone.items()}
    for round, client in zip(taking_part["round"], taking_part["client"], strict=True):
        work = LocalWork(epochs=2, batch_size=BATCH)
        rows = np.flatnonzero(client == CLIENTS)
        for batch in work.draw_batches(rows, seed=SEED, round=round, client=client):
            sgd(alone[client], batch, optimizers[client])
    result = run(tmp_path / "local", "local")
    with torch.no_grad():
        losses = [_loss(module, client) for client, module in alone.items()]
    assert result.history[-1]["client_personal_loss"] == pytest.approx(np.mean(losses), abs=1e-6)
    assert result.history[-1]["client_personal_loss_worst"] == pytest.approx(max(losses), abs=1e-6)
    steps = [[line["steps"] for line in each.history] for each in (federated, result)]
    assert steps[0] == steps[1]


def _loss(module: nn.Module, client: int) -> float:
    own = client == CLIENTS
    loss: Tensor = cross_entropy(module(torch.from_numpy(X[own])), torch.from_numpy(Y[own]))
    return float(loss)


@pytest.mark.parametrize("baseline", ["centralized", "local"])
def test_a_baseline_is_a_run_that_says_so_and_can_be_resumed(baseline: Any, tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", baseline)
    run(tmp_path / "parts", baseline, rounds=2)
    parts = run(tmp_path / "parts", baseline)
    assert parts.summary["resumed_after_round"] == 2
    for one, other in zip(whole.history, parts.history, strict=True):
        assert RoundRecord.parse(one).reproducible == RoundRecord.parse(other).reproducible
    assert all(np.array_equal(whole.weights[n], parts.weights[n]) for n in whole.weights)
    text = (tmp_path / "whole" / "scenario.yaml").read_text()
    assert f"name: mine-{baseline}\nlabel: {baseline}\n" in text


SHARDS = {"kind": "shards", "clients": 8, "shards_per_client": 2}
DIGITS = {"source": "digits", "partition": SHARDS, "test_fraction": 0.2, "public": 0.1}


def test_what_is_left_out_and_what_follows_is_in_the_scenario() -> None:
    """It loads again as it is. Metrics of the test split become the clients' own."""
    scenario = simfl.load_scenario(
        SCENARIO
        | {
            "data": DIGITS,
            "algorithm": "feddf",
            "server": {},
            "model": {"kind": "mlp", "personal": ["output"]},
            "client": {"keep_state": True, "optimizer": {"lrate": 0.1, "modules": ["momentum"]}},
            "stop": {"metric": "accuracy", "patience": 3},
            "output": {"best": "client_accuracy_worst"},
            "evaluation": {"clients_every": 2, "train_loss": True},
        }
    )
    for baseline in ("centralized", "local"):
        made = baseline_of(scenario, baseline)  # type: ignore[arg-type]
        assert simfl.load_scenario(made.to_dict()) == made
        assert (made.data.public, made.model.personal) == (None, ())
        assert [module.name for module in made.client.optimizer.modules] == ["momentum"]
    assert made.stop is not None
    assert (made.stop.metric, made.output.best) == (
        "client_personal_accuracy",
        "client_personal_accuracy_worst",
    )
    assert (made.evaluation.every, made.evaluation.clients_every) == (0, 2)


def test_what_cannot_be_a_baseline_is_refused() -> None:
    scenario = simfl.load_scenario({**SCENARIO, "data": {**DIGITS, "public": None}})
    with pytest.raises(InputError, match=r"'centralised'; .* Did you mean 'centralized'\?"):
        baseline_of(scenario, "centralised")  # type: ignore[arg-type]
    judged = simfl.load_scenario(
        scenario.to_dict() | {"stop": {"metric": "train_loss", "target": 1}}
    )
    with pytest.raises(ScenarioError, match=r"stop\.metric: is 'train_loss', but .* take global_"):
        baseline_of(judged, "centralized")
