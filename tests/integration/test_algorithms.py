"""Every algorithm, run in stacks, one client at a time, on Ray, and resumed: the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_same_bits import bits, merged, numbers

import simfl
from simfl.algorithms import Algorithm

NAMES = sorted(n for n, c in Algorithm.registry.items() if c.__module__.startswith("simfl."))
QUICK = {"feddyn", "local-only"}
"""Their runs on Ray, by two actors, are not marked as slow: kept states, no delta."""

BASE: dict[str, Any] = {
    "rounds": 3,
    "seed": 5,
    "search": [str(Path(__file__).parent)],
    "data": {
        "source": "synthetic",
        "clients": 7,
        "features": 6,
        "classes": 3,
        "min_examples": 4,
        "max_examples": 12,
        "test_fraction": 0.1,
    },
    "model": {"kind": "mlp", "hidden": [5]},
    "client": {"per_round": 5, "batch_size": 4, "stack": 4, "optimizer": {"lrate": 0.05}},
    "evaluation": {"clients_every": 3},
    "checkpoint": {"every": 1},
}


ADAPTED = {"kind": "python", "path": "at_random:adapted", "hidden": None}
NEEDS: dict[str, dict[str, Any]] = {
    "feddf": {"algorithm": ["feddf", {"steps": 3}], "data": {"public": 0.2}},
    "flexlora": {"model": ADAPTED},
    "flora": {"algorithm": ["flora", {"ranks": [2, 1]}], "model": ADAPTED},
    "gossip": {"algorithm": ["gossip", {"nodes": 7}]},
    "em": {"model": {"kind": "gaussian-mixture", "loss": "output", "hidden": None}},
    "histograms": {"model": {"kind": "histogram", "loss": "output", "hidden": None}},
    "k-means": {"model": {"kind": "centers", "loss": "output", "hidden": None}},
}


def scenario(name: str, **changes: Any) -> dict[str, Any]:
    return merged(merged(BASE, {"algorithm": name} | NEEDS.get(name, {})), changes)


@pytest.mark.parametrize("name", NAMES)
def test_stacks_go_on_to_the_same_bits_and_are_near_single_clients(
    name: str, tmp_path: Path
) -> None:
    """Sums in another order differ by a few 1e-7 a step; a mix-up of clients by 1e-2."""
    whole = simfl.run(scenario(name), out=tmp_path / "whole", backend="inline")
    simfl.run(scenario(name, rounds=2), out=tmp_path / "halves", backend="inline")
    result = simfl.run(scenario(name), out=tmp_path / "halves", backend="inline", resume="auto")
    assert result.summary["resumed_after_round"] == 2
    assert numbers(result) == numbers(whole)
    one = scenario(name, client={"stack": 1})
    single = simfl.run(one, out=tmp_path / "one", backend="inline")
    for key, weights in single.weights.items():
        np.testing.assert_allclose(whole.weights[key], weights, rtol=1e-3, atol=1e-4)


@pytest.mark.ray
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in NAMES]
)
def test_ray_gives_the_bits_of_one_process(name: str, tmp_path: Path, ray_cluster: None) -> None:
    cluster = {"actors": 2 if name in QUICK else 1, "chunk_size": 2, "num_cpus": 0.5}
    stacks = scenario(name, client={"stack": 2}, cluster=cluster)
    expected = bits(stacks, tmp_path / "inline", "inline")
    assert bits(stacks, tmp_path / "ray", "ray") == expected
