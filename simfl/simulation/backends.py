"""From a simulation to the engine that runs it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np

from simfl.client import ClientHost
from simfl.cluster.placement import Bounds, bounds_of
from simfl.cluster.pool import ActorGroup, ClusterOptions
from simfl.cluster.references import SharedData
from simfl.cluster.session import chosen_address
from simfl.cluster.setup import EngineSetup
from simfl.engine import Engine, InlineEngine, device_for, prepare_device
from simfl.sections import ActorsSection, ClusterSection, GroupSection
from simfl.simulation.build import Simulation

Backend = Literal["inline", "ray"]


def make_engine(
    simulation: Simulation,
    backend: Backend,
    *,
    address: str | None,
    location: str,
    profile: bool = False,
    tell: Callable[[str], None] = lambda _: None,
    shared: SharedData | None = None,
) -> Engine:
    """Start what trains the clients.

    Args:
        simulation: what is run.
        backend: this process, or actors on Ray.
        address: of a Ray cluster, instead of ``cluster.address``.
        location: the storage of checkpoints.
        profile: whether to note what the actors do with their time.
        tell: is told what a user should know meanwhile, a line each.
        shared: where the data set lies in the object store, if it does.

    Raises:
        ClusterError: if it can't be started.
    """
    cluster = simulation.scenario.cluster
    where = chosen_address(address, cluster.address) if backend == "ray" else None
    options = replace(
        _options(cluster, address=where, location=location, profile=profile),
        groups=actor_groups(simulation),
    )
    if backend == "inline":
        return _inline(simulation, options)
    return _ray(simulation, options, tell=tell, shared=shared)


def actor_groups(simulation: Simulation) -> tuple[ActorGroup, ...]:
    """Return the groups of client actors that the scenario asks for; one if it names none."""
    cluster = simulation.scenario.cluster
    sections: tuple[ActorsSection, ...] = cluster.groups or (cluster,)
    pairs = zip(sections, simulation.stacks, strict=True)
    return tuple(_group(section, index, stack) for index, (section, stack) in enumerate(pairs))


def actor_bounds(simulation: Simulation) -> list[Bounds]:
    """Return how many actors each group needs and can use."""
    groups = actor_groups(simulation)
    return bounds_of(
        groups,
        np.bincount(simulation.group_of, minlength=len(groups)).tolist(),
        cohort_size=simulation.cohort_size,
        is_dedicated=simulation.scenario.cluster.placement == "dedicated",
    )


def _group(section: ActorsSection, index: int, stack: int) -> ActorGroup:
    named = section if isinstance(section, GroupSection) else None
    return ActorGroup(
        name=named.name if named else None,
        key=f"cluster.groups[{index}]" if named else "cluster",
        actors=None if section.actors == "auto" else section.actors,
        min_actors=section.min_actors,
        max_actors=section.max_actors,
        num_cpus=section.num_cpus,
        num_gpus=section.num_gpus,
        accelerator_type=section.accelerator_type,
        resources=section.resources,
        labels=section.labels,
        strategy=section.strategy,
        stack=stack,
    )


def _inline(simulation: Simulation, options: ClusterOptions) -> InlineEngine:
    by_group: list[ClientHost] = []
    hosts: dict[tuple[str, int], ClientHost] = {}
    for group in options.groups:
        device = device_for("the inline backend", uses_gpu=group.uses_gpu)
        prepare_device(device, deterministic=options.deterministic)
        if (device, group.stack) not in hosts:
            recipe = replace(simulation.client, stack=group.stack)
            hosts[device, group.stack] = ClientHost(recipe, simulation.dataset, device=device)
        by_group.append(hosts[device, group.stack])
    return InlineEngine(
        simulation.server.build(),
        by_group,
        chunk_size=options.chunk_size,
        threads=options.threads,
        location=options.location,
        state_memory=options.state_memory,
    )


def _ray(
    simulation: Simulation,
    options: ClusterOptions,
    *,
    tell: Callable[[str], None],
    shared: SharedData | None,
) -> Engine:
    from simfl.cluster.session import start_ray_engine

    return start_ray_engine(
        EngineSetup(
            options=options,
            server=simulation.server,
            client=simulation.client,
            dataset=simulation.dataset,
            cohort_size=simulation.cohort_size,
            group_of=simulation.group_of,
            bounds=tuple(actor_bounds(simulation)),
            run_name=f"simfl-{uuid.uuid4().hex[:8]}",
            scenario=simulation.scenario.name or "run",
            plugins=simulation.scenario.plugins,
            search=simulation.scenario.search,
            notify=tell,
            shared=shared,
        )
    )


def _options(
    cluster: ClusterSection, *, address: str | None, location: str, profile: bool
) -> ClusterOptions:
    return ClusterOptions(
        placement=cluster.placement,
        address=address,
        autoscaling=cluster.autoscaling,
        deterministic=cluster.deterministic,
        threads=cluster.threads,
        chunk_size=None if cluster.chunk_size == "auto" else cluster.chunk_size,
        dashboard=cluster.dashboard,
        object_store_memory=cluster.object_store_memory,
        location=location,
        state_memory=cluster.state_memory,
        max_retries=cluster.max_retries,
        stall_limit_s=cluster.stall_limit_s,
        start_timeout_s=cluster.start_timeout_s,
        profile=profile,
    )
