"""A node that is lost in mid-round takes actors and states with it, and not the result."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from states_on_nodes import numbers, scenario

import simfl
from simfl.simulation import build

pytestmark = [pytest.mark.ray, pytest.mark.slow]

HERE = str(Path(__file__).parent)


@pytest.fixture
def two_nodes() -> Iterator[Any]:
    """Start a head for the server and two nodes with a CPU each; a death is noticed in seconds."""
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
        cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": notice}
        )
        cluster.add_node(num_cpus=1)
        cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, namespace="simfl", log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.parametrize("every", [0, 2])
def test_states_lost_with_a_node_come_back_by_replay(
    every: int, tmp_path: Path, two_nodes: Any
) -> None:
    """About half of the clients' states, each over 100 KB, are on the node that is lost.

    Its actor finds no room elsewhere, so that the other one does the rest of the work.
    """
    plain = scenario() | {"rounds": 12, "checkpoint": {"every": every}}
    expected = numbers(simfl.run(plain, out=tmp_path / "inline", backend="inline").out)
    plain |= {"plugins": ["killing"], "search": [HERE]}
    client = build(simfl.load_scenario(plain)).plan_round(6).clients[0]
    hold = ["hold-at", {"folder": str(tmp_path), "client": client, "round": 6}]
    plain["client"]["optimizer"]["modules"].append(hold)

    def lose_a_node() -> None:
        while not (tmp_path / "hold-6-0").exists():
            time.sleep(0.05)
        node = min(two_nodes.worker_nodes, key=lambda node: node.unique_id)
        os.kill(node.all_processes["raylet"][0].process.pid, signal.SIGKILL)
        (tmp_path / "go").touch()

    thread = threading.Thread(target=lose_a_node, daemon=True)
    thread.start()
    result = simfl.run(plain, out=tmp_path / "ray")
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert numbers(result.out) == expected
