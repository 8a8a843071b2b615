"""Clients evaluate the round's weights before the cohort is drawn, as the sampler asks them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

import simfl
from simfl.client import read_batch
from simfl.errors import ClientError
from simfl.models import CrossEntropy
from simfl.simulation import Simulation, build

CLIENTS = 8
SAMPLER = ["power-of-choice", {"candidates": CLIENTS, "loss": "current"}]


@dataclass(frozen=True)
class NoNines(CrossEntropy):
    """A loss that fails for clients that have a nine."""

    name: ClassVar[str] = "no-nines"

    def per_example(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if (targets == 9).any():
            raise ValueError("a nine")
        return super().per_example(outputs, targets)


def scenario(**changes: Any) -> dict[str, Any]:
    return {
        "rounds": 1,
        "data": {
            "source": "digits",
            "partition": {"kind": "dirichlet", "clients": CLIENTS, "alpha": 0.3},
        },
        "model": {"kind": "mlp", "hidden": [8]},
        "client": {"per_round": 3, "sampler": SAMPLER, "optimizer": {"lrate": 0.1}},
    } | changes


def run(given: dict[str, Any], out: Path) -> simfl.Result:
    return simfl.run(given, out=out, backend="inline")


def cohort(result: simfl.Result, round: int) -> list[int]:
    table = pq.read_table(result.out / "clients.parquet").to_pandas()
    return sorted(table.client[table["round"] == round].tolist())


def largest_by_torch(simulation: Simulation, weights: dict[str, Any]) -> list[int]:
    """Return the three clients with the largest mean losses over what they train on."""
    module = simulation.client.build_model().module
    module.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    dataset, losses = simulation.dataset, []
    for client in range(CLIENTS):
        batch = read_batch(dataset.train, dataset.train_rows(client))
        losses.append(F.cross_entropy(module(batch.inputs), batch.targets).item())
    return sorted(np.argsort(losses)[-3:].tolist())


def test_the_largest_losses_of_the_rounds_weights_take_part_as_torch_has_them(
    tmp_path: Path,
) -> None:
    """Clients are asked about what they train on, not about their holdouts."""
    data = scenario()["data"] | {"holdout_fraction": 0.5}
    simulation = build(simfl.load_scenario(scenario(data=data)))
    initial = simulation.server.build().get_weights()
    once = run(scenario(data=data), tmp_path / "once")
    twice = run(scenario(data=data, rounds=2), tmp_path / "twice")
    assert cohort(twice, 1) == largest_by_torch(simulation, initial.to_numpy())
    assert cohort(twice, 2) == largest_by_torch(simulation, once.weights)
    assert cohort(twice, 1) != cohort(twice, 2)


def test_the_weights_are_sent_to_each_candidate_once(tmp_path: Path) -> None:
    result = run(scenario(), tmp_path / "out")
    size = sum(array.nbytes for array in result.weights.values())
    assert result.history[0]["sent_bytes"] == CLIENTS * size
    assert result.history[0]["received_bytes"] == 3 * size


def test_clients_are_asked_with_their_personal_weights(tmp_path: Path) -> None:
    """The losses before round 2 are those of the evaluation after round 1."""
    personal = {"kind": "mlp", "hidden": [8], "personal": ["output"]}
    given = scenario(model=personal, evaluation={"clients_every": 1}, rounds=2)
    result = run(given, tmp_path / "out")
    table = pq.read_table(result.out / "evaluations.parquet").to_pandas()
    after = table[(table["round"] == 1) & (table.model == "personal")]
    largest = sorted(after.client.to_numpy()[np.argsort(after.loss.to_numpy())[-3:]].tolist())
    assert cohort(result, 2) == largest
    common = table[(table["round"] == 1) & (table.model == "global")]
    assert sorted(np.argsort(common.loss.to_numpy())[-3:].tolist()) != largest


def test_a_client_that_fails_when_it_is_asked_is_chosen_last_or_ends_the_run(
    tmp_path: Path,
) -> None:
    model = {"kind": "mlp", "hidden": [8], "loss": "no-nines"}
    data = {"source": "digits", "partition": {"kind": "shards", "clients": CLIENTS}}
    client = scenario()["client"] | {"on_failure": "drop", "per_round": 6, "stack": 1}
    given = scenario(model=model, data=data, client=client)
    dataset = build(simfl.load_scenario(given)).dataset
    failing = [
        c for c in range(CLIENTS) if (dataset.train.targets[dataset.train_rows(c)] == 9).any()
    ]
    assert 0 < len(failing) <= 2
    result = run(given, tmp_path / "drop")
    assert not {*failing} & {*cohort(result, 1)}
    assert result.history[0]["dropped"] == 0
    given["client"] |= {"on_failure": "raise"}
    with pytest.raises(ClientError, match=rf"client {failing[0]} failed in its eval.*: a nine"):
        run(given, tmp_path / "raise")
