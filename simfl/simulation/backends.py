"""From a simulation to the engine that runs it."""

from __future__ import annotations

import copy
import os
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np

from simfl.client import ClientHost, ClientRecipe
from simfl.cluster.code import read_sources, searched_here
from simfl.cluster.placement import Bounds, bounds_of, cpus_to_count
from simfl.cluster.processes import cpus_of_this_machine
from simfl.cluster.session import chosen_address, connect
from simfl.cluster.setup import EngineSetup, SharedData
from simfl.data import FederatedDataset
from simfl.engine import (
    Engine,
    InlineEngine,
    MoreHosts,
    Workload,
    device_for,
    prepare_device,
)
from simfl.messages import Chunk, EvaluationChunk
from simfl.simulation.building import Simulation

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
    """Return what trains the clients, which has the examples, and is to be opened.

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
    return _ray(
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


def _ray(setup: EngineSetup) -> Engine:
    """Connect to Ray and start the actors; if that fails, everything that was started is ended.

    Raises:
        ClusterError: if there is no such cluster, or it has no room for the actors.
    """
    cluster = setup.cluster
    forks = all(group.num_cpus < 2 and not group.uses_gpu for group in setup.groups)
    is_usual = not (cluster.dashboard or cluster.object_store_memory or setup.profile)
    is_usual &= all(group.needs.keys() <= {"CPU"} and not group.labels for group in setup.groups)
    cpus = sum(g.num_cpus * b.least for g, b in zip(setup.groups, setup.bounds, strict=True))
    connection = connect(
        address=setup.address,
        num_cpus=cpus_to_count(setup.groups, setup.bounds),
        dashboard=cluster.dashboard,
        object_store_memory=cluster.object_store_memory,
        keeps_events=cluster.dashboard or setup.profile,
        forks=forks,
        joins=cpus if forks and is_usual else None,
        # The dashboard shows `job_name`.
        metadata={"scenario": setup.scenario, "job_name": setup.scenario},
    )
    try:
        from simfl.cluster.engine import RayEngine  # imports Ray, whose settings are now complete

        sources = read_sources((*setup.search, *searched_here()))
        # The user's own session may print its actors' logs on the terminal.
        return RayEngine(
            connection,
            replace(
                setup,
                logs_events=connection.is_owned,
                sources=sources,
                folder=os.getcwd() if connection.is_joined else None,
            ),
        )
    except BaseException:
        connection.close()
        raise


def _inline(simulation: Simulation, *, location: str) -> InlineEngine:
    cluster, groups = simulation.scenario.cluster, simulation.groups
    client, dataset = simulation.client, simulation.dataset
    workload = Workload(client.work, dataset, personal_steps=client.personal_steps)

    def num_steps(chunk: Chunk | EvaluationChunk) -> float:
        together = groups[chunk.group].stack if isinstance(chunk, Chunk) else 1
        return workload.of(chunk)[0] / together

    def build_more() -> list[ClientHost]:
        # As in actors, each has components of its own, which may hold objects of the user's.
        shared = {id(one): one for one in (client.spec, client.initial)}
        return _hosts(simulation, copy.deepcopy(client, shared), dataset)

    return InlineEngine(
        simulation.server.build(),
        _hosts(simulation, client, dataset),
        more=MoreHosts(build_more, most_threads(simulation), num_steps),
        chunk_size=None if cluster.chunk_size == "auto" else cluster.chunk_size,
        threads=cluster.threads,
        location=location,
        state_memory=cluster.state_memory,
    )


def _hosts(
    simulation: Simulation, client: ClientRecipe, dataset: FederatedDataset
) -> list[ClientHost]:
    """Build a host for each group, or for several that are alike."""
    hosts: dict[tuple[bool, int], ClientHost] = {}
    for group in simulation.groups:
        if (group.uses_gpu, group.stack) not in hosts:
            device = device_for("the inline backend", uses_gpu=group.uses_gpu)
            prepare_device(device, deterministic=simulation.scenario.cluster.deterministic)
            recipe = replace(client, stack=group.stack)
            hosts[group.uses_gpu, group.stack] = ClientHost(recipe, dataset, device=device)
    return [hosts[group.uses_gpu, group.stack] for group in simulation.groups]


def most_threads(simulation: Simulation) -> int:
    """Return how many threads may train clients in this process.

    As many as actors with their CPUs would have room for on this machine. On GPUs it is one; and so
    it is in bfloat16, since torch keeps casts of weights for the whole process.
    """
    groups, cluster = simulation.groups, simulation.scenario.cluster
    if any(group.uses_gpu for group in groups) or simulation.client.work.precision != "float32":
        return 1
    cpus_each = max(cluster.threads, *(group.num_cpus for group in groups))
    useful = sum(bounds.most for bounds in actor_bounds(simulation))
    return max(1, min(int(cpus_of_this_machine() / cpus_each), useful))
