"""How many runs go on at once, and how many client actors each of them has."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from simfl.cluster.pool import ClusterOptions, require_resources
from simfl.errors import ClusterError

__all__ = [
    "Cluster",
    "Need",
    "bundles",
    "num_actors",
    "present_cluster",
    "require_room",
    "runs_at_once",
]


@dataclass(frozen=True)
class Need:
    """What a run asks for."""

    options: ClusterOptions
    population: int
    cohort_size: int
    is_inline: bool = False
    """Whether it trains its clients in its own process."""

    @property
    def actors(self) -> int | None:
        """How many processes train clients; None where that follows from the room there is."""
        if self.is_inline:
            return 1
        return self.population if self.options.placement == "dedicated" else self.options.actors


def runs_at_once(
    needs: Sequence[Need], *, resources: Mapping[str, float], asked: int | None
) -> int:
    """Return how many runs go on at once.

    Runs beside each other wait for each other less than the actors of one run do, so a run whose
    number of actors is free has one, until there are fewer runs than there is room for.

    Args:
        needs: of each run.
        resources: what the cluster has in all, by Ray's names.
        asked: by the user; None: as many as there is room for.

    >>> four_cpus, free = {"CPU": 4.0}, Need(ClusterOptions(), population=9, cohort_size=9)
    >>> runs_at_once([free] * 10, resources=four_cpus, asked=None)
    4
    >>> num_actors(free, resources=four_cpus, at_once=2)
    2
    """
    if asked is not None:
        return min(asked, len(needs))
    largest = max(_room(need, resources, actors=need.actors or 1) for need in needs)
    return max(1, min(len(needs), largest))


def num_actors(need: Need, *, resources: Mapping[str, float], at_once: int) -> int:
    """Return how many client actors a run has when so many runs go on at once."""
    if need.actors is not None:
        return need.actors
    share = _room(need, resources, actors=1) // at_once
    return max(1, min(need.cohort_size, share))


def bundles(need: Need, *, actors: int, beside: Mapping[str, float]) -> list[dict[str, float]]:
    """Return what a run's placement group holds: a bundle for its driver, and one for each actor.

    The driver takes no CPU of the account, as that of ``simfl run`` does not.

    Args:
        need: of the run.
        actors: how many client actors it has.
        beside: a resource that only the node has on which the driver is to be.
    """
    one = _one_actor(need.options)
    if need.is_inline:
        return [{**one, **beside}]
    return [dict(beside), *([one] if one else []) * actors]


def require_room(
    need: Need,
    *,
    actors: int,
    resources: Mapping[str, float],
    nodes: Sequence[Mapping[str, float]],
) -> None:
    """See that the cluster can ever hold a run; Ray itself would wait without end.

    Args:
        need: of the run.
        actors: how many client actors it has.
        resources: what the cluster has in all.
        nodes: what each of its nodes has.

    Raises:
        ClusterError: saying what is needed, what there is, and what to change.
    """
    require_resources(need.options, actors, resources=resources)
    one = _one_actor(need.options)
    if not any(all(node.get(k, 0) >= v for k, v in one.items()) for node in nodes):
        wanted = " and ".join(f"{amount:g} {name}s" for name, amount in one.items())
        raise ClusterError(
            f"a client actor needs {wanted}, and no node has them; "
            "lower cluster.num_cpus or cluster.num_gpus"
        )


def _one_actor(options: ClusterOptions) -> dict[str, float]:
    needs = {"CPU": options.num_cpus, "GPU": options.num_gpus}
    return {name: need for name, need in needs.items() if need > 0}


def _room(need: Need, resources: Mapping[str, float], *, actors: int) -> int:
    one = _one_actor(need.options)
    room = [math.floor(resources.get(name, 0) / (amount * actors)) for name, amount in one.items()]
    return min(room, default=len(resources) or 1)


@dataclass(frozen=True)
class Cluster:
    """What the cluster of the present session has."""

    resources: Mapping[str, float]
    """In all."""
    nodes: Sequence[Mapping[str, float]]
    """Each node's."""
    here: str
    """The resource that only the node of this process has."""


def present_cluster() -> Cluster:
    """Look at the cluster of the session that this process is in."""
    import ray

    own = ray.get_runtime_context().get_node_id()
    nodes = [node for node in ray.nodes() if node["Alive"]]
    (mine,) = (node["Resources"] for node in nodes if node["NodeID"] == own)
    here = next(name for name in mine if name.startswith("node:") and "__" not in name)
    return Cluster(ray.cluster_resources(), [node["Resources"] for node in nodes], here)
