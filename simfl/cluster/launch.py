"""Starting the actors: where they go, and what they are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from simfl.cluster.actors import ActorSetup, ClientActor, ServerActor
from simfl.cluster.pool import ClusterOptions
from simfl.cluster.references import Ref

__all__ = ["launch_client", "launch_server", "make_setup"]

# Ray starts a dead actor again; what it was doing is ours to repeat.
_RESTARTED = {"max_restarts": -1, "max_task_retries": 0}


def make_setup(
    label: str, recipe: object, *, plugins: Sequence[str], search: Sequence[str], threads: int
) -> ActorSetup:
    """Pack what an actor is made from; classes of a notebook travel by value."""
    return ActorSetup(label, tuple(plugins), tuple(search), ray.cloudpickle.dumps(recipe), threads)


def launch_server(setup: ActorSetup, *, namespace: str) -> Any:
    """Start the server's actor beside the driver.

    The two fail together, and nothing of the run outlives them.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # Ray's stubs do not know this documented argument.
    group: dict[str, Any] = {"concurrency_groups": {"io": 1}}
    remote: Any = ray.remote(**group)(ServerActor)
    return remote.options(
        name=setup.label,
        namespace=namespace,
        num_cpus=0,
        scheduling_strategy=here,
        **_RESTARTED,
    ).remote(setup)


def launch_client(
    setup: ActorSetup, *, namespace: str, dataset: Ref, options: ClusterOptions
) -> Any:
    """Start a client actor, on any node that has room for it."""
    remote = ray.remote(ClientActor).options(
        name=setup.label,
        namespace=namespace,
        num_cpus=options.num_cpus,
        num_gpus=options.num_gpus,
        scheduling_strategy="SPREAD",
        **_RESTARTED,
    )
    return remote.remote(setup, dataset, options.num_gpus > 0)
