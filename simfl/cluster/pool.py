"""How many actors there are, what each needs, and whether the cluster can give it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from simfl.errors import ClusterError

__all__ = ["ClusterOptions", "cpus_of_this_machine", "num_client_actors", "require_resources"]


@dataclass(frozen=True)
class ClusterOptions:
    """The scenario's ``cluster`` section, as this layer needs it."""

    actors: int | None = None
    """How many client actors; None: as many as the cluster has room for."""
    placement: Literal["pool", "dedicated"] = "pool"
    """A pool hosts any client on any actor; dedicated gives each client one of its own."""
    address: str | None = None
    num_cpus: float = 1.0
    """CPUs a client actor takes of Ray's account."""
    num_gpus: float = 0.0
    """GPUs a client actor takes; a share puts several on a device."""
    threads: int = 1
    """torch's threads in each actor."""
    chunk_size: int | None = None
    """Clients a chunk; None: a rule's choice. It has no part in the result."""
    dashboard: bool = False
    object_store_memory: int | None = None
    """Bytes of a new cluster's object store; None: Ray's choice."""
    location: str = "checkpoints"
    """The storage of checkpoints, and of states beyond the budget."""
    state_memory: int = 1 << 30
    """Bytes of clients' states that may stay in the object store."""
    max_retries: int = 3
    """How often the same chunk may bring down its actor before the run ends."""
    stall_limit_s: float | None = None
    """How long a chunk may take before its actor is taken for stalled; None: learned."""
    profile: bool = False
    """Whether to note what all processes do with their time."""
    start_timeout_s: float = 180.0
    """How long the actors may take to start."""


def cpus_of_this_machine() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def num_client_actors(
    options: ClusterOptions, *, resources: Mapping[str, float], population: int, cohort_size: int
) -> int:
    """Return how many client actors to start.

    Args:
        options: what the scenario says.
        resources: what the cluster has in all, by Ray's names.
        population: how many clients there are.
        cohort_size: how many take part in a round; more actors would have nothing to do.

    >>> num_client_actors(ClusterOptions(), resources={"CPU": 8}, population=100, cohort_size=5)
    5
    """
    if options.placement == "dedicated":
        return population
    if options.actors is not None:
        return options.actors
    needs = {"CPU": options.num_cpus, "GPU": options.num_gpus}
    room = [math.floor(resources.get(name, 0) / need) for name, need in needs.items() if need > 0]
    return max(1, min([cohort_size, *room]))


def require_resources(
    options: ClusterOptions, num_actors: int, *, resources: Mapping[str, float]
) -> None:
    """See that the cluster can ever hold the actors; Ray itself would wait without end.

    Raises:
        ClusterError: saying what is needed, what there is, and what to change.
    """
    needs = {"CPU": options.num_cpus * num_actors, "GPU": options.num_gpus * num_actors}
    for name, need in needs.items():
        if need > resources.get(name, 0) + 1e-9:
            raise ClusterError(
                f"{num_actors} client actors need {need:g} {name}s, and the cluster has "
                f"{resources.get(name, 0):g}; lower cluster.actors or cluster.num_{name.lower()}s"
            )
