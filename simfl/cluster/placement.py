"""Where client actors have room: arithmetic on what nodes have and what groups need.

Ray itself would wait without end for what no node can ever give.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from simfl.cluster.pool import ActorGroup, cpus_of_this_machine
from simfl.errors import ClusterError

_SELECTOR: Final = re.compile(r"(!?)(?:in\((.*)\)|(.*))")
_ROUNDING: Final = 1e-6


@dataclass(frozen=True)
class Node:
    """A machine of the cluster, as Ray counts it."""

    id: str
    name: str
    """Its address, or what it calls itself."""
    resources: Mapping[str, float]
    """What it has in all, by Ray's names."""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Bounds:
    """How many actors a group needs at least, and can use at most."""

    least: int
    most: int


@dataclass(frozen=True)
class Placement:
    """How many actors of each group there is room for, and where."""

    by_node: tuple[Mapping[str, int], ...]
    """By group: node id -> actors."""

    @property
    def counts(self) -> tuple[int, ...]:
        """By group: actors in all."""
        return tuple(sum(on.values()) for on in self.by_node)


def nodes_of(rows: Sequence[Mapping[str, Any]]) -> list[Node]:
    """Return the living nodes of what ``ray.nodes()`` returns."""
    return [
        Node(row["NodeID"], row["NodeManagerAddress"], row["Resources"], row.get("Labels") or {})
        for row in rows
        if row["Alive"]
    ]


def bounds_of(
    groups: Sequence[ActorGroup],
    num_clients: Sequence[int],
    *,
    cohort_size: int,
    is_dedicated: bool,
) -> list[Bounds]:
    """Return how many actors each group needs and can use.

    Args:
        groups: of client actors.
        num_clients: by group, how many clients it has; more actors than these, or than a cohort
            has clients, would have nothing to do.
        cohort_size: clients a round.
        is_dedicated: whether each client has an actor of its own.
    """
    if is_dedicated:
        return [Bounds(clients, clients) for clients in num_clients]
    pairs = zip(groups, num_clients, strict=True)
    return [_bounds(group, min(clients, cohort_size)) for group, clients in pairs]


def _bounds(group: ActorGroup, useful: int) -> Bounds:
    if group.actors is not None:
        return Bounds(group.min_actors or group.actors, group.actors)
    least = group.min_actors or 1
    return Bounds(least, max(least, min(useful, group.max_actors or useful)))


def cpus_to_count(groups: Sequence[ActorGroup], bounds: Sequence[Bounds]) -> int:
    """Return the CPUs that a cluster of one's own is to count with.

    Ray's CPUs are an account and not a limit: what a scenario asks for may be had here.
    """
    pairs = zip(groups, bounds, strict=True)
    needed = sum(group.num_cpus * bound.least for group, bound in pairs)
    return max(cpus_of_this_machine(), math.ceil(needed))


def place(
    groups: Sequence[ActorGroup], bounds: Sequence[Bounds], nodes: Sequence[Node]
) -> Placement:
    """Find room: for what every group needs first, and then for what it can use.

    Groups that few nodes can hold come first: those with GPUs, then those with labels or resources
    of their own.

    >>> node = Node("a", "10.0.0.1", {"CPU": 4, "GPU": 1})
    >>> groups = [ActorGroup("cpu"), ActorGroup("gpu", num_gpus=0.5)]
    >>> place(groups, [Bounds(1, 9), Bounds(1, 9)], [node]).counts
    (2, 2)
    """
    free = {node.id: dict(node.resources) for node in nodes}
    by_node: list[dict[str, int]] = [{} for _ in groups]
    order = sorted(range(len(groups)), key=lambda index: _ease(groups[index]))
    for goal in ("least", "most"):
        for index in order:
            _fill(groups[index], getattr(bounds[index], goal), nodes, free, by_node[index])
    return Placement(tuple(by_node))


def require_room(
    groups: Sequence[ActorGroup],
    bounds: Sequence[Bounds],
    placement: Placement,
    nodes: Sequence[Node],
) -> None:
    """See that each group has the actors it needs.

    Raises:
        ClusterError: saying what is needed, what there is, and what to change.
    """
    for group, bound, count in zip(groups, bounds, placement.counts, strict=True):
        if count < bound.least:
            raise ClusterError(explain_lack(group, bound.least, count, nodes))


def matches(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Say whether a node's labels are as asked for.

    A condition is a value, ``in(a,b)``, or either with ``!`` before it; see
    https://docs.ray.io/en/latest/ray-core/scheduling/labels.html

    >>> matches({"zone": "a"}, {"zone": "in(a,b)", "spot": "!yes"})
    True
    """
    for key, condition in selector.items():
        negated, several, one = _SELECTOR.fullmatch(condition).groups()  # type: ignore[union-attr]
        values = [one] if several is None else [value.strip() for value in several.split(",")]
        if (labels.get(key) in values) == bool(negated):
            return False
    return True


def describe_needs(group: ActorGroup) -> str:
    """Say what an actor of the group takes: ``1 CPU, 0.25 GPU``."""
    parts = [f"{need:g} {name}" for name, need in group.needs.items() if ":" not in name]
    if group.accelerator_type is not None:
        parts.append(f"accelerator type {group.accelerator_type}")
    parts += [f"label {key}={value}" for key, value in group.labels.items()]
    return ", ".join(parts) or "nothing"


def _ease(group: ActorGroup) -> tuple[bool, int]:
    special = bool(group.accelerator_type) + len(group.labels) + len(group.resources)
    return not group.uses_gpu, -special


def _fill(
    group: ActorGroup,
    goal: int,
    nodes: Sequence[Node],
    free: Mapping[str, dict[str, float]],
    on: dict[str, int],
) -> None:
    """Place actors until there are so many, or no node has room for another."""
    strict_spread = group.strategy == "strict_spread"
    while sum(on.values()) < goal:
        room = {
            node.id: _room(group, free[node.id])
            for node in nodes
            if matches(node.labels, group.labels) and not (strict_spread and node.id in on)
        }
        if group.strategy == "strict_pack" and on:
            room = {node: slots for node, slots in room.items() if node in on}
        room = {node: slots for node, slots in room.items() if slots > 0}
        if not room:
            return
        sign = 1 if group.strategy in ("pack", "strict_pack") else -1
        chosen = max(room, key=lambda node: (sign * on.get(node, 0), room[node]))
        on[chosen] = on.get(chosen, 0) + 1
        for name, need in group.needs.items():
            free[chosen][name] -= need


def _room(group: ActorGroup, free: Mapping[str, float]) -> float:
    """Return how many actors a node has room for."""
    rooms = [
        math.floor(free.get(name, 0.0) / need + _ROUNDING) for name, need in group.needs.items()
    ]
    return min(rooms, default=math.inf)


def explain_lack(group: ActorGroup, needed: int, count: int, nodes: Sequence[Node]) -> str:
    """Say in a line that a group needs more actors than there is room for, and what to change."""
    each = describe_needs(group)
    has = ", ".join(f"{_total(nodes, name):g} {name}" for name in ("CPU", "GPU"))
    actors = "1 client actor" if needed == 1 else f"{needed} client actors"
    if group.uses_gpu and not _total(nodes, "GPU"):
        remedy = f"set {group.key}.num_gpus: 0 to train on CPUs"
    elif count == 0:
        remedy = f"lower {group.key}.num_cpus or what else each takes"
    else:
        remedy = f"lower {group.key}.actors or what each takes"
    return (
        f"{group}{actors} with {each} each {'need' if needed > 1 else 'needs'} more than there is: "
        f"the cluster has {has} on {len(nodes)} node{'s' if len(nodes) != 1 else ''}, room for "
        f"{count}; {remedy}, or set cluster.autoscaling: true if nodes are started on demand"
    )


def _total(nodes: Sequence[Node], name: str) -> float:
    return sum(node.resources.get(name, 0.0) for node in nodes)
