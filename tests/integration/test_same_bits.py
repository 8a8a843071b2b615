"""The same scenario gives the same bits wherever it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import simfl

pytestmark = pytest.mark.ray

BASE: dict[str, Any] = {
    "rounds": 4,
    "seed": 3,
    "data": {
        "source": "digits",
        "test_fraction": 0.2,
        "holdout_fraction": 0.2,
        "partition": {"kind": "dirichlet", "clients": 12, "alpha": 0.5},
    },
    "model": {"kind": "mlp", "hidden": [16], "dropout": 0.2},
    "client": {"per_round": 7, "batch_size": 16, "optimizer": {"lrate": 0.1}},
    "evaluation": {"clients_every": 2},
}

ALGORITHMS: dict[str, dict[str, Any]] = {
    "fedavg": {},
    "server adam": {"server": {"optimizer": {"lrate": 0.01, "modules": ["adam"]}}},
    "scaffold": {
        "client": {"optimizer": {"lrate": 0.1, "modules": ["scaffold-client"]}},
        "server": {"optimizer": {"modules": ["scaffold-server"]}},
    },
    "kept momentum, noise, prox, a schedule": {
        "client": {
            "sclip": 1.0,
            "optimizer": {
                "lrate": ["exponential", {"base": 0.1, "factor": 0.9, "unit": "step"}],
                "w_decay": 0.001,
                "regularizers": [["fedprox", {"alpha": 0.1}]],
                "modules": [["gaussian-noise", {"std": 0.01}], "momentum"],
            },
        }
    },
    "median": {"server": {"aggregator": "median"}},
}


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in changes.items():
        out[key] = merged(out.get(key, {}), value) if isinstance(value, dict) else value
    return out


def bits(scenario: dict[str, Any], out: Path, backend: str) -> tuple[Any, ...]:
    """Return all that must not differ: every number but the seconds."""
    result = simfl.run(scenario, out=out, backend=backend)  # type: ignore[arg-type]
    weights = {name: array.tobytes() for name, array in result.weights.items()}
    return weights, [{k: v for k, v in r.items() if k != "seconds"} for r in result.history]


@pytest.mark.parametrize("algorithm", list(ALGORITHMS))
def test_ray_gives_the_bits_of_one_process(
    algorithm: str, tmp_path: Path, ray_cluster: None
) -> None:
    scenario = merged(BASE, ALGORITHMS[algorithm])
    expected = bits(scenario, tmp_path / "inline", "inline")
    two = merged(scenario, {"cluster": {"actors": 2}})
    assert bits(two, tmp_path / "ray", "ray") == expected


@pytest.mark.parametrize(
    "cluster",
    [
        {"actors": 1},
        {"actors": 5},
        {"actors": 3, "chunk_size": 1},
        {"actors": 2, "chunk_size": 5},
        {"placement": "dedicated", "num_cpus": 0.5},
    ],
)
def test_actors_chunks_and_placement_change_nothing(
    cluster: dict[str, Any], tmp_path: Path, ray_cluster: None
) -> None:
    scenario = merged(BASE, ALGORITHMS["scaffold"])
    expected = bits(scenario, tmp_path / "inline", "inline")
    placed = merged(scenario, {"cluster": cluster})
    assert bits(placed, tmp_path / "ray", "ray") == expected


def test_another_seed_gives_other_numbers(tmp_path: Path) -> None:
    one = bits(BASE, tmp_path / "a", "inline")
    other = bits(merged(BASE, {"seed": 4}), tmp_path / "b", "inline")
    assert one != other
