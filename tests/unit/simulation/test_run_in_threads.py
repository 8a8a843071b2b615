"""A run in one process trains in several threads, and its numbers are those of one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import simfl
from simfl.errors import ClientError
from simfl.record import RoundRecord

SCENARIO: dict[str, Any] = {
    "rounds": 3,
    "data": {
        "source": "digits",
        "test_fraction": 0.2,
        "partition": {"kind": "dirichlet", "clients": 20, "alpha": 0.5},
    },
    "model": {"kind": "mlp", "hidden": [8], "dropout": 0.2},
    "client": {"per_round": 17, "stack": 1, "optimizer": {"lrate": 0.1}},
    "evaluation": {"batch_size": 50},
    "cluster": {"state_memory": 1},
}

KEPT = {
    "client": {
        "steps": ["stragglers", {"share": 0.5, "full": 5, "drop": True}],
        "optimizer": {"lrate": 0.1, "modules": ["scaffold-client", "momentum"]},
    },
    "server": {"optimizer": {"modules": ["scaffold-server"]}},
    "evaluation": {"clients_every": 1, "personal_steps": 1},
    "cluster": {
        "groups": [
            {"name": "stacks", "clients": {"fraction": 0.5}, "stack": 2},
            {"name": "rest"},
        ]
    },
}


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {**base, **{k: {**base.get(k, {}), **v} for k, v in changes.items()}}


def numbers(result: simfl.Result) -> tuple[Any, ...]:
    records = [RoundRecord.parse(record).reproducible for record in result.history]
    return {name: array.tobytes() for name, array in result.weights.items()}, records


def actors(result: simfl.Result) -> int:
    return max(record["actors"] for record in result.history)


@pytest.mark.parametrize("changes", [{}, KEPT, {"cluster": {"chunk_size": 3}}])
def test_bits_are_those_of_one_thread(
    changes: dict[str, Any], tmp_path: Path, in_threads: Callable[[int], None]
) -> None:
    """Also with kept states on disk, clients that are dropped, groups, and stacks."""
    results = {}
    for number in (1, 2, 3):
        in_threads(number)
        out = tmp_path / str(number)
        results[number] = simfl.run(merged(SCENARIO, changes), out=out, backend="inline")
    assert {number: actors(result) for number, result in results.items()} == {1: 1, 2: 2, 3: 3}
    assert numbers(results[2]) == numbers(results[1])
    assert numbers(results[3]) == numbers(results[1])


class Sensor(nn.Module):
    """Returns logits, and does something else with inputs that are marked."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        if (inputs[:, 0] > 50).any():
            inputs = self.read(inputs)
        logits: Tensor = self.layer(inputs.clamp(max=1))
        return logits

    def read(self, inputs: Tensor) -> Tensor:
        raise NotImplementedError


class Noisy(Sensor):
    def read(self, inputs: Tensor) -> Tensor:
        return inputs + torch.randn(inputs.shape)


class Broken(Sensor):
    def read(self, inputs: Tensor) -> Tensor:
        raise ValueError("broken sensor")


def run_sensors(model: type[Sensor], out: Path, *marked: int, **client: Any) -> simfl.Result:
    """Run a scenario with 12 clients of 4 examples, all of which train in each round."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(48, 4, generator=generator)
    owners = torch.arange(48) // 4
    inputs[torch.isin(owners, torch.tensor(marked)), 0] = 99.0
    scenario = {
        "rounds": 2,
        "data": {"test_fraction": 0.0},
        "client": {"per_round": 12, "batch_size": 2, "optimizer": {"lrate": 0.1}, **client},
    }
    data = inputs.numpy(), (torch.arange(48) % 2).numpy(), owners.numpy()
    return simfl.run(scenario, out=out, backend="inline", model=model, data=data)


def test_a_model_that_draws_from_torchs_generator_is_trained_in_one_thread(
    tmp_path: Path, in_threads: Callable[[int], None]
) -> None:
    """The first clients do not, so that threads begin, and find out."""
    in_threads(1)
    expected = run_sensors(Noisy, tmp_path / "one", 7, 8, 11)
    in_threads(3)
    found = run_sensors(Noisy, tmp_path / "three", 7, 8, 11)
    assert [record["actors"] for record in found.history] == [3, 1]
    assert numbers(found) == numbers(expected)
    assert numbers(run_sensors(Noisy, tmp_path / "silent")) != numbers(expected)


class Seeing(Sensor):
    """Calls its layers in another way than simfl does, which pools before ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(
            nn.Unflatten(1, (1, 2, 2)),
            nn.Conv2d(1, 3, 1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(3, 2),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.layer(inputs)
        return logits


def test_a_model_that_is_computed_in_another_way_is_so_in_each_thread(
    tmp_path: Path, in_threads: Callable[[int], None]
) -> None:
    in_threads(1)
    expected = run_sensors(Seeing, tmp_path / "one")
    in_threads(3)
    found = run_sensors(Seeing, tmp_path / "three")
    assert [record["actors"] for record in found.history] == [3, 3]
    assert numbers(found) == numbers(expected)


def test_an_error_in_a_thread_is_that_of_one_process(
    tmp_path: Path, in_threads: Callable[[int], None]
) -> None:
    in_threads(3)
    with pytest.raises(ClientError, match=r"^client 9 failed in round 1: ValueError: broken") as e:
        run_sensors(Broken, tmp_path / "raised", 9)
    assert 'raise ValueError("broken sensor")' in (e.value.client_traceback or "")
    dropped = run_sensors(Broken, tmp_path / "three", 7, 9, on_failure="drop")
    assert dropped.history[0]["actors"] == 3
    in_threads(1)
    assert numbers(run_sensors(Broken, tmp_path / "one", 7, 9, on_failure="drop")) == numbers(
        dropped
    )
