"""How many runs at once, with how many actors, and what of the cluster they take."""

from __future__ import annotations

import pytest

from simfl.cluster.placement import Node, bounds_of
from simfl.cluster.pool import ActorGroup
from simfl.cluster.room import (
    Need,
    bundles,
    labels_of_bundles,
    num_actors,
    require_room,
    runs_at_once,
)
from simfl.errors import ClusterError


def need(*groups, inline: bool = False, dedicated: bool = False, **options) -> Need:
    kinds = groups or (ActorGroup(**options),)
    clients = [100] * len(kinds)
    bounds = bounds_of(kinds, clients, cohort_size=10, is_dedicated=dedicated)
    return Need(kinds, tuple(bounds), is_inline=inline)


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


def test_groups_of_a_run_share_what_there_is():
    own = need(ActorGroup("gpu", num_gpus=0.5), ActorGroup("cpu", actors=2))
    assert runs_at_once([own] * 9, nodes(8, GPU=2.0), asked=None) == 2
    assert num_actors(own, nodes(8, GPU=2.0), at_once=2) == (2, 2)


def test_a_run_has_a_bundle_for_its_driver_and_one_for_each_actor():
    own = need(num_cpus=2.0, num_gpus=0.5, labels={"zone": "a"})
    found = bundles(own, (2,), beside={"node:1": 0.001})
    assert found == [{"node:1": 0.001}, *[{"CPU": 2.0, "GPU": 0.5}] * 2]
    assert labels_of_bundles(own, (2,)) == [{}, {"zone": "a"}, {"zone": "a"}]


def test_a_run_in_one_process_has_one_bundle():
    own = need(inline=True)
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
def test_what_can_never_run_is_an_error_at_once(options, fault):
    own = need(**options)
    with pytest.raises(ClusterError, match=fault):
        require_room(own, num_actors(own, nodes(2, 2), at_once=1), nodes(2, 2))
