"""Assign each client to a group of client actors, once for the whole run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from simfl.data import FederatedDataset
from simfl.errors import ScenarioError
from simfl.messages import CohortPart, RoundPlan
from simfl.scenario import Scenario
from simfl.sections import SelectionSection
from simfl.seeding import numpy_generator
from simfl.simulation.selection import named_clients

_UNASSIGNED = -1


def assign_groups(scenario: Scenario, dataset: FederatedDataset) -> np.ndarray[Any, Any]:
    """Return each client's group, [population] int64; 0 for all if there are no groups.

    Groups by id or column are assigned first, then fractions, drawn by the seed from the remaining
    clients, and then the rest. The groups depend only on the scenario, so they are the same on any
    cluster.

    Raises:
        ScenarioError: if a client is in several groups or in none, or a group has no clients.
    """
    groups = scenario.cluster.groups
    population = dataset.num_clients
    if not groups:
        return np.zeros(population, np.int64)
    owner = np.full(population, _UNASSIGNED)
    for index, group in enumerate(groups):
        if group.clients != "rest" and group.clients.fraction is None:
            _take_named(scenario, dataset, owner, index)
    free = _shuffled(np.flatnonzero(owner == _UNASSIGNED), seed=scenario.seed)
    for index, group in enumerate(groups):
        if group.clients != "rest" and group.clients.fraction is not None:
            count = round(group.clients.fraction * population)
            if count > len(free):
                raise _fault(scenario, index, f"asks for {count} clients, but {len(free)} are left")
            owner[free[:count]], free = index, free[count:]
    for index, group in enumerate(groups):
        if group.clients == "rest":
            owner[owner == _UNASSIGNED] = index
    _require_whole(scenario, owner)
    return owner


def order_by_group(
    plan: RoundPlan, group_of: np.ndarray[Any, Any], stacks: tuple[int, ...]
) -> RoundPlan:
    """Sort the cohort by group, keeping the order within each group.

    Groups with larger stacks come first, so that the unused positions of their last stack are below
    a leaf of the reduction tree.

    Args:
        plan: the round's, longest local work first.
        group_of: [population] each client's group.
        stacks: by group, the number of clients trained in one computation.
    """
    if len(stacks) == 1:
        return replace(plan, parts=(CohortPart(0, 0, len(plan.clients), 0, stacks[0]),))
    groups = group_of[list(plan.clients)]
    by_stack = sorted(range(len(stacks)), key=lambda group: -stacks[group])
    rank = np.argsort(by_stack)
    order = np.argsort(rank[groups], kind="stable")
    parts: list[CohortPart] = []
    begin = start = 0
    for group in by_stack:
        count = int((groups == group).sum())
        if count:
            parts.append(CohortPart(group, begin, begin + count, start, stacks[group]))
            begin += count
            start += -(-count // stacks[group]) * stacks[group]
    return replace(
        plan,
        clients=tuple(plan.clients[i] for i in order),
        num_steps=tuple(plan.num_steps[i] for i in order),
        parts=tuple(parts),
    )


def _take_named(
    scenario: Scenario, dataset: FederatedDataset, owner: np.ndarray[Any, Any], index: int
) -> None:
    selection = scenario.cluster.groups[index].clients
    assert isinstance(selection, SelectionSection)
    chosen = named_clients(scenario, f"cluster.groups[{index}].clients", selection, dataset)
    if (taken := chosen[owner[chosen] != _UNASSIGNED]).size:
        other = scenario.cluster.groups[owner[taken[0]]].name
        raise _fault(scenario, index, f"has client {taken[0]}, which is also in group {other!r}")
    owner[chosen] = index


def _shuffled(clients: np.ndarray[Any, Any], *, seed: int) -> np.ndarray[Any, Any]:
    return numpy_generator(seed, "groups").permutation(clients)


def _require_whole(scenario: Scenario, owner: np.ndarray[Any, Any]) -> None:
    if (left := np.flatnonzero(owner == _UNASSIGNED)).size:
        raise scenario.fault(
            "cluster.groups",
            f"leaves {left.size} clients without a group, such as {left[0]}; "
            "add a group with clients: rest",
        )
    for index in range(len(scenario.cluster.groups)):
        if not (owner == index).any():
            raise _fault(scenario, index, "has no client of the population; remove the group")


def _fault(scenario: Scenario, index: int, message: str) -> ScenarioError:
    return scenario.fault(f"cluster.groups[{index}].clients", message)
