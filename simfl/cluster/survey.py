"""The resources of a cluster, or of this machine: in all, free, and used by other jobs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from simfl.cluster.environment import resolve_address
from simfl.cluster.placement import Node, nodes_of
from simfl.cluster.session import connect

_STORE_FRACTION = 0.3
"""The fraction of the memory that a new cluster's object store uses by Ray's default."""


class Survey(NamedTuple):
    """The nodes of a cluster."""

    nodes: list[Node]
    free: Mapping[str, float] | None
    """The resources that are free now, on all nodes together; None if there is no cluster yet."""


def survey(address: str | None, *, num_cpus: int) -> Survey:
    """Look at the cluster at an address, or at the one that a run would start on this machine.

    Args:
        address: as for ``connect``.
        num_cpus: the number of CPUs of a cluster that a run would start.

    Raises:
        ClusterError: if there is no cluster at the address.
    """
    where = resolve_address(address)
    if where == "local":
        return Survey([_this_machine(num_cpus)], None)
    connection = connect(address=where, num_cpus=0, dashboard=False)
    try:
        return Survey(nodes_of(connection.ray.nodes()), connection.ray.available_resources())
    finally:
        connection.close()


@dataclass(frozen=True)
class Cluster:
    """The cluster of this process's session."""

    nodes: tuple[Node, ...]
    here: str
    """The resource that only the node of this process has."""


def present_cluster() -> Cluster:
    """Look at the cluster of the session that this process is in."""
    import ray

    own = ray.get_runtime_context().get_node_id()
    nodes = tuple(nodes_of(ray.nodes()))
    (mine,) = (node.resources for node in nodes if node.id == own)
    here = next(name for name in mine if name.startswith("node:") and "__" not in name)
    return Cluster(nodes, here)


def describe_room(own: str) -> str:
    """Describe what is free in this session's cluster, and which jobs use the rest, if known.

    Args:
        own: the namespace of the run's own actors, which are excluded.
    """
    import ray

    total, free = ray.cluster_resources(), ray.available_resources()
    names = [name for name in ("CPU", "GPU") if total.get(name)]
    room = ", ".join(f"{free.get(name, 0):g} of {total[name]:g} {name}" for name in names)
    users = [f"{job} {resources}" for job, resources in _other_jobs(own).items()]
    return f"free in the cluster: {room}" + (
        f"; other jobs use: {', '.join(users)}" if users else ""
    )


def _other_jobs(own: str) -> dict[str, str]:
    """Return the resources of other jobs' actors, by job and namespace, from Ray's dashboard."""
    import ray
    from ray.util.state import list_actors

    here = ray.get_runtime_context().gcs_address  # or else that of any cluster on this machine
    used: dict[str, Counter[str]] = {}
    with suppress(Exception):  # there is no dashboard, or it does not answer
        alive: Any = [("state", "=", "ALIVE")]
        for actor in list_actors(here, filters=alive, detail=True, limit=1000, timeout=3):
            if actor.ray_namespace != own:
                job = f"job {actor.job_id} ({actor.ray_namespace})"
                used.setdefault(job, Counter()).update(actor.required_resources or {})
    described = {
        job: ", ".join(f"{amount:g} {name}" for name, amount in resources.items() if amount)
        for job, resources in used.items()
    }
    return {job: resources for job, resources in described.items() if resources}


def _this_machine(num_cpus: int) -> Node:
    """Return what Ray would count here; starting Ray to ask it would take seconds."""
    import torch

    resources: dict[str, float] = {"CPU": num_cpus}
    if num_gpus := torch.cuda.device_count():
        resources["GPU"] = num_gpus
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    resources["memory"] = memory * (1 - _STORE_FRACTION)
    resources["object_store_memory"] = memory * _STORE_FRACTION
    return Node("here", "this machine", resources)
