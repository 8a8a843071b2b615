"""How many runs go on at once, and how many client actors each of them has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from simfl.cluster.placement import Bounds, Node, nodes_of, place
from simfl.cluster.placement import require_room as require_room_for
from simfl.cluster.pool import ActorGroup


@dataclass(frozen=True)
class Need:
    """What a run asks for."""

    groups: tuple[ActorGroup, ...]
    bounds: tuple[Bounds, ...]
    """By group, how many actors it needs and can use."""
    is_inline: bool = False
    """Whether it trains its clients in its own process; that takes what one actor would."""


def runs_at_once(needs: Sequence[Need], nodes: Sequence[Node], *, asked: int | None) -> int:
    """Return how many runs go on at once.

    Runs beside each other wait for each other less than the actors of one run do, so a run whose
    number of actors is free has as few as it can, until there are fewer runs than there is room
    for.

    Args:
        needs: of each run.
        nodes: of the cluster.
        asked: by the user; None: as many as there is room for.

    >>> four, free = [Node("a", "a", {"CPU": 4.0})], Need((ActorGroup(),), (Bounds(1, 9),))
    >>> runs_at_once([free] * 10, four, asked=None)
    4
    >>> num_actors(free, four, at_once=2)
    (2,)
    """
    if asked is not None:
        return min(asked, len(needs))
    different: list[tuple[tuple[ActorGroup, ...], tuple[int, ...]]] = []
    for kind in ((need.groups, _least(need)) for need in needs):
        if kind not in different:
            different.append(kind)
    return max(1, *(_copies(*kind, nodes, most=len(needs)) for kind in different))


def num_actors(need: Need, nodes: Sequence[Node], *, at_once: int) -> tuple[int, ...]:
    """Return how many client actors of each group a run has when so many runs go on at once."""
    if need.is_inline:
        return _least(need)
    all_of_them = [Bounds(at_once * b.least, at_once * b.most) for b in need.bounds]
    counts = place(need.groups, all_of_them, nodes).counts
    pairs = zip(need.bounds, counts, strict=True)
    return tuple(max(bound.least, count // at_once) for bound, count in pairs)


def bundles(
    need: Need, actors: Sequence[int], *, beside: Mapping[str, float]
) -> list[dict[str, float]]:
    """Return what a run's placement group holds: a bundle for its driver, and one for each actor.

    The driver takes no CPU of the account, as that of ``simfl run`` does not.

    Args:
        need: of the run.
        actors: by group, how many client actors it has.
        beside: a resource that only the node has on which the driver is to be.
    """
    if need.is_inline:
        return [{**need.groups[0].needs, **beside}]
    kinds = zip(need.groups, actors, strict=True)
    return [dict(beside), *(dict(kind.needs) for kind, n in kinds if kind.needs for _ in range(n))]


def labels_of_bundles(need: Need, actors: Sequence[int]) -> list[dict[str, str]]:
    """Return which nodes each of the ``bundles`` may be on, as Ray's label selectors have it."""
    if need.is_inline:
        return [dict(need.groups[0].labels)]
    kinds = zip(need.groups, actors, strict=True)
    return [{}, *(dict(kind.labels) for kind, n in kinds if kind.needs for _ in range(n))]


def require_room(need: Need, actors: Sequence[int], nodes: Sequence[Node]) -> None:
    """See that the cluster can ever hold a run; Ray itself would wait without end.

    Raises:
        ClusterError: saying what is needed, what there is, and what to change.
    """
    groups = need.groups[:1] if need.is_inline else need.groups
    bounds = [Bounds(count, count) for count in actors]
    require_room_for(groups, bounds, place(groups, bounds, nodes), nodes)


def _least(need: Need) -> tuple[int, ...]:
    return (1,) if need.is_inline else tuple(bound.least for bound in need.bounds)


def _copies(
    groups: tuple[ActorGroup, ...], least: tuple[int, ...], nodes: Sequence[Node], *, most: int
) -> int:
    """Return how many runs fit beside each other; by bisection."""
    fits, too_many = 0, most + 1
    while too_many - fits > 1:
        tried = (fits + too_many) // 2
        counts = [tried * count for count in least]
        wanted = [Bounds(count, count) for count in counts]
        if place(groups[: len(least)], wanted, nodes).counts == tuple(counts):
            fits = tried
        else:
            too_many = tried
    return fits


@dataclass(frozen=True)
class Cluster:
    """What the cluster of the present session has."""

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
