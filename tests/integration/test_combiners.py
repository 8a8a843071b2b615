"""Partials that are added up on their nodes give the same bits, also if that is lost midway."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from states_on_nodes import cluster_of, numbers, scenario

import simfl
from simfl.cluster import combining, remote_server
from simfl.cluster.combining import Combiners, Sums

pytestmark = [pytest.mark.ray, pytest.mark.slow]

HERE = str(Path(__file__).parent)


@pytest.fixture(scope="module")
def three_nodes() -> Iterator[Any]:
    """Start a head for the server and one actor, and two nodes for two actors each."""
    with cluster_of({"num_cpus": 2}, {"num_cpus": 2}, head_cpus=1) as cluster:
        yield cluster


def wide(**client: Any) -> dict[str, Any]:
    """Return a scenario with 16 clients a round, in chunks of one."""
    plain = scenario(actors=5, chunk_size=1) | {"rounds": 6}
    plain["data"]["partition"]["clients"] = 20
    plain["client"] |= {"per_round": 16, "stack": 1} | client
    return plain


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have combiners from the second round on; return how many partials the server gets in each."""
    import ray

    begin, finish, sent = Combiners.begin, Sums.finish, list[int]()

    def wait_and_begin(self: Combiners) -> Sums:
        if self._nodes:
            ray.wait([sign for _, sign in self._nodes.values()], num_returns=len(self._nodes))
        return begin(self)

    def count(self: Sums) -> Any:
        partials = finish(self)
        sent.append(len(partials.sent) + len(partials.last))
        return partials

    monkeypatch.setattr(combining, "WORTH_BYTES", 0)
    monkeypatch.setattr(combining, "LEAST_PARTIALS", 2)
    monkeypatch.setattr(Combiners, "begin", wait_and_begin)
    monkeypatch.setattr(Sums, "finish", count)
    return sent


def test_sums_of_nodes_give_the_bits_of_one_process(
    tmp_path: Path, three_nodes: Any, eager: list[int]
) -> None:
    expected = numbers(simfl.run(wide(), out=tmp_path / "inline", backend="inline").out)
    assert (
        numbers(simfl.run(wide(), out=tmp_path / "ray", address=three_nodes.address).out)
        == expected
    )
    assert eager[0] == 16
    assert max(eager[1:]) < 16


def test_lost_sums_are_formed_again(
    tmp_path: Path, three_nodes: Any, eager: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A combiner is killed, another is stopped, the server dies, and then a whole node."""
    import ray

    expected = numbers(simfl.run(wide(), out=tmp_path / "inline", backend="inline").out)
    kill = ["kill-at", {"folder": str(tmp_path), "client": -1, "round": 3}]
    plain = wide() | {"plugins": ["killing"], "search": [HERE]}
    plain["server"]["optimizer"]["modules"].append(kill)
    plain["cluster"]["stall_limit_s"] = 5.0
    finish, done = Sums.finish, list[str]()

    def disturb(self: Sums) -> Any:
        """Hurt a combiner once it has everything, or a node."""
        cohort = self._cohort
        if cohort in signals and self._combiners:
            actor = next(iter(self._combiners.values()))
            os.kill(ray.get(actor.process_id.remote()), signals[cohort])
            done.append(f"{cohort}")
        elif "node" not in done and len(done) == len(signals):
            node = min(three_nodes.worker_nodes, key=lambda node: node.unique_id)
            os.kill(node.all_processes["raylet"][0].process.pid, signal.SIGKILL)
            done.append("node")
        return finish(self)

    signals = {2: signal.SIGKILL, 4: signal.SIGSTOP}
    monkeypatch.setattr(remote_server, "QUIET_S", 2.0)
    monkeypatch.setattr(Sums, "finish", disturb)
    assert (
        numbers(simfl.run(plain, out=tmp_path / "ray", address=three_nodes.address).out) == expected
    )
    assert done == ["2", "4", "node"]
    assert (tmp_path / "-1-3-0").exists()
