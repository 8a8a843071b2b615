"""From a simulation to the engine that runs it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np

from simfl.client import ClientHost
from simfl.cluster.placement import Bounds, bounds_of
from simfl.cluster.session import chosen_address, start_ray_engine
from simfl.cluster.setup import EngineSetup, SharedData
from simfl.engine import Engine, InlineEngine, device_for, prepare_device
from simfl.simulation.build import Simulation

Backend = Literal["inline", "ray"]


def make_engine(
    simulation: Simulation,
    backend: Backend,
    *,
    address: str | None,
    location: str,
    profile: bool = False,
    notify: Callable[[str], None] = lambda _: None,
    shared: SharedData | None = None,
) -> Engine:
    """Start what trains the clients.

    Args:
        simulation: the simulation to run.
        backend: this process, or actors on Ray.
        address: of a Ray cluster, instead of ``cluster.address``.
        location: the storage of checkpoints.
        profile: whether to profile the actors.
        notify: called with messages for the user.
        shared: the data set in the object store, if it is there.

    Raises:
        ClusterError: if the cluster cannot be started.
    """
    if backend == "inline":
        return _inline(simulation, location=location)
    scenario = simulation.scenario
    return start_ray_engine(
        EngineSetup(
            cluster=scenario.cluster,
            groups=simulation.groups,
            location=location,
            server=simulation.server,
            client=simulation.client,
            dataset=simulation.dataset,
            cohort_size=simulation.cohort_size,
            group_of=simulation.group_of,
            bounds=tuple(actor_bounds(simulation)),
            run_name=f"simfl-{uuid.uuid4().hex[:8]}",
            address=chosen_address(address, scenario.cluster.address),
            profile=profile,
            scenario=scenario.name or "run",
            plugins=scenario.plugins,
            search=scenario.search,
            notify=notify,
            shared=shared,
        )
    )


def actor_bounds(simulation: Simulation) -> list[Bounds]:
    """Return how many actors each group needs and can use."""
    groups = simulation.groups
    return bounds_of(
        groups,
        np.bincount(simulation.group_of, minlength=len(groups)).tolist(),
        cohort_size=simulation.cohort_size,
        is_dedicated=simulation.scenario.cluster.placement == "dedicated",
    )


def _inline(simulation: Simulation, *, location: str) -> InlineEngine:
    cluster = simulation.scenario.cluster
    by_group: list[ClientHost] = []
    hosts: dict[tuple[str, int], ClientHost] = {}
    for group in simulation.groups:
        device = device_for("the inline backend", uses_gpu=group.uses_gpu)
        prepare_device(device, deterministic=cluster.deterministic)
        if (device, group.stack) not in hosts:
            recipe = replace(simulation.client, stack=group.stack)
            hosts[device, group.stack] = ClientHost(recipe, simulation.dataset, device=device)
        by_group.append(hosts[device, group.stack])
    return InlineEngine(
        simulation.server.build(),
        by_group,
        chunk_size=None if cluster.chunk_size == "auto" else cluster.chunk_size,
        threads=cluster.threads,
        location=location,
        state_memory=cluster.state_memory,
    )
