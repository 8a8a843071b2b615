"""What is checked before the first trial: that all can run, by what they rank, and their room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from simfl.cluster.placement import (
    Bounds,
    Need,
    bundles,
    labels_of_bundles,
    num_actors,
    require_room_for_run,
    runs_at_once,
)
from simfl.cluster.setup import SharedData, share
from simfl.cluster.survey import Cluster, present_cluster
from simfl.errors import ScenarioError, did_you_mean
from simfl.scenario import Scenario
from simfl.scenario.sweeps import SweepPlan, Trial
from simfl.simulation import Backend, Simulation, build
from simfl.simulation.backends import actor_bounds
from simfl.simulation.evaluation import better_values
from simfl.sweep.results import Goal
from simfl.sweep.trials import Order, Trials, data_key


@dataclass(frozen=True)
class Prepared:
    """What trials have in common, and what each needs."""

    shared: Mapping[str, SharedData]
    """Each data set, by ``data_key``, in the object store once."""
    needs: Sequence[Need]
    """By trial; of the first one alone where a searcher proposes the trials."""
    goal: Goal
    max_rounds: int
    notes: tuple[str, ...]
    """What a user should know, each once."""


def prepare(plan: SweepPlan, scenarios: Sequence[Scenario], *, backend: Backend) -> Prepared:
    """Load each data set once, check each trial with its data, and put it in the object store.

    Args:
        plan: what is tried.
        scenarios: of ``plan.tried``.
        backend: of the trials.

    Raises:
        InputError: if a trial cannot run.
    """
    tried = plan.tried
    by_key: dict[str, list[int]] = {}
    for index, scenario in enumerate(scenarios):
        by_key.setdefault(data_key(scenario), []).append(index)
    shared, needs, measured = {}, {}, {}
    notes: dict[str, None] = {}
    for key, indexes in by_key.items():
        with plan.naming(tried[indexes[0]]):
            dataset = scenarios[indexes[0]].build_dataset()
        for index in indexes:
            with plan.naming(tried[index]):
                simulation = build(scenarios[index], dataset)
            needs[index] = _need(simulation, backend=backend)
            measured[index] = better_values(simulation)
            notes |= dict.fromkeys(simulation.notes)
        shared[key] = share(dataset)
    by_trial = [measured[index] for index in range(len(scenarios))]
    goal = goal_of(plan, by_trial)
    if num_without := sum(goal.metric not in known for known in by_trial):
        note = f"{num_without} of {len(scenarios)} trials do not measure {goal.metric!r}, by which "
        notes[f"{note}trials are ranked; they come last"] = None
    return Prepared(
        shared=shared,
        needs=[needs[index] for index in range(len(scenarios))],
        goal=goal,
        max_rounds=max(scenario.rounds for scenario in scenarios),
        notes=tuple(notes),
    )


def goal_of(plan: SweepPlan, measured: Sequence[Mapping[str, str]]) -> Goal:
    """Return the metric that ranks the trials.

    Args:
        plan: what is tried.
        measured: of each trial, the metrics, and whether ``max`` or ``min`` of each is better.

    Raises:
        ScenarioError: if no trial measures it, or one of those that are compared early does not.
    """
    metric = plan.section.metric or next(iter(measured[0]))
    with_it = [known for known in measured if metric in known]
    if not with_it or (plan.section.asha and len(with_it) < len(measured)):
        lacking = next(known for known in measured if metric not in known)
        which = "one of the trials" if with_it else "this scenario"
        fault = f"is {metric!r}, which {which} does not measure. {did_you_mean(metric, lacking)}"
        raise ScenarioError([plan.document.fault_line(("sweep", "metric"), fault)])
    mode = with_it[0][metric] if plan.section.mode == "auto" else plan.section.mode
    return Goal(metric, mode)


def _need(simulation: Simulation, *, backend: Backend) -> Need:
    groups = simulation.groups
    if backend == "inline":
        return Need(groups[:1], (Bounds(1, 1),), is_inline=True)
    return Need(groups, tuple(actor_bounds(simulation)))


@dataclass(frozen=True)
class Room:
    """How trials share the cluster."""

    cluster: Cluster
    needs: Sequence[Need]
    """As in ``Prepared``."""
    at_once: int
    """How many trials run at the same time."""

    def order(self, trial: Trial, trials: Trials) -> Order:
        """Return how a trial is to be run: its actors, and the resources that they take."""
        need = self.needs[trial.number if len(self.needs) > 1 else 0]
        actors = num_actors(need, self.cluster.nodes, at_once=self.at_once)
        return Order(
            number=trial.number,
            text=trials.order(trial, actors=actors),
            bundles=bundles(need, actors, beside={self.cluster.here: 0.0001}),
            labels=labels_of_bundles(need, actors),
            earlier=trials.earlier_reports(trial),
        )


def find_room(plan: SweepPlan, needs: Sequence[Need]) -> Room:
    """Return how trials share the cluster of this process's session.

    Raises:
        ClusterError: if the cluster can never hold one of the trials.
    """
    cluster, asked = present_cluster(), plan.section.concurrent
    of_all = list(needs) * (1 if plan.trials else plan.num_trials)
    at_once = runs_at_once(of_all, cluster.nodes, asked=None if asked == "auto" else asked)
    for need in needs:
        actors = num_actors(need, cluster.nodes, at_once=at_once)
        require_room_for_run(need, actors, cluster.nodes)
    return Room(cluster, needs, at_once)
