"""What is found out before the first trial: whether all can run, what of, and how they compare."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from simfl.cluster.placement import Bounds, Need
from simfl.cluster.references import SharedData, share
from simfl.errors import ScenarioError, did_you_mean
from simfl.scenario import Scenario
from simfl.scenario.sweeps import SweepPlan
from simfl.simulation import Backend, Simulation, build
from simfl.simulation.backends import actor_bounds, actor_groups
from simfl.simulation.evaluation import better_values
from simfl.sweep.trials import data_key


@dataclass(frozen=True)
class Goal:
    """What trials are judged by."""

    metric: str
    mode: str
    """``max`` or ``min``."""

    def is_better(self, one: float, other: float) -> bool:
        """Say whether the first is better than the second."""
        return one > other if self.mode == "max" else one < other


@dataclass(frozen=True)
class Prepared:
    """What trials need that they have in common."""

    shared: Mapping[str, SharedData]
    """Each data set of theirs, by ``data_key``, in the object store once."""
    needs: list[Need]
    """Of each trial."""
    goal: Goal
    max_rounds: int
    notes: tuple[str, ...]
    """What a user should know, each once."""


def prepare(plan: SweepPlan, scenarios: Iterable[Scenario], *, backend: Backend) -> Prepared:
    """Load each data set once, check each trial against its own, and put it in the object store.

    Raises:
        InputError: if a trial cannot run.
    """
    scenarios, tried = list(scenarios), plan.tried
    by_key: dict[str, list[int]] = {}
    for index, scenario in enumerate(scenarios):
        by_key.setdefault(data_key(scenario), []).append(index)
    shared, needs, goals = {}, {}, {}
    notes: dict[str, None] = {}
    for key, indexes in by_key.items():
        with plan.naming(tried[indexes[0]]):
            dataset = scenarios[indexes[0]].build_dataset()
        for index in indexes:
            with plan.naming(tried[index]):
                simulation = build(scenarios[index], dataset)
            needs[index] = _need(simulation, backend=backend)
            goals[index] = goal_of(plan, simulation)
            notes |= dict.fromkeys(simulation.notes)
        shared[key] = share(dataset)
    return Prepared(
        shared=shared,
        needs=[needs[index] for index in range(len(scenarios))],
        goal=goals[0],
        max_rounds=max(scenario.rounds for scenario in scenarios),
        notes=tuple(notes),
    )


def goal_of(plan: SweepPlan, simulation: Simulation) -> Goal:
    """Return what trials are judged by.

    Raises:
        ScenarioError: if the scenario does not measure that.
    """
    known = better_values(simulation)
    metric = plan.section.metric
    if metric is None:
        metric = next(iter(known))
    if metric not in known:
        hint = did_you_mean(metric, known)
        fault = f"is {metric!r}, which this scenario does not measure. {hint}"
        raise ScenarioError([plan.document.fault_line(("sweep", "metric"), fault)])
    mode = known[metric] if plan.section.mode == "auto" else plan.section.mode
    return Goal(metric, mode)


def _need(simulation: Simulation, *, backend: Backend) -> Need:
    groups = actor_groups(simulation)
    if backend == "inline":
        return Need(groups[:1], (Bounds(1, 1),), is_inline=True)
    return Need(groups, tuple(actor_bounds(simulation)))
