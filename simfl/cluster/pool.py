"""What a run asks of a cluster: groups of client actors, and what each actor needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from simfl.sections import ActorsSection, ClusterSection, GroupSection


@dataclass(frozen=True, kw_only=True)
class ActorGroup(ActorsSection):
    """Client actors of one kind, and the clients that they alone train."""

    name: str | None = None
    """None: the only group."""
    key: str = "cluster"
    """Where it stands in the scenario, for messages."""
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


def actor_groups(cluster: ClusterSection, stacks: Sequence[int]) -> tuple[ActorGroup, ...]:
    """Return the groups of client actors that a scenario asks for; one if it names none.

    Args:
        cluster: the scenario's section.
        stacks: by group, how many clients are trained in one computation.
    """
    if not cluster.groups:
        return (ActorGroup(stack=stacks[0], **_actor_keys(cluster)),)
    return tuple(
        ActorGroup(
            name=group.name, key=f"cluster.groups[{index}]", stack=stack, **_actor_keys(group)
        )
        for index, (group, stack) in enumerate(zip(cluster.groups, stacks, strict=True))
    )


def _actor_keys(section: ClusterSection | GroupSection) -> dict[str, Any]:
    return {field.name: getattr(section, field.name) for field in fields(ActorsSection)}
