"""The client actors of all groups: how many there are to be, where they go, and who joins later."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError

from simfl.cluster.failures import explain
from simfl.cluster.launch import (
    Worker,
    anywhere,
    beside,
    bundle_of,
    is_in_bundles,
    launch_client,
    put_setup,
    reserve,
)
from simfl.cluster.placement import Bounds, Placement, nodes_of, place, require_room
from simfl.cluster.setup import EngineSetup

LOOK_S = 5.0
"""How often it is looked whether nodes have joined."""


class Fleet:
    """Launches client actors.

    Args:
        setup: what is run.

    Raises:
        ClusterError: if the cluster cannot hold the actors that the groups need.
    """

    def __init__(self, setup: EngineSetup) -> None:
        self._setup = setup
        self._groups = setup.options.groups
        self._bounds = list(setup.bounds)
        self._reserved: list[Any] = []
        self._numbers = [itertools.count() for _ in self._groups]
        self._setups = [put_setup(setup, setup.recipe_of(group)) for group in self._groups]
        self._looked = time.monotonic()
        self._placement = self._place(self._bounds)

    def launch(self) -> list[Worker]:
        """Launch what each group begins with: where it is fitted to its GPUs, a single actor."""
        counts = [
            1 if self.is_fitted(group) else count
            for group, count in enumerate(self._first_counts())
        ]
        return [worker for group, n in enumerate(counts) for worker in self._launch(group, n)]

    def is_fitted(self, group: int) -> bool:
        """Say whether a group has as many actors as its GPUs have memory for."""
        return self._groups[group].uses_gpu and self._setup.bounds_are_open(group)

    def limit(self, group: int, per_device: int) -> None:
        """Have no more of a group's actors than so many on each device."""
        share = self._groups[group].num_gpus
        slots = max(1, int(1 / share)) if share < 1 else 1
        if per_device < slots:
            bound = self._bounds[group]
            most = max(1, self._placement.counts[group] * per_device // slots)
            self._bounds[group] = Bounds(min(bound.least, most), most)

    def grow(self, workers: Sequence[Worker]) -> list[Worker]:
        """Launch actors for which nodes that have joined have room.

        Args:
            workers: all that were launched; those that were retired count, and are not replaced.
        """
        if time.monotonic() - self._looked < LOOK_S:
            return []
        self._looked = time.monotonic()
        return self.fill(workers)

    def fill(self, workers: Sequence[Worker]) -> list[Worker]:
        """Launch as many more actors as there is room for."""
        there = Counter(worker.group for worker in workers)
        open_groups = [
            group
            for group, bound in enumerate(self._bounds)
            if there[group] < bound.most and self._groups[group].strategy == "spread"
        ]
        if not open_groups:
            return []
        self._placement = place(self._groups, self._bounds, nodes_of(ray.nodes()))
        return [
            worker
            for group in open_groups
            for worker in self._launch(group, self._placement.counts[group] - there[group])
        ]

    def least(self, group: int) -> int:
        """Return how many of a group's actors a round needs."""
        return self._groups[group].min_actors or 1

    def is_enough(self, started: Iterable[Worker]) -> bool:
        """Say whether a run may begin with these."""
        there = Counter(worker.group for worker in started)
        return all(there[group] >= bound.least for group, bound in enumerate(self._bounds))

    def close(self) -> None:
        """Give back what was reserved."""
        for reserved in self._reserved:
            ray.util.remove_placement_group(reserved)
        self._reserved = []

    def _place(self, bounds: Sequence[Bounds]) -> Placement:
        nodes = nodes_of(ray.nodes())
        placement = place(self._groups, bounds, nodes)
        if not self._setup.options.autoscaling:
            require_room(self._groups, bounds, placement, nodes)
        return placement

    def _first_counts(self) -> list[int]:
        """Return how many actors are launched; where nodes come on demand, all that are wanted."""
        if self._setup.options.autoscaling:
            return [bound.most for bound in self._bounds]
        return list(self._placement.counts)

    def _launch(self, group: int, count: int) -> list[Worker]:
        where = self._where(group, count)
        numbers = itertools.islice(self._numbers[group], max(0, count))
        own = {"actor_setup": self._setups[group]}
        return [launch_client(self._setup, group, n, where=next(where), **own) for n in numbers]

    def _where(self, group: int, count: int) -> Iterator[Any]:
        """Iterate over Ray's scheduling strategies, one for each actor."""
        kind = self._groups[group]
        if is_in_bundles():
            return itertools.repeat(anywhere())
        if kind.strategy != "spread":
            reserved = self._reserve(group, count)
            return (bundle_of(reserved, number) for number in itertools.count())
        if self._setup.options.placement == "dedicated":
            on = self._placement.by_node[group]
            return (
                beside(node) for node in itertools.chain(*map(itertools.repeat, on, on.values()))
            )
        return itertools.repeat(anywhere())

    def _reserve(self, group: int, count: int) -> Any:
        reserved = reserve(self._groups[group], count)
        self._reserved.append(reserved)
        if not reserved.wait(self._setup.options.start_timeout_s):
            what = f"reserving room for {count} actors, {self._groups[group].strategy}"
            raise explain(GetTimeoutError(), doing=what) from None
        return reserved
