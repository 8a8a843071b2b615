"""Client actors on a real GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import simfl
from simfl.record import RoundRecord

pytestmark = [
    pytest.mark.ray,
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


def scenario(**cluster: Any) -> dict[str, Any]:
    return {
        "rounds": 3,
        "data": {
            "source": "digits",
            "test_fraction": 0.2,
            "partition": {"kind": "iid", "clients": 16},
        },
        "model": {"kind": "mlp", "hidden": [64]},
        "client": {"batch_size": 16, "optimizer": {"lrate": 0.1, "modules": ["momentum"]}},
        "cluster": {"deterministic": True, "num_cpus": 0.5, **cluster},
    }


def numbers(result: simfl.Result) -> tuple[Any, ...]:
    weights = {name: array.tobytes() for name, array in result.weights.items()}
    return weights, [RoundRecord.parse(record).reproducible for record in result.history]


def test_any_number_of_actors_on_a_gpu_gives_the_bits_of_one_process(tmp_path: Path) -> None:
    inline = simfl.run(scenario(num_gpus=1), out=tmp_path / "inline", backend="inline")
    shared = simfl.run(scenario(num_gpus=0.25, actors=4), out=tmp_path / "shared")
    fitted = simfl.run(scenario(num_gpus=0.25, max_actors=3), out=tmp_path / "fitted")
    assert numbers(inline) == numbers(shared) == numbers(fitted)
    assert fitted.summary["ledger"]["gpu_seconds"] > 0


def test_a_group_on_a_gpu_beside_one_on_cpus(tmp_path: Path) -> None:
    groups = [
        {"name": "gpu", "num_gpus": 0.5, "num_cpus": 0, "clients": {"fraction": 0.5}},
        {"name": "cpu", "actors": 1},
    ]
    plain = scenario() | {"cluster": {"groups": groups, "deterministic": True}}
    inline = simfl.run(plain, out=tmp_path / "inline", backend="inline")
    assert numbers(simfl.run(plain, out=tmp_path / "ray")) == numbers(inline)
