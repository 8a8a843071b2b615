"""A loop of one's own on Ray has the bits of a run, even if processes die."""

from __future__ import annotations

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
