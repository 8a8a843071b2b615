"""Launching the actors: how many client actors each group has, where they go, who joins later."""

from __future__ import annotations

import itertools
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import ray
from ray.exceptions import GetTimeoutError
from ray.util.scheduling_strategies import (
    NodeAffinitySchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

from simfl.cluster.actor_setup import ActorSetup
from simfl.cluster.client_actor import ClientActor
from simfl.cluster.code import read_main
from simfl.cluster.failures import explain
from simfl.cluster.placement import Bounds, nodes_of, place, require_room
from simfl.cluster.server_actor import ServerActor
from simfl.cluster.setup import EngineSetup
from simfl.cluster.wire import Ref

LOOK_S = 5.0
"""The interval at which the driver checks for new nodes, in seconds."""

# Ray restarts a dead actor; repeating its work is up to us.
_RESTARTED: Final = {"max_restarts": -1, "max_task_retries": 0}


class Worker(NamedTuple):
    """A client actor."""

    actor: Any
    label: str
    group: int
    """The index of its group."""
    setup: Ref
    """What it is started with."""


def launch_server(setup: EngineSetup) -> Any:
    """Launch the server's actor on the driver's node.

    The two fail together, and nothing of the run outlives them.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # Ray's stubs lack this documented argument.
    groups: dict[str, Any] = {"concurrency_groups": {"io": 1, "read": 1, "life": 1}}
    remote: Any = ray.remote(**groups)(ServerActor)
    options = {"num_cpus": 0, "scheduling_strategy": here, **_RESTARTED}
    return remote.options(name="server", namespace=setup.run_name, **options).remote("server")


def put_setup(setup: EngineSetup, recipe: object) -> Ref:
    """Put the setup of actors with this recipe into the object store, for whatever they host."""
    made = ActorSetup(
        plugins=tuple(setup.plugins),
        search=tuple(setup.search),
        # cloudpickle, so that classes of a notebook travel by value.
        recipe=ray.cloudpickle.dumps(recipe),
        main=ray.cloudpickle.dumps(read_main(vars(recipe).values())),
        threads=setup.cluster.threads,
        profile=setup.profile,
        folder=setup.folder,
        sources=setup.sources,
        log_level=logging.INFO if setup.logs_events else logging.WARNING,
        deterministic=setup.cluster.deterministic,
    )
    return ray.put(made)


class Fleet:
    """Launches client actors.

    Args:
        setup: what is run.

    Raises:
        ClusterError: if the cluster cannot hold the actors that the groups need.
    """

    def __init__(self, setup: EngineSetup) -> None:
        self._setup = setup
        self._groups = setup.groups
        self._bounds = list(setup.bounds)
        self._reserved: list[Any] = []
        self._numbers = [itertools.count() for _ in self._groups]
        self._setups = [put_setup(setup, setup.recipe_of(group)) for group in self._groups]
        self._looked = time.monotonic()
        nodes = nodes_of(ray.nodes())
        self._placement = place(self._groups, self._bounds, nodes)
        if not setup.cluster.autoscaling:
            require_room(self._groups, self._bounds, self._placement, nodes)

    def launch(self) -> list[Worker]:
        """Launch the actors that each group begins with.

        A group whose number of actors is fitted to its GPUs begins with one. Where nodes are
        started on demand, all actors that the groups can use are launched.
        """
        counts = self._placement.counts
        if self._setup.cluster.autoscaling:
            counts = tuple(bound.most for bound in self._bounds)
        return [
            worker
            for group, count in enumerate(counts)
            for worker in self._launch(group, 1 if self.is_fitted(group) else count)
        ]

    def is_fitted(self, group: int) -> bool:
        """Return whether a group has as many actors as its GPUs have memory for."""
        return self._groups[group].uses_gpu and self._setup.bounds_are_open(group)

    def limit(self, group: int, per_device: int) -> None:
        """Allow at most so many of a group's actors on each device."""
        share = self._groups[group].num_gpus
        slots = max(1, int(1 / share)) if share < 1 else 1
        if per_device < slots:
            bound = self._bounds[group]
            most = max(1, self._placement.counts[group] * per_device // slots)
            self._bounds[group] = Bounds(min(bound.least, most), most)

    def grow(self, workers: Sequence[Worker]) -> list[Worker]:
        """Launch actors for which nodes that have joined have room.

        Args:
            workers: all launched before; those that were retired count, and are not replaced.
        """
        if time.monotonic() - self._looked < LOOK_S:
            return []
        self._looked = time.monotonic()
        return self.fill(workers)

    def fill(self, workers: Sequence[Worker]) -> list[Worker]:
        """Launch as many more actors as there is room for."""
        launched = Counter(worker.group for worker in workers)
        open_groups = [
            group
            for group, bound in enumerate(self._bounds)
            if launched[group] < bound.most and self._groups[group].strategy == "spread"
        ]
        if not open_groups:
            return []
        self._placement = place(self._groups, self._bounds, nodes_of(ray.nodes()))
        return [
            worker
            for group in open_groups
            for worker in self._launch(group, self._placement.counts[group] - launched[group])
        ]

    def least(self, group: int) -> int:
        """Return how many of a group's actors a round needs."""
        return self._groups[group].min_actors or 1

    def is_enough(self, started: Iterable[Worker]) -> bool:
        """Return whether a run may begin with these actors."""
        counts = Counter(worker.group for worker in started)
        return all(counts[group] >= bound.least for group, bound in enumerate(self._bounds))

    def close(self) -> None:
        """Release what was reserved."""
        for reserved in self._reserved:
            ray.util.remove_placement_group(reserved)
        self._reserved = []

    def _launch(self, group: int, count: int) -> list[Worker]:
        strategies = self._strategies(group, count)
        numbers = itertools.islice(self._numbers[group], max(0, count))
        return [self._launch_one(group, number, next(strategies)) for number in numbers]

    def _launch_one(self, group: int, number: int, strategy: Any) -> Worker:
        kind = self._groups[group]
        label = kind.label(number)
        remote = ray.remote(ClientActor).options(
            name=label,
            namespace=self._setup.run_name,
            num_cpus=kind.num_cpus,
            num_gpus=kind.num_gpus,
            resources=dict(kind.resources),
            accelerator_type=kind.accelerator_type,
            label_selector=dict(kind.labels),
            scheduling_strategy=strategy,
            **_RESTARTED,
        )
        return Worker(remote.remote(label, kind.uses_gpu), label, group, self._setups[group])

    def _strategies(self, group: int, count: int) -> Iterator[Any]:
        """Iterate over Ray's scheduling strategies, one for each actor."""
        if ray.util.get_current_placement_group() is not None:
            return itertools.repeat(None)  # a trial's actors have room in its own bundles
        if self._groups[group].strategy != "spread":
            reserved = self._reserve(group, count)
            return (
                PlacementGroupSchedulingStrategy(reserved, placement_group_bundle_index=number)
                for number in itertools.count()
            )
        if self._setup.cluster.placement == "dedicated":
            on = self._placement.by_node[group]
            nodes = itertools.chain(*map(itertools.repeat, on, on.values()))
            return (NodeAffinitySchedulingStrategy(node, soft=True) for node in nodes)
        return itertools.repeat("SPREAD")

    def _reserve(self, group: int, count: int) -> Any:
        """Reserve room for a group's actors, laid out by its strategy; all of it or none."""
        kind = self._groups[group]
        bundles = [dict(kind.needs) for _ in range(count)]
        selectors = {"bundle_label_selector": [dict(kind.labels)] * count} if kind.labels else {}
        reserved: Any = ray.util.placement_group(
            bundles, strategy=kind.strategy.upper(), **selectors
        )
        self._reserved.append(reserved)
        if not reserved.wait(self._setup.cluster.start_timeout_s):
            what = f"reserving room for {count} actors, {kind.strategy}"
            raise explain(GetTimeoutError(), doing=what) from None
        return reserved
