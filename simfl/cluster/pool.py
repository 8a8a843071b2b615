"""What a run asks of a cluster: groups of client actors, and what each actor needs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Strategy: TypeAlias = Literal["spread", "pack", "strict_spread", "strict_pack"]


@dataclass(frozen=True)
class ActorGroup:
    """Client actors of one kind, and the clients that they alone train."""

    name: str | None = None
    """None: the only group."""
    key: str = "cluster"
    """Where it stands in the scenario, for messages."""
    actors: int | None = None
    """How many there are; None: as many as there is room for."""
    min_actors: int | None = None
    """How many must be there for a round to begin; None: one, and all of a fixed number at the
    start."""
    max_actors: int | None = None
    """How many there may be, where they are as many as there is room for."""
    num_cpus: float = 1.0
    """CPUs an actor takes of Ray's account."""
    num_gpus: float = 0.0
    """GPUs an actor takes; a share puts several on a device."""
    accelerator_type: str | None = None
    """The kind of GPU, by Ray's names."""
    resources: Mapping[str, float] = field(default_factory=dict)
    """What else an actor takes of what nodes were started with."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Which nodes it may be on, as Ray's label selectors have it."""
    strategy: Strategy = "spread"
    """How actors are laid over the nodes."""
    stack: int = 1
    """How many of its clients are trained in one computation."""

    @property
    def uses_gpu(self) -> bool:
        """Whether its actors train on a GPU."""
        return self.num_gpus > 0

    @property
    def device(self) -> tuple[bool, str | None]:
        """The kind of device: groups of the same one give the same bits."""
        return self.uses_gpu, self.accelerator_type

    @property
    def needs(self) -> dict[str, float]:
        """What an actor takes, by Ray's names of resources."""
        needs = {"CPU": self.num_cpus, "GPU": self.num_gpus, **self.resources}
        if self.accelerator_type is not None:
            needs[f"accelerator_type:{self.accelerator_type}"] = 0.001
        return {name: need for name, need in needs.items() if need > 0}

    def label(self, number: int) -> str:
        """Return what an actor is called: ``client-3``, or ``client-gpu-3``."""
        return f"client-{number}" if self.name is None else f"client-{self.name}-{number}"

    def __str__(self) -> str:
        return "" if self.name is None else f"group {self.name!r}: "


@dataclass(frozen=True)
class ClusterOptions:
    """The scenario's ``cluster`` section, as this layer needs it."""

    groups: tuple[ActorGroup, ...] = (ActorGroup(),)
    placement: Literal["pool", "dedicated"] = "pool"
    """A pool hosts any client on any actor; dedicated gives each client one of its own."""
    address: str | None = None
    autoscaling: bool = False
    """Whether the cluster starts nodes for actors that have no room yet."""
    threads: int = 1
    """torch's threads in each actor."""
    deterministic: bool = False
    """Whether GPUs use deterministic kernels only."""
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
