"""What there is to run on: the nodes of a cluster, or this machine."""

from __future__ import annotations

import os

from simfl.cluster.connect import connect
from simfl.cluster.placement import Node, nodes_of

__all__ = ["survey"]

_STORE_SHARE = 0.3
"""Ray's object store of a cluster of one's own takes so much of the memory."""


def survey(address: str | None, *, num_cpus: int) -> list[Node]:
    """Return the nodes of the cluster at an address, or what a run would start here without one.

    Args:
        address: as for ``connect``.
        num_cpus: how many CPUs a cluster of one's own would count with.

    Raises:
        ClusterError: if there is no cluster at the address.
    """
    where = address or os.environ.get("RAY_ADDRESS") or "local"
    return [_this_machine(num_cpus)] if where == "local" else _nodes_at(where)


def _nodes_at(address: str) -> list[Node]:
    connection = connect(address=address, num_cpus=0, dashboard=False)
    try:
        return nodes_of(connection.ray.nodes())
    finally:
        connection.close()


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
