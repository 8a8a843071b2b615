"""A loop of one's own on Ray has the bits of a run, even if processes die."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
from test_same_bits import ALGORITHMS, BASE, merged, numbers, with_a_kill

import simfl

pytestmark = pytest.mark.ray

KEPT = "stacks with scaffold, and top-k whose residuals are on disk"


def loop(scenario: dict[str, Any], out: Path, backend: Any, **how: Any) -> Any:
    """Do what a run does; return the numbers, and each client's last delta, by id."""
    with simfl.federation(scenario, backend, out=out, **how) as fed:
        _, weights, _ = fed.restore()
        for round in fed.rounds:
            total = fed.train(weights, fed.sample(round), round=round)
            if backend == "ray" and round == 3:  # the next cohort is trained for a new server
                name = next(
                    n
                    for n in ray.util.list_named_actors(all_namespaces=True)
                    if n["name"] == "server"
                )
                ray.kill(ray.get_actor(**name), no_restart=False)
            weights = fed.step(weights, total)
            fed.log(round, **fed.evaluate(weights, clients=round % 2 == 0))
            fed.save(round, weights)
        each = fed.train_each(weights, fed.sample(9), round=9)
    return numbers(fed.result), {update.client: update.delta for update in each}


def test_a_loop_whose_actors_and_server_die_has_the_bits_of_a_run(
    tmp_path: Path, ray_cluster: None
) -> None:
    """A client's actor dies in round 2, the server after round 3."""
    scenario = merged(BASE, ALGORITHMS[KEPT])
    expected = numbers(simfl.run(scenario, out=tmp_path / "inline", backend="inline"))
    _, deltas = here = loop(scenario, tmp_path / "loop", "inline")
    assert here[0] == expected
    killed = with_a_kill(merged(scenario, {"cluster": {"actors": 2}}), tmp_path)
    assert loop(killed, tmp_path / "ray", "ray") == (expected, deltas)
    assert list(tmp_path.glob("*-2-0")), "no process was killed"


@pytest.mark.slow
def test_a_loop_goes_on_elsewhere(tmp_path: Path, ray_cluster: None) -> None:
    """Two rounds on Ray, two in one process, with states that clients keep."""
    scenario = merged(BASE, ALGORITHMS[KEPT])
    expected = loop(scenario, tmp_path / "whole", "inline")
    loop({**scenario, "rounds": 2}, tmp_path / "halves", "ray")
    assert loop(scenario, tmp_path / "halves", "inline", resume="auto")[0] == expected[0]


SCRIPT = """
import sys
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import nn

import simfl
from simfl.aggregation import EveryUpdate
from simfl.algorithms import Algorithm, Update
from simfl.vector import Vector


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, width), nn.Tanh(), nn.Linear(width, 2))

    def forward(self, first, second):
        return self.layers(torch.cat([first, second], dim=1))


@dataclass(frozen=True)
class Twice(Algorithm):
    name: ClassVar[str] = "twice"

    def client(self, local):
        middle = local.train(local.weights)
        return Update(local.weights - local.train(middle, phase="second")), {}


@dataclass(frozen=True)
class Middle(EveryUpdate):
    name: ClassVar[str] = "middle"

    def combine(self, deltas_C, weights_C, context):
        return Vector({name: delta.median(dim=0).values for name, delta in deltas_C.items()})


def losses(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets, reduction="none", label_smoothing=0.1)


if __name__ == "__main__":
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 5)).astype(np.float32)
    y = (x.sum(axis=1) > 0).astype(int)
    objects = {
        "model": Net(width=4),
        "data": ({"first": x[:, :2], "second": x[:, 2:]}, y, np.arange(60) % 5),
        "loss": lambda outputs, targets: losses(outputs, targets),
        "algorithm": Twice(),
        "aggregator": Middle(),
    }
    scenario = {
        "rounds": 2,
        "client": {"batch_size": 8, "optimizer": {"lrate": 0.1}},
        "cluster": {"actors": 2},
    }
    found = []
    for backend in ("inline", "ray"):
        out = f"{sys.argv[1]}/{backend}"
        result = simfl.run(scenario, out, backend, callbacks=[print], **objects)
        found.append([array.tobytes() for array in result.weights.values()])
    print(found[0] == found[1])
"""


@pytest.mark.slow
def test_objects_of_a_script_are_sent_to_actors(tmp_path: Path) -> None:
    """An instance of a class, a lambda, an algorithm and an aggregator, all of ``__main__``."""
    (script := tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.splitlines()[-1:] == ["True"], done.stderr
