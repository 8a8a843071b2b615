"""Several nodes, and a run whose clients' states stay on the node that created them."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch_file
from torch import nn

from simfl.record import RoundRecord


@contextmanager
def cluster_of(*nodes: dict[str, Any], head_cpus: int = 0) -> Iterator[Any]:
    """Start a head and nodes, as arguments of Ray's ``add_node``; a death is noticed in seconds.

    Yields:
        The cluster; its nodes are ``cluster.added``.
    """
    import ray

    if ray.is_initialized():
        ray.shutdown()
    os.environ["RAY_AUTH_MODE"] = "token"
    from ray.cluster_utils import Cluster

    notice = {
        "health_check_initial_delay_ms": 0,
        "health_check_period_ms": 300,
        "health_check_failure_threshold": 3,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        head = {"num_cpus": head_cpus, "_system_config": notice}
        cluster: Any = Cluster(initialize_head=True, head_node_args=head)
        cluster.added = [cluster.add_node(**node) for node in nodes]
        ray.init(address=cluster.address, namespace="simfl", log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


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
