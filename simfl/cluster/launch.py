"""Starting the actors: where they go, and what they are given."""

from __future__ import annotations

import logging
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from simfl.cluster.actors import ActorSetup, ClientActor, ServerActor
from simfl.cluster.setup import EngineSetup

__all__ = ["launch_client", "launch_server"]

# Ray starts a dead actor again; what it was doing is ours to repeat.
_RESTARTED = {"max_restarts": -1, "max_task_retries": 0}


def launch_server(setup: EngineSetup) -> Any:
    """Start the server's actor beside the driver.

    The two fail together, and nothing of the run outlives them.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # Ray's stubs do not know this documented argument.
    group: dict[str, Any] = {"concurrency_groups": {"io": 1}}
    remote: Any = ray.remote(**group)(ServerActor)
    options = {"num_cpus": 0, "scheduling_strategy": here, **_RESTARTED}
    named = remote.options(name="server", namespace=setup.run_name, **options)
    return named.remote(_actor_setup(setup, "server", setup.server))


def launch_client(setup: EngineSetup, label: str) -> Any:
    """Start a client actor, on any node that has room for it."""
    options = setup.options
    remote = ray.remote(ClientActor).options(
        name=label,
        namespace=setup.run_name,
        num_cpus=options.num_cpus,
        num_gpus=options.num_gpus,
        scheduling_strategy=_anywhere(),
        **_RESTARTED,
    )
    return remote.remote(_actor_setup(setup, label, setup.client), options.num_gpus > 0)


def _anywhere() -> str | None:
    """Return what spreads actors over the nodes; None, in a trial, has them in its bundles."""
    return "SPREAD" if ray.util.get_current_placement_group() is None else None


def _actor_setup(setup: EngineSetup, label: str, recipe: object) -> ActorSetup:
    return ActorSetup(
        label=label,
        plugins=tuple(setup.plugins),
        search=tuple(setup.search),
        # cloudpickle, so that classes of a notebook travel by value.
        recipe=ray.cloudpickle.dumps(recipe),
        threads=setup.options.threads,
        profile=setup.options.profile,
        log_level=logging.INFO if setup.logs_events else logging.WARNING,
    )
