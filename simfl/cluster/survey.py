"""What there is to run on: the nodes of a cluster, or this machine."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from simfl.cluster.connect import connect
from simfl.cluster.placement import Node, nodes_of

_STORE_SHARE = 0.3
"""Ray's object store of a cluster of one's own takes so much of the memory."""


class Survey(NamedTuple):
    """What a cluster has."""

    nodes: list[Node]
    free: Mapping[str, float] | None
    """The resources that are free now, on all nodes together; None if there is no cluster yet."""


def survey(address: str | None, *, num_cpus: int) -> Survey:
    """Look at the cluster at an address, or at what a run would start here without one.

    Args:
        address: as for ``connect``.
        num_cpus: how many CPUs a cluster of one's own would count with.

    Raises:
        ClusterError: if there is no cluster at the address.
    """
    where = address or os.environ.get("RAY_ADDRESS") or "local"
    return Survey([_this_machine(num_cpus)], None) if where == "local" else _look_at(where)


def _look_at(address: str) -> Survey:
    connection = connect(address=address, num_cpus=0, dashboard=False)
    try:
        return Survey(nodes_of(connection.ray.nodes()), connection.ray.available_resources())
    finally:
        connection.close()


def describe_room(own: str) -> str:
    """Say what is free in this cluster, and which jobs use the rest, if Ray knows.

    Args:
        own: the namespace of the run's own actors, which are excluded.
    """
    import ray

    total, free = ray.cluster_resources(), ray.available_resources()
    names = [name for name in ("CPU", "GPU") if total.get(name)]
    room = ", ".join(f"{free.get(name, 0):g} of {total[name]:g} {name}" for name in names)
    taken = [f"{who} {what}" for who, what in _holders(own).items()]
    return f"free in the cluster: {room}" + (
        f"; other jobs use: {', '.join(taken)}" if taken else ""
    )


def _holders(own: str) -> dict[str, str]:
    """Return what other jobs' actors use, by job and namespace, as Ray's dashboard reports it."""
    from ray.util.state import list_actors

    taken: dict[str, Counter[str]] = {}
    with suppress(Exception):  # there is no dashboard, or it does not answer
        alive: Any = [("state", "=", "ALIVE")]
        for actor in list_actors(filters=alive, detail=True, limit=1000, timeout=3):
            if actor.ray_namespace != own:
                who = f"job {actor.job_id} ({actor.ray_namespace})"
                taken.setdefault(who, Counter()).update(actor.required_resources or {})
    kinds = {who: [(n, what) for what, n in c.items() if n] for who, c in taken.items()}
    return {who: ", ".join(f"{n:g} {w}" for n, w in kind) for who, kind in kinds.items() if kind}


def _this_machine(num_cpus: int) -> Node:
    """Return what Ray would count here; starting it to be told so would take seconds."""
    import torch

    resources: dict[str, float] = {"CPU": num_cpus}
    if num_gpus := torch.cuda.device_count():
        resources["GPU"] = num_gpus
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    resources["memory"] = memory * (1 - _STORE_SHARE)
    resources["object_store_memory"] = memory * _STORE_SHARE
    return Node("here", "this machine", resources)
