"""A run whose clients' states stay on the node that created them, for tests that lose a node."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch_file
from torch import nn

from simfl.record import RoundRecord


def scenario(**cluster: Any) -> dict[str, Any]:
    """Return one whose clients keep 150 kB each: too much to travel in a reply."""
    return {
        "rounds": 8,
        "seed": 2,
        "data": {
            "source": "digits",
            "test_fraction": 0.2,
            "partition": {"kind": "dirichlet", "clients": 10, "alpha": 0.5},
        },
        "model": {"kind": "mlp", "hidden": [512]},
        "client": {
            "per_round": 6,
            "batch_size": 16,
            "optimizer": {"lrate": 0.05, "modules": ["scaffold-client", "momentum"]},
        },
        "server": {"optimizer": {"modules": ["scaffold-server"]}},
        "evaluation": {"every": 0},
        "checkpoint": {"every": 2},
        "cluster": {"actors": 2, "num_cpus": 1} | cluster,
    }


def numbers(out: Path) -> tuple[Any, ...]:
    """Return what a run in a folder came to, without what clocks say: all bits of it."""
    weights = load_file(out / "weights.safetensors")
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return (
        {name: array.tobytes() for name, array in weights.items()},
        [RoundRecord.parse(json.loads(line)).reproducible for line in lines],
    )


def net_on_file(file: str) -> nn.Module:
    """Return a network for digits whose first layer is read from a file, and frozen."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    net[1].load_state_dict(load_torch_file(file))
    net[1].requires_grad_(False)
    return net
