"""Sums on nodes: whatever was trained where, the server comes to the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import ray
import torch
from fake_ray import FakeActor, FakeRef
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import RayTaskError

from simfl.aggregation import CohortSum, Mean, TreeSum
from simfl.cluster import combining
from simfl.cluster.actor_setup import ActorSetup
from simfl.cluster.combining import CombinerActor, MergeRecipe, Sums
from simfl.cluster.failures import is_object_loss
from simfl.cluster.wire import open_parcel, pack_partial
from simfl.messages import NO_REPORTS, ChunkReport, ChunkResult, Contribution, Partial
from simfl.optimizer import Optimizer
from simfl.vector import Vector

MERGING = MergeRecipe(Mean(), Optimizer(lrate=0.1), shares_aux=True)
SETUP = ActorSetup((), (), ray.cloudpickle.dumps(MERGING), threads=1)


class FakeServer:
    """Adds up what it is sent."""

    def __init__(self) -> None:
        self.sum = CohortSum(MERGING.merge)
        self.sizes: list[int] = []
        """Of the calls, how many partials each had."""

    def wait(self, refs: list[FakeRef]) -> None:
        pass

    def receive(self, refs: list[FakeRef]) -> None:
        self.sizes.append(len(refs))
        for ref in refs:
            self.sum.add(open_parcel(ref.get()))


def combiner(node: str) -> FakeActor:
    return FakeActor(CombinerActor(node), node, lambda *_: None)


def contribution(value: float) -> Contribution:
    return Contribution(Vector({"w": torch.tensor([value, 0.1])}), 1.0, {}, {"clients": 1.0})


def result(start: int, values: list[float], width: int, node: str) -> ChunkResult[Any, Any]:
    """Return what a chunk with these contributions gives, trained on a node."""
    tree = TreeSum[Contribution](width, MERGING.merge)
    for position, value in enumerate(values, start):
        tree.add(position, contribution(value))
    parcel = pack_partial(Partial(start, width, tree.nodes), sums=True, aux=True)
    report = ChunkReport(1, start, NO_REPORTS, 0.1, partial_bytes=8, node=node)
    return ChunkResult(report, FakeRef(parcel), {})


@given(st.integers(1, 40), st.integers(1, 7), st.integers(1, 9), st.randoms())
def test_the_sum_has_the_same_bits_wherever_its_parts_were_added_up(
    width: int, size: int, num_nodes: int, random: Any
) -> None:
    """Chunks on any of the nodes, the first of which has no combiner, in any order."""
    values = np.random.default_rng(width).normal(size=width).tolist()
    expected = TreeSum[Contribution](width, MERGING.merge)
    for position, value in enumerate(values):
        expected.add(position, contribution(value))
    results = [
        result(start, values[start : start + size], width, f"node-{random.randrange(num_nodes)}")
        for start in range(0, width, size)
    ]
    random.shuffle(results)
    server: Any = FakeServer()
    actors = {f"node-{n}": combiner(f"node-{n}") for n in range(1, num_nodes)}
    sums = Sums(server, actors, FakeRef(SETUP), 3)
    for number, one in enumerate(results, 1):
        sums.send([one], is_last=number == len(results))
    partials = sums.finish()
    server.receive(partials.last)
    total, wanted = server.sum.result(), expected.result()
    assert (total.weight, total.sums) == (wanted.weight, wanted.sums)
    assert total.total["w"].equal(wanted.total["w"])
    combined = (
        len(partials.sent) + len(partials.last) - sum(r.report.node == "node-0" for r in results)
    )
    assert combined <= combining.FAN_IN


def test_neighbors_on_a_node_leave_it_as_one_root() -> None:
    """Eight chunks of one client: the server gets one sum of each node, not four."""
    server: Any = FakeServer()
    sums = Sums(server, {"a": combiner("a"), "b": combiner("b")}, FakeRef(SETUP), 1)
    for start, node in enumerate("aaaabbbb"):
        sums.send([result(start, [1.0], 8, node)], is_last=start == 7)
    roots = [open_parcel(ref.get()).nodes for ref in sums.finish().sent]
    assert [list(nodes) for nodes in roots] == [[(2, 0)], [(2, 1)]]
    assert [node.total["w"][0] for nodes in roots for node in nodes.values()] == [4, 4]


def test_a_combiner_that_lacks_a_partial_counts_as_a_lost_object() -> None:
    """As after its death: Ray has replaced the process, which knows nothing."""
    actor = combiner("a")
    for sent in ([], [result(0, [1.0], 8, "a").partial]):
        actor.receive.remote(FakeRef(SETUP), 1, *sent)
        with pytest.raises(RayTaskError, match="lacks partials") as caught:
            actor.combine.remote(1, [0, 4]).get()
        assert is_object_loss(caught.value)


def test_contributions_that_do_not_add_up_are_reported_by_the_sum() -> None:
    one = result(0, [1.0], 2, "a").partial
    empty = {(0, 1): Contribution(None, 1.0, {}, {"clients": 1.0})}
    other = pack_partial(Partial(1, 2, empty), sums=False, aux=False)
    actor = combiner("a")
    actor.receive.remote(FakeRef(SETUP), 1, one, FakeRef(other))
    with pytest.raises(RayTaskError, match="some clients send a delta and others"):
        actor.combine.remote(1, [0, 1]).get()


@pytest.mark.parametrize(
    ("held_bytes", "sizes", "last"), [(1 << 20, [16, 16], 8), (24, [3] * 13, 1), (0, [1] * 39, 1)]
)
def test_small_partials_share_calls_and_the_last_go_with_the_next_one(
    held_bytes: int, sizes: list[int], last: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forty of 8 bytes each, which end one by one."""
    monkeypatch.setattr(combining, "HELD_BYTES", held_bytes)
    server: Any = FakeServer()
    sums = Sums(server, {}, None, 1)
    for start in range(40):
        sums.send([result(start, [1.0], 40, "")], is_last=start == 39)
    assert server.sizes == sizes
    assert len(sums.finish().last) == last


def test_calls_carry_a_bounded_number_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each partial has 8 bytes of weights."""
    monkeypatch.setattr(combining, "CALL_BYTES", 20)
    results = [result(start, [1.0], 5, "") for start in range(5)]
    sizes = [len(batch) for batch in combining._in_batches(results)]
    assert sizes == [2, 2, 1]
