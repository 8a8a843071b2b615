"""From a simulation to the engine that runs it."""

from __future__ import annotations

import uuid
from typing import Literal

from simfl.client import ClientHost
from simfl.cluster.pool import ClusterOptions
from simfl.cluster.setup import EngineSetup
from simfl.cluster.shared import SharedData
from simfl.engine import Engine, InlineEngine, device_for
from simfl.scenario.sections import ClusterSection
from simfl.simulation.build import Simulation

__all__ = ["Backend", "cluster_options", "make_engine"]

Backend = Literal["inline", "ray"]


def make_engine(
    simulation: Simulation,
    backend: Backend,
    *,
    address: str | None,
    location: str,
    profile: bool = False,
    shared: SharedData | None = None,
) -> Engine:
    """Start what trains the clients.

    Args:
        simulation: what is run.
        backend: this process, or actors on Ray.
        address: of a Ray cluster, instead of ``cluster.address``.
        location: the storage of checkpoints.
        profile: whether to note what the actors do with their time.
        shared: where the data set lies in the object store, if it does.

    Raises:
        ClusterError: if it can't be started.
    """
    cluster = simulation.scenario.cluster
    options = cluster_options(cluster, address=address, location=location, profile=profile)
    if backend == "inline":
        return _inline(simulation, options)
    return _ray(simulation, options, shared)


def _inline(simulation: Simulation, options: ClusterOptions) -> InlineEngine:
    device = device_for("the inline backend", uses_gpu=options.num_gpus > 0)
    return InlineEngine(
        simulation.server.build(),
        ClientHost(simulation.client, simulation.dataset, device=device),
        chunk_size=options.chunk_size,
        threads=options.threads,
        location=options.location,
        state_memory=options.state_memory,
    )


def _ray(simulation: Simulation, options: ClusterOptions, shared: SharedData | None) -> Engine:
    from simfl.cluster.start import start_ray_engine

    return start_ray_engine(
        EngineSetup(
            options=options,
            server=simulation.server,
            client=simulation.client,
            dataset=simulation.dataset,
            cohort_size=simulation.cohort_size,
            run_name=f"simfl-{uuid.uuid4().hex[:8]}",
            scenario=simulation.scenario.name or "run",
            plugins=simulation.scenario.plugins,
            search=simulation.scenario.search,
            shared=shared,
        )
    )


def cluster_options(
    cluster: ClusterSection,
    *,
    address: str | None,
    location: str = "checkpoints",
    profile: bool = False,
) -> ClusterOptions:
    """Return what the cluster layer needs of the scenario's section."""
    return ClusterOptions(
        actors=None if cluster.actors == "auto" else cluster.actors,
        placement=cluster.placement,
        address=address or cluster.address,
        num_cpus=cluster.num_cpus,
        num_gpus=cluster.num_gpus,
        threads=cluster.threads,
        chunk_size=None if cluster.chunk_size == "auto" else cluster.chunk_size,
        dashboard=cluster.dashboard,
        object_store_memory=cluster.object_store_memory,
        location=location,
        state_memory=cluster.state_memory,
        max_retries=cluster.max_retries,
        stall_limit_s=cluster.stall_limit_s,
        profile=profile,
    )
