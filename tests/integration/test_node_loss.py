"""A node that is lost in mid-round takes actors and states with it, and not the result."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from states_on_nodes import cluster_of, numbers, scenario

import simfl
from simfl.simulation import build

pytestmark = [pytest.mark.ray, pytest.mark.slow]

HERE = str(Path(__file__).parent)


@pytest.fixture
def two_nodes() -> Iterator[Any]:
    """Start a head for the server and two nodes with a CPU each."""
    with cluster_of({"num_cpus": 1}, {"num_cpus": 1}) as cluster:
        yield cluster


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
