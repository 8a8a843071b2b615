"""Where actors have room: arithmetic on declared nodes, none of which has to be there."""

from __future__ import annotations

from typing import Any

import pytest

from simfl.cluster.placement import Bounds, Node, matches, nodes_of, place, require_room
from simfl.cluster.pool import ActorGroup
from simfl.errors import ClusterError

GPU_NODE = Node("gpu", "10.0.0.1", {"CPU": 8, "GPU": 2, "accelerator_type:H200": 1}, {"zone": "a"})
CPU_NODE = Node("cpu", "10.0.0.2", {"CPU": 4}, {"zone": "b"})
MANY = 1000


def room(*nodes: Node, **group: Any) -> int:
    (count,) = place([ActorGroup(**group)], [Bounds(1, MANY)], nodes).counts
    return count


def test_room_is_what_the_scarcest_resource_allows() -> None:
    assert room(CPU_NODE) == 4
    assert room(CPU_NODE, num_cpus=3) == 1
    assert room(GPU_NODE, num_gpus=0.25) == 8
    assert room(GPU_NODE, num_gpus=0.3) == 6, "three on each GPU by Ray's account of shares"
    assert room(GPU_NODE, CPU_NODE) == 12


def test_an_actor_goes_to_nodes_with_its_accelerator_labels_and_resources_only() -> None:
    both = (GPU_NODE, CPU_NODE)
    assert room(*both, num_gpus=0.5, accelerator_type="H200") == 4
    assert room(*both, num_gpus=0.5, accelerator_type="T4") == 0
    assert room(*both, labels={"zone": "b"}) == 4
    assert room(*both, resources={"licence": 1}) == 0


@pytest.mark.parametrize(
    ("condition", "expected"),
    [("a", True), ("b", False), ("!b", True), ("in(b, a)", True), ("!in(a,b)", False)],
)
def test_conditions_on_labels_are_those_of_ray(condition: str, expected: bool) -> None:
    assert matches({"zone": "a"}, {"zone": condition}) is expected


def test_a_node_without_the_label_meets_no_condition_but_a_negated_one() -> None:
    assert not matches({}, {"zone": "a"})
    assert matches({}, {"zone": "!a"})


def test_what_every_group_needs_comes_before_what_one_can_use() -> None:
    groups = [ActorGroup("cpu"), ActorGroup("gpu", num_gpus=1)]
    assert place(groups, [Bounds(1, MANY), Bounds(1, MANY)], [GPU_NODE]).counts == (6, 2)
    assert place(groups, [Bounds(7, 7), Bounds(1, 2)], [GPU_NODE]).counts == (7, 1)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("spread", {"a": 2, "b": 2}),
        ("pack", {"a": 4}),
        ("strict_pack", {"a": 4}),
        ("strict_spread", {"a": 1, "b": 1}),
    ],
)
def test_a_strategy_says_how_actors_lie_over_nodes(strategy: Any, expected: dict[str, int]) -> None:
    nodes = [Node(name, name, {"CPU": 4}) for name in "ab"]
    placement = place([ActorGroup(strategy=strategy)], [Bounds(1, 4)], nodes)
    assert placement.by_node == (expected,)


@pytest.mark.parametrize(
    ("group", "least", "message"),
    [
        (
            ActorGroup(actors=4, num_gpus=0.5),
            4,
            r"4 client actors with 1 CPU, 0\.5 GPU each need more than there is: the cluster has "
            r"4 CPU, 0 GPU on 1 node, room for 0; set cluster\.num_gpus: 0 to train on CPUs",
        ),
        (
            ActorGroup(actors=5),
            5,
            r"5 client actors with 1 CPU each .* room for 4; lower cluster\.actors",
        ),
        (
            ActorGroup("fast", "cluster.groups[1]", num_gpus=1, accelerator_type="T4"),
            1,
            r"group 'fast': 1 client actor with 1 CPU, 1 GPU, accelerator type T4 each needs .*"
            r"set cluster\.groups\[1\]\.num_gpus: 0",
        ),
        (ActorGroup(labels={"zone": "c"}), 1, r"label zone=c each needs more"),
    ],
)
def test_what_has_no_room_is_an_error_with_what_is_needed_and_what_there_is(
    group: ActorGroup, least: int, message: str
) -> None:
    bounds = [Bounds(least, least)]
    with pytest.raises(ClusterError, match=message):
        require_room([group], bounds, place([group], bounds, [CPU_NODE]), [CPU_NODE])


def test_dead_nodes_have_no_room() -> None:
    row = {"NodeID": "a", "NodeManagerAddress": "10.0.0.1", "Resources": {"CPU": 1.0}}
    rows = [{**row, "Alive": True}, {**row, "Alive": False, "Resources": {}}]
    assert nodes_of(rows) == [Node("a", "10.0.0.1", {"CPU": 1.0})]
