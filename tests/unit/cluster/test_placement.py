"""Where actors and runs have room: arithmetic on declared nodes, which need not exist."""

from __future__ import annotations

from typing import Any

import pytest

from simfl.cluster.placement import (
    Bounds,
    Need,
    Node,
    bounds_of,
    bundles,
    labels_of_bundles,
    matches,
    nodes_of,
    num_actors,
    place,
    require_room,
    require_room_for_run,
    runs_at_once,
)
from simfl.cluster.pool import ActorGroup
from simfl.errors import ClusterError

GPU_NODE = Node("gpu", "10.0.0.1", {"CPU": 8, "GPU": 2, "accelerator_type:H200": 1}, {"zone": "a"})
CPU_NODE = Node("cpu", "10.0.0.2", {"CPU": 4}, {"zone": "b"})
MANY = 1000


def room(*nodes: Node, **group: Any) -> int:
    (count,) = place([ActorGroup(**group)], [Bounds(1, MANY)], nodes).counts
    return count


def test_the_scarcest_resource_limits_the_room() -> None:
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


def test_needs_of_all_groups_come_before_options_of_one() -> None:
    groups = [ActorGroup(name="cpu"), ActorGroup(name="gpu", num_gpus=1)]
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
def test_a_strategy_distributes_actors_over_nodes(strategy: Any, expected: dict[str, int]) -> None:
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
            ActorGroup(name="fast", key="cluster.groups[1]", num_gpus=1, accelerator_type="T4"),
            1,
            r"group 'fast': 1 client actor with 1 CPU, 1 GPU, accelerator type T4 each needs .*"
            r"set cluster\.groups\[1\]\.num_gpus: 0",
        ),
        (ActorGroup(labels={"zone": "c"}), 1, r"label zone=c each needs more"),
    ],
)
def test_a_lack_of_room_is_an_error_with_need_and_supply(
    group: ActorGroup, least: int, message: str
) -> None:
    bounds = [Bounds(least, least)]
    with pytest.raises(ClusterError, match=message):
        require_room([group], bounds, place([group], bounds, [CPU_NODE]), [CPU_NODE])


def test_dead_nodes_have_no_room() -> None:
    row = {"NodeID": "a", "NodeManagerAddress": "10.0.0.1", "Resources": {"CPU": 1.0}}
    rows = [{**row, "Alive": True}, {**row, "Alive": False, "Resources": {}}]
    assert nodes_of(rows) == [Node("a", "10.0.0.1", {"CPU": 1.0})]


def need(*groups, dedicated: bool = False, **options) -> Need:
    kinds = groups or (ActorGroup(**options),)
    clients = [100] * len(kinds)
    bounds = bounds_of(kinds, clients, cohort_size=10, is_dedicated=dedicated)
    return Need(kinds, tuple(bounds))


def nodes(*cpus: float, **resources: float) -> list[Node]:
    return [Node(str(n), str(n), {"CPU": each, **resources}) for n, each in enumerate(cpus)]


@pytest.mark.parametrize(
    ("cpus", "runs", "options", "asked", "expected"),
    [
        (8, 20, {}, None, (8, 1)),
        (8, 3, {}, None, (3, 2)),
        (64, 1, {}, None, (1, 10)),  # no more than the cohort has clients
        (8, 20, {"actors": 3}, None, (2, 3)),
        (8, 20, {"num_cpus": 2.0}, None, (4, 1)),
        (8, 20, {}, 2, (2, 4)),
        (2, 20, {"actors": 4}, None, (1, 4)),  # which the cluster cannot hold: told elsewhere
        (8, 20, {"dedicated": True}, None, (1, 100)),
        (8, 20, {"min_actors": 3}, None, (2, 4)),
    ],
)
def test_runs_share_the_cpus(cpus, runs, options, asked, expected):
    needs = [need(**options)] * runs
    at_once = runs_at_once(needs, nodes(cpus), asked=asked)
    assert (at_once, *num_actors(needs[0], nodes(cpus), at_once=at_once)) == expected


def test_the_scarcer_resource_decides():
    assert runs_at_once([need(num_gpus=0.5)] * 9, nodes(64, GPU=2.0), asked=None) == 4


def test_groups_of_a_run_share_the_resources():
    own = need(ActorGroup(name="gpu", num_gpus=0.5), ActorGroup(name="cpu", actors=2))
    assert runs_at_once([own] * 9, nodes(8, GPU=2.0), asked=None) == 2
    assert num_actors(own, nodes(8, GPU=2.0), at_once=2) == (2, 2)


def test_a_run_has_a_bundle_for_its_driver_and_one_for_each_actor():
    own = need(num_cpus=2.0, num_gpus=0.5, labels={"zone": "a"})
    found = bundles(own, (2,), beside={"node:1": 0.001})
    assert found == [{"node:1": 0.001}, *[{"CPU": 2.0, "GPU": 0.5}] * 2]
    assert labels_of_bundles(own, (2,)) == [{}, {"zone": "a"}, {"zone": "a"}]


def test_a_run_in_one_process_has_one_bundle():
    own = Need((ActorGroup(),), (Bounds(1, 1),), is_inline=True)
    assert num_actors(own, nodes(8), at_once=1) == (1,)
    assert bundles(own, (1,), beside={"node:1": 1.0}) == [{"CPU": 1.0, "node:1": 1.0}]


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"actors": 5}, "5 client actors with 1 CPU each need more than there is: .* room for 4"),
        ({"num_cpus": 3.0}, "1 client actor with 3 CPU each needs more .* lower cluster.num_cpus"),
        ({"num_gpus": 1.0}, "the cluster has 4 CPU, 0 GPU on 2 nodes.* set cluster.num_gpus: 0"),
    ],
)
def test_a_run_that_can_never_fit_is_an_error_at_once(options, fault):
    own = need(**options)
    with pytest.raises(ClusterError, match=fault):
        require_room_for_run(own, num_actors(own, nodes(2, 2), at_once=1), nodes(2, 2))
