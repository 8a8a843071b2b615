"""The resources that a run would use on a cluster: ``simfl plan``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from simfl.client import ClientHost
from simfl.cluster.placement import (
    Bounds,
    Node,
    Placement,
    cpus_to_count,
    explain_lack,
    place,
)
from simfl.cluster.pool import ActorGroup
from simfl.cluster.session import chosen_address
from simfl.cluster.survey import survey
from simfl.engine import peak_memory, reset_peak_memory
from simfl.messages import Chunk
from simfl.simulation.backends import actor_bounds
from simfl.simulation.building import Simulation
from simfl.vector import count_bytes

PROCESS_BYTES: Final = 172 << 20
"""Measured private memory of a process that has imported Ray and torch."""


@dataclass(frozen=True)
class Trial:
    """The cost of training in this process, on its CPU."""

    clients: tuple[int, ...]
    """The trained clients: the largest of the group, or the largest in a stack."""
    memory_bytes: int | None
    """The increase of this process's peak memory; None if not available."""
    seconds_per_step: float
    """For one client."""
    sent_bytes: int
    """The bytes that one client sends."""


@dataclass(frozen=True)
class GroupPlan:
    """A planned group of client actors."""

    group: ActorGroup
    bounds: Bounds
    num_clients: int
    by_node: dict[str, int]
    """Node id -> actors."""
    trial: Trial
    steps: float
    """The group's local steps per round, averaged over rounds."""

    @property
    def num_actors(self) -> int:
        """The number of actors."""
        return sum(self.by_node.values())

    @property
    def actor_bytes(self) -> int | None:
        """The memory of one actor; None if not available."""
        extra = self.trial.memory_bytes
        return None if extra is None else PROCESS_BYTES + extra

    @property
    def seconds(self) -> float | None:
        """The expected time of a round's training, on processors like this one."""
        return self.steps * self.trial.seconds_per_step / self.num_actors if self.by_node else None


@dataclass(frozen=True)
class Plan:
    """A planned run on a cluster."""

    nodes: tuple[Node, ...]
    free: Mapping[str, float] | None
    """The free resources of all nodes in total; None if there is no cluster yet."""
    groups: tuple[GroupPlan, ...]
    dataset_bytes: int
    """The size of the examples, held once on each node."""
    weights_bytes: int
    """The size of weights and auxiliary variables, sent to each node once per round."""
    sent_bytes: int
    """The bytes that the cohort's clients send in a round, before aggregation."""
    personal_bytes: int
    """The size of the weights that each client keeps for itself."""
    fixed_bytes: int
    """The size of the weights that never change, and are not sent."""
    lacks: tuple[str, ...]
    """Messages about what does not fit, with remedies."""


def make_plan(simulation: Simulation, address: str | None) -> Plan:
    """Plan where actors would be placed, and the resources that they would use.

    Trains a client of each group in this process, or a stack of them, to measure memory and time.

    Args:
        simulation: the run to plan.
        address: a Ray cluster's address; None: ``cluster.address``, or this machine.

    Raises:
        ClusterError: if there is no cluster at the address.
        ClientError: if a client's own code raises.
    """
    groups = simulation.groups
    bounds = actor_bounds(simulation)
    where = chosen_address(address, simulation.scenario.cluster.address)
    nodes, free = survey(where, num_cpus=cpus_to_count(groups, bounds))
    placement = place(groups, bounds, nodes)
    plans = tuple(
        _plan_group(simulation, placement, bounds[index], index) for index in range(len(groups))
    )
    broadcast = simulation.server.build().snapshot(1).broadcast
    dataset_bytes = simulation.dataset.num_bytes
    lacks = [] if simulation.scenario.cluster.autoscaling else _lacks(plans, placement, nodes)
    model = simulation.server.build_model()
    fixed_bytes = model.fixed_weights.num_bytes
    lacks += _memory_lacks(plans, nodes, dataset_bytes, fixed_bytes)
    shares = _cohort_shares(simulation)
    return Plan(
        nodes=tuple(nodes),
        free=free,
        groups=plans,
        dataset_bytes=dataset_bytes,
        weights_bytes=count_bytes(broadcast),
        sent_bytes=round(sum(p.trial.sent_bytes * n for p, n in zip(plans, shares, strict=True))),
        personal_bytes=model.live_weights(simulation.client.personal).num_bytes,
        fixed_bytes=fixed_bytes,
        lacks=tuple(lacks),
    )


def _measure(simulation: Simulation, group: int) -> Trial:
    """Train the largest client of a group, or a stack of its largest, for round 1.

    Raises:
        ClientError: if a client's own code raises.
    """
    clients = np.flatnonzero(simulation.group_of == group)
    by_size = clients[np.argsort(-simulation.num_steps[clients], kind="stable")]
    chosen = tuple(by_size[: simulation.stacks[group]].tolist())
    broadcast = simulation.server.build().snapshot(1).broadcast
    is_counted = reset_peak_memory()
    before = peak_memory()
    recipe = replace(simulation.client, stack=simulation.stacks[group])
    host = ClientHost(recipe, simulation.dataset)
    is_drawn = simulation.client.work.distribution is not None
    drawn = tuple(simulation.num_steps[by_size[: len(chosen)]].tolist()) if is_drawn else ()
    chunk = Chunk(1, 0, chosen, len(chosen), group, drawn)
    result = host.train_chunk(chunk, broadcast, [None] * len(chosen))
    after = peak_memory()
    steps = int(result.report.clients.num_steps.sum())
    sums = [node.sums["bytes"] for node in result.partial.nodes.values() if node is not None]
    known = is_counted and before is not None and after is not None
    return Trial(
        clients=chosen,
        memory_bytes=max(0, (after or 0) - (before or 0)) if known else None,
        seconds_per_step=result.report.seconds / max(steps, 1),
        sent_bytes=round(sum(sums) / len(chosen)),
    )


def _plan_group(
    simulation: Simulation, placement: Placement, bounds: Bounds, index: int
) -> GroupPlan:
    is_own = simulation.group_of == index
    mean_steps = float(simulation.num_steps[is_own].mean())
    return GroupPlan(
        group=simulation.groups[index],
        bounds=bounds,
        num_clients=int(is_own.sum()),
        by_node=dict(placement.by_node[index]),
        trial=_measure(simulation, index),
        steps=mean_steps * _cohort_shares(simulation)[index],
    )


def _cohort_shares(simulation: Simulation) -> list[float]:
    """Return the mean number of clients of each group in a round."""
    training = simulation.participants
    counts = np.bincount(simulation.group_of[training], minlength=len(simulation.stacks))
    shares: list[float] = (counts * (simulation.cohort_size / len(training))).tolist()
    return shares


def _lacks(plans: Sequence[GroupPlan], placement: Placement, nodes: Sequence[Node]) -> list[str]:
    counts = zip(plans, placement.counts, strict=True)
    return [
        explain_lack(plan.group, plan.bounds.least, count, nodes)
        for plan, count in counts
        if count < plan.bounds.least
    ]


def _memory_lacks(
    plans: Sequence[GroupPlan], nodes: Sequence[Node], dataset_bytes: int, fixed_bytes: int
) -> list[str]:
    """Return messages about nodes that lack memory for their actors."""
    lacks = []
    for node in nodes:
        sizes = [(plan.by_node.get(node.id, 0), plan.actor_bytes or 0) for plan in plans]
        needed, has = sum(n * size for n, size in sizes), node.resources.get("memory", 0)
        if needed > has:
            actors = sum(n for n, _ in sizes)
            lacks.append(
                f"{node.name}: {actors} actors take {_gib(needed)} of memory, and it has "
                f"{_gib(has)}; lower actors or max_actors, or raise num_cpus, so that fewer "
                "run at once"
            )
        store = node.resources.get("object_store_memory", 0)
        if any(n for n, _ in sizes) and dataset_bytes + fixed_bytes > store:
            base = f" and the weights that never change {_gib(fixed_bytes)}" if fixed_bytes else ""
            lacks.append(
                f"{node.name}: the examples are {_gib(dataset_bytes)}{base}, and its object store "
                f"has {_gib(store)}; raise cluster.object_store_memory, or the node's own"
            )
    return lacks


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / 2**30:.2f} GiB"
