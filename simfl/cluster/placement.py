"""Where client actors, and the runs of a sweep, have room: arithmetic on resources.

Ray itself would wait forever for resources that no node has.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from simfl.cluster.pool import ActorGroup
from simfl.cluster.processes import cpus_of_this_machine
from simfl.errors import ClusterError

_SELECTOR: Final = re.compile(r"(!?)(?:in\((.*)\)|(.*))")
_ROUNDING: Final = 1e-6


@dataclass(frozen=True)
class Node:
    """A machine of the cluster, as Ray counts it."""

    id: str
    name: str
    """Its address, or a description."""
    resources: Mapping[str, float]
    """Its total resources, by Ray's names."""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Bounds:
    """The least number of actors that a group needs, and the most that it can use."""

    least: int
    most: int


@dataclass(frozen=True)
class Placement:
    """The numbers of actors that there is room for."""

    by_node: tuple[Mapping[str, int], ...]
    """By group: node id -> number of actors."""

    @property
    def counts(self) -> tuple[int, ...]:
        """By group: the number of actors on all nodes."""
        return tuple(sum(on.values()) for on in self.by_node)


def nodes_of(rows: Sequence[Mapping[str, Any]]) -> list[Node]:
    """Return the nodes that are alive, from the rows of ``ray.nodes()``."""
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
        num_clients: by group, its number of clients; more actors than these, or than the clients
            of a cohort, would be idle.
        cohort_size: clients per round.
        is_dedicated: whether each client has its own actor.
    """
    if is_dedicated:
        return [Bounds(clients, clients) for clients in num_clients]
    pairs = zip(groups, num_clients, strict=True)
    return [_bounds(group, min(clients, cohort_size)) for group, clients in pairs]


def _bounds(group: ActorGroup, useful: int) -> Bounds:
    if isinstance(group.actors, int):
        return Bounds(group.min_actors or group.actors, group.actors)
    least = group.min_actors or 1
    return Bounds(least, max(least, min(useful, group.max_actors or useful)))


def cpus_to_count(groups: Sequence[ActorGroup], bounds: Sequence[Bounds]) -> int:
    """Return the number of CPUs with which to start a cluster for a run.

    Ray counts CPUs but does not limit their use, so a scenario may ask for more than there are.
    """
    pairs = zip(groups, bounds, strict=True)
    needed = sum(group.num_cpus * bound.least for group, bound in pairs)
    return max(cpus_of_this_machine(), math.ceil(needed))


def place(
    groups: Sequence[ActorGroup], bounds: Sequence[Bounds], nodes: Sequence[Node]
) -> Placement:
    """Find room for the actors that every group needs, and then for those that it can use.

    Groups that fit on few nodes come first: those with GPUs, then those with labels or custom
    resources.

    >>> node = Node("a", "10.0.0.1", {"CPU": 4, "GPU": 1})
    >>> groups = [ActorGroup(name="cpu"), ActorGroup(name="gpu", num_gpus=0.5)]
    >>> place(groups, [Bounds(1, 9), Bounds(1, 9)], [node]).counts
    (2, 2)
    """
    free = {node.id: dict(node.resources) for node in nodes}
    by_node: list[dict[str, int]] = [{} for _ in groups]
    order = sorted(range(len(groups)), key=lambda index: _ease(groups[index]))
    for goals in ([bound.least for bound in bounds], [bound.most for bound in bounds]):
        for index in order:
            _fill(groups[index], goals[index], nodes, free, by_node[index])
    return Placement(tuple(by_node))


def require_room(
    groups: Sequence[ActorGroup],
    bounds: Sequence[Bounds],
    placement: Placement,
    nodes: Sequence[Node],
) -> None:
    """Raise ClusterError if a group has fewer actors than it needs.

    The message says what is needed, what is available, and what to change. Ray itself would wait
    forever.
    """
    for group, bound, count in zip(groups, bounds, placement.counts, strict=True):
        if count < bound.least:
            raise ClusterError(explain_lack(group, bound.least, count, nodes))


def matches(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Return whether a node's labels match a selector.

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
    """Describe the resources of one of the group's actors: ``1 CPU, 0.25 GPU``."""
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
    """Place actors until their number is ``goal``, or no node has room for another."""
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
    """Return the number of actors that a node has room for."""
    rooms = [
        math.floor(free.get(name, 0.0) / need + _ROUNDING) for name, need in group.needs.items()
    ]
    return min(rooms, default=math.inf)


def explain_lack(group: ActorGroup, needed: int, count: int, nodes: Sequence[Node]) -> str:
    """Return a message that a group needs more actors than there is room for, with a remedy."""
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


@dataclass(frozen=True)
class Need:
    """The actors that one of several runs asks for."""

    groups: tuple[ActorGroup, ...]
    bounds: tuple[Bounds, ...]
    """By group."""
    is_inline: bool = False
    """Whether the run's own process trains its clients, with the resources of a single actor."""


def runs_at_once(needs: Sequence[Need], nodes: Sequence[Node], *, asked: int | None) -> int:
    """Return how many runs to start in parallel.

    Parallel runs wait for each other less than the actors of one run do. So a run with a free
    number of actors has as few as it can, until there are fewer runs than there is room for.

    Args:
        needs: of each run.
        nodes: of the cluster.
        asked: the user's number; None: as many as there is room for.

    >>> four, free = [Node("a", "a", {"CPU": 4.0})], Need((ActorGroup(),), (Bounds(1, 9),))
    >>> runs_at_once([free] * 10, four, asked=None)
    4
    >>> num_actors(free, four, at_once=2)
    (2,)
    """
    if asked is not None:
        return min(asked, len(needs))
    different: list[Need] = []
    for need in needs:
        if need not in different:
            different.append(need)
    return max(1, *(_copies(need, nodes, most=len(needs)) for need in different))


def num_actors(need: Need, nodes: Sequence[Node], *, at_once: int) -> tuple[int, ...]:
    """Return by group how many client actors a run has if ``at_once`` such runs are in parallel."""
    of_all_runs = [Bounds(at_once * bound.least, at_once * bound.most) for bound in need.bounds]
    counts = place(need.groups, of_all_runs, nodes).counts
    pairs = zip(need.bounds, counts, strict=True)
    return tuple(max(bound.least, count // at_once) for bound, count in pairs)


def require_room_for_run(need: Need, actors: Sequence[int], nodes: Sequence[Node]) -> None:
    """Raise ClusterError if the cluster can never hold a run with these actors, by group."""
    bounds = [Bounds(count, count) for count in actors]
    require_room(need.groups, bounds, place(need.groups, bounds, nodes), nodes)


def bundles(
    need: Need, actors: Sequence[int], *, beside: Mapping[str, float]
) -> list[dict[str, float]]:
    """Return the bundles of a run's placement group: one for its driver, and one for each actor.

    The driver uses no CPU of Ray's count, as with ``simfl run``.

    Args:
        need: of the run.
        actors: by group, its number of client actors.
        beside: a resource that only the driver's node has, for the driver's bundle.
    """
    if need.is_inline:
        return [{**need.groups[0].needs, **beside}]
    return [dict(beside), *(dict(group.needs) for group in _group_of_each(need, actors))]


def labels_of_bundles(need: Need, actors: Sequence[int]) -> list[dict[str, str]]:
    """Return Ray's label selector of each of the ``bundles``."""
    if need.is_inline:
        return [dict(need.groups[0].labels)]
    return [{}, *(dict(group.labels) for group in _group_of_each(need, actors))]


def _group_of_each(need: Need, actors: Sequence[int]) -> list[ActorGroup]:
    """Return the group of each actor that takes resources."""
    pairs = zip(need.groups, actors, strict=True)
    return [group for group, count in pairs if group.needs for _ in range(count)]


def _copies(need: Need, nodes: Sequence[Node], *, most: int) -> int:
    """Return how many runs with the least numbers of actors fit at once."""

    def is_too_many(runs: int) -> bool:
        counts = tuple(runs * bound.least for bound in need.bounds)
        bounds = [Bounds(count, count) for count in counts]
        return place(need.groups, bounds, nodes).counts != counts

    return bisect_left(range(1, most + 1), True, key=is_too_many)
