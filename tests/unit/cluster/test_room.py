"""How many runs at once, with how many actors, and what of the cluster they take."""

from __future__ import annotations

import pytest

from simfl.cluster.pool import ClusterOptions
from simfl.cluster.room import Need, bundles, num_actors, require_room, runs_at_once
from simfl.errors import ClusterError


def need(*, inline: bool = False, population: int = 100, **options) -> Need:
    return Need(ClusterOptions(**options), population, cohort_size=10, is_inline=inline)


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
        (8, 20, {"placement": "dedicated"}, None, (1, 100)),
    ],
)
def test_runs_share_the_cpus(cpus, runs, options, asked, expected):
    needs, resources = [need(**options)] * runs, {"CPU": float(cpus)}
    at_once = runs_at_once(needs, resources=resources, asked=asked)
    actors = num_actors(needs[0], resources=resources, at_once=at_once)
    assert (at_once, actors) == expected


def test_the_scarcer_resource_decides():
    needs = [need(num_gpus=0.5)] * 9
    assert runs_at_once(needs, resources={"CPU": 64.0, "GPU": 2.0}, asked=None) == 4


def test_a_run_has_a_bundle_for_its_driver_and_one_for_each_actor():
    own = need(num_cpus=2.0, num_gpus=0.5)
    found = bundles(own, actors=2, beside={"node:1": 0.001})
    assert found == [{"node:1": 0.001}, *[{"CPU": 2.0, "GPU": 0.5}] * 2]


def test_a_run_in_one_process_has_one_bundle():
    own = need(inline=True)
    assert num_actors(own, resources={"CPU": 8.0}, at_once=1) == 1
    assert bundles(own, actors=1, beside={"node:1": 1.0}) == [{"CPU": 1.0, "node:1": 1.0}]


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"actors": 5}, "5 client actors need 5 CPUs, and the cluster has 4"),
        ({"num_cpus": 3.0}, "a client actor needs 3 CPUs, and no node has them"),
        ({"num_gpus": 1.0}, "need 1 GPUs, and the cluster has 0; lower cluster.actors"),
    ],
)
def test_what_can_never_run_is_an_error_at_once(options, fault):
    own = need(**options)
    actors = own.actors or 1
    nodes = [{"CPU": 2.0}, {"CPU": 2.0}]
    with pytest.raises(ClusterError, match=fault):
        require_room(own, actors=actors, resources={"CPU": 4.0}, nodes=nodes)
