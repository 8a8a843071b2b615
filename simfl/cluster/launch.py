"""Starting the actors: where they go, and what they are given."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import ray
from ray.util.scheduling_strategies import (
    NodeAffinitySchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

from simfl.cluster.actors import ActorSetup, ClientActor, ServerActor
from simfl.cluster.code import read_main
from simfl.cluster.pool import ActorGroup
from simfl.cluster.references import Ref
from simfl.cluster.setup import EngineSetup

# Ray starts a dead actor again; what it was doing is ours to repeat.
_RESTARTED = {"max_restarts": -1, "max_task_retries": 0}


def launch_server(setup: EngineSetup) -> Any:
    """Start the server's actor beside the driver.

    The two fail together, and nothing of the run outlives them.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # Ray's stubs do not know this documented argument.
    group: dict[str, Any] = {"concurrency_groups": {"io": 1, "read": 1, "life": 1}}
    remote: Any = ray.remote(**group)(ServerActor)
    options = {"num_cpus": 0, "scheduling_strategy": here, **_RESTARTED}
    named = remote.options(name="server", namespace=setup.run_name, **options)
    return named.remote("server")


class Worker(NamedTuple):
    """A client actor, and whom it works for."""

    actor: Any
    label: str
    group: int
    setup: Ref
    """What it is started with."""


def launch_client(
    setup: EngineSetup, group: int, number: int, *, actor_setup: Ref, where: Any
) -> Worker:
    """Start a client actor.

    Args:
        setup: what is run.
        group: which of the options' groups it belongs to.
        number: which of the group's it is.
        actor_setup: what ``put_setup`` has returned for the group.
        where: Ray's scheduling strategy.
    """
    kind = setup.options.groups[group]
    label = kind.label(number)
    remote = ray.remote(ClientActor).options(
        name=label,
        namespace=setup.run_name,
        num_cpus=kind.num_cpus,
        num_gpus=kind.num_gpus,
        resources=dict(kind.resources),
        accelerator_type=kind.accelerator_type,
        label_selector=dict(kind.labels),
        scheduling_strategy=where,
        **_RESTARTED,
    )
    return Worker(remote.remote(label, kind.uses_gpu), label, group, actor_setup)


def reserve(group: ActorGroup, count: int) -> Any:
    """Ask Ray for room for a group's actors, laid out by its strategy; all of it or none.

    Returns:
        A placement group, which may not be ready yet.
    """
    bundles = [dict(group.needs) for _ in range(count)]
    selectors = {"bundle_label_selector": [dict(group.labels)] * count} if group.labels else {}
    return ray.util.placement_group(bundles, strategy=group.strategy.upper(), **selectors)


def bundle_of(reserved: Any, number: int) -> PlacementGroupSchedulingStrategy:
    """Return the scheduling strategy for the group's actor of a number."""
    return PlacementGroupSchedulingStrategy(reserved, placement_group_bundle_index=number)


def beside(node_id: str) -> NodeAffinitySchedulingStrategy:
    """Return the scheduling strategy for an actor that stays on a node while that is there."""
    return NodeAffinitySchedulingStrategy(node_id, soft=True)


def anywhere() -> str | None:
    """Return what spreads actors over the nodes; None, in a trial, has them in its bundles."""
    return None if is_in_bundles() else "SPREAD"


def is_in_bundles() -> bool:
    """Say whether this process has room of its own, in which its actors are to be: a trial."""
    return ray.util.get_current_placement_group() is not None


def put_setup(setup: EngineSetup, recipe: object) -> Ref:
    """Put into the object store what actors with this recipe are started with."""
    made = ActorSetup(
        plugins=tuple(setup.plugins),
        search=tuple(setup.search),
        # cloudpickle, so that classes of a notebook travel by value.
        recipe=ray.cloudpickle.dumps(recipe),
        main=ray.cloudpickle.dumps(read_main(vars(recipe).values())),
        threads=setup.options.threads,
        profile=setup.options.profile,
        sources=setup.sources,
        log_level=logging.INFO if setup.logs_events else logging.WARNING,
        deterministic=setup.options.deterministic,
    )
    return ray.put(made)
