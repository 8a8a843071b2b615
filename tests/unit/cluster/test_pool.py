"""How many actors, and whether the cluster can hold them."""

from __future__ import annotations

import pytest

from simfl.cluster.pool import ClusterOptions, num_client_actors, require_resources
from simfl.errors import ClusterError


def count(options: ClusterOptions, **resources: float) -> int:
    return num_client_actors(options, resources=resources, population=100, cohort_size=10)


def test_auto_is_what_the_cpus_and_gpus_have_room_for() -> None:
    assert count(ClusterOptions(), CPU=4) == 4
    assert count(ClusterOptions(num_cpus=2), CPU=5) == 2
    assert count(ClusterOptions(num_gpus=0.25), CPU=64, GPU=2) == 8
    assert count(ClusterOptions(num_gpus=0.25), CPU=3, GPU=2) == 3


def test_auto_is_no_more_than_a_cohort_and_no_less_than_one() -> None:
    assert count(ClusterOptions(), CPU=64) == 10
    assert count(ClusterOptions(num_cpus=8), CPU=2) == 1


def test_a_number_is_a_number_and_dedicated_is_the_population() -> None:
    assert count(ClusterOptions(actors=5), CPU=2) == 5
    assert count(ClusterOptions(placement="dedicated"), CPU=2) == 100


def test_what_can_never_be_had_is_an_error_and_not_a_wait() -> None:
    options = ClusterOptions(num_gpus=0.5)
    require_resources(options, 4, resources={"CPU": 4, "GPU": 2})
    with pytest.raises(ClusterError, match=r"4 client actors need 2 GPUs, and the cluster has 0"):
        require_resources(options, 4, resources={"CPU": 4})
    with pytest.raises(ClusterError, match=r"need 4 CPUs.*lower cluster\.actors"):
        require_resources(ClusterOptions(), 4, resources={"CPU": 2})
