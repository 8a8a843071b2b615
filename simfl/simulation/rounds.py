"""The round loop, its clock, and the record of a round."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from simfl.engine import Engine, Handle
from simfl.errors import StatesLostError
from simfl.messages import RoundPlan, RoundReport, RoundTrace
from simfl.observers import ClientTable, client_table
from simfl.record import RoundRecord
from simfl.sampling import Past
from simfl.simulation.best_weights import BestWeights
from simfl.simulation.building import Simulation
from simfl.simulation.checkpoints import Checkpoints
from simfl.simulation.evaluation import Evaluated, ask_losses, evaluate, evaluate_rest, is_evaluated
from simfl.simulation.judging import Watch
from simfl.states import State

PHASES = ("sample", "train", "aggregate", "evaluate", "checkpoint", "observe")
"""The phases of a round, in the order of its record; the last two are the previous round's."""


class PhaseClock:
    """Measures the phases of a run, one at any time, so that they add up to the wall time.

    Args:
        phase: the first one.
        now: returns the time in seconds.

    >>> ticks = iter([0.0, 2.0, 5.0, 6.0])
    >>> clock = PhaseClock("sample", now=lambda: next(ticks))
    >>> clock.enter("train")
    >>> clock.enter("evaluate")
    >>> clock.move(1.0, "train", "aggregate")
    >>> clock.totals()
    {'sample': 2.0, 'train': 2.0, 'aggregate': 1.0, 'evaluate': 1.0}
    """

    def __init__(self, phase: str, *, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._phase = phase
        self._since = now()
        self._totals: defaultdict[str, float] = defaultdict(float)
        self._at_lap: dict[str, float] = {}

    def enter(self, phase: str) -> None:
        """End the current phase, and begin another, or the same again."""
        now = self._now()
        self._totals[self._phase] += now - self._since
        self._phase, self._since = phase, now

    def move(self, seconds: float, source: str, target: str) -> None:
        """Count some of the seconds of one phase as another's."""
        self._totals[source] -= seconds
        self._totals[target] += seconds

    def lap(self) -> dict[str, float]:
        """Return the seconds of each phase since the last lap, or since the start."""
        totals = self.totals()
        lap = {phase: total - self._at_lap.get(phase, 0.0) for phase, total in totals.items()}
        self._at_lap = totals
        return lap

    def wall(self) -> float:
        """Return the seconds since the start, up to now."""
        return sum(self.totals().values())

    def totals(self) -> dict[str, float]:
        """Return the seconds of each phase since the start, up to now."""
        self.enter(self._phase)
        return dict(self._totals)


class Done(NamedTuple):
    """A round that is done."""

    record: RoundRecord
    clients: ClientTable
    handle: Handle
    """What the next round starts from."""


def run_rounds(
    simulation: Simulation,
    engine: Engine,
    checkpoints: Checkpoints,
    *,
    handle: Handle,
    round: int = 0,
    sampled: State | None = None,
    clock: PhaseClock | None = None,
    watch: Watch | None = None,
    best: BestWeights | None = None,
) -> Generator[Done]:
    """Run the remaining rounds; yield each when it is done, and then save it if that is due.

    If states are lost with a node, the run rolls back to its last checkpoint, and rounds that were
    yielded before are yielded again, with the same numbers. It fails after rolling back to the same
    checkpoint more than ``cluster.max_retries`` times.

    Args:
        simulation: resolved and checked.
        engine: does the work.
        checkpoints: where to save.
        handle: what the next round starts from.
        round: how many rounds are done.
        sampled: what they have left for the sampler, as in a checkpoint; None: nothing.
        clock: enters each phase; it is in ``observe`` while a round is yielded.
        watch: judges the rounds, which end early if it says so; it knows those that are done.
        best: keeps the best round's weights.
    """
    watch = watch or Watch()
    clock = clock or PhaseClock("sample")
    clock.enter("sample")
    clock.lap()
    scenario = simulation.scenario
    rollbacks, saved = 0, round
    past = simulation.read_past(sampled)
    plan: RoundPlan | None = None
    while round < scenario.rounds and watch.reason is None:
        try:
            clock.enter("sample")
            if plan is None:
                ask = partial(ask_losses, simulation, engine, handle)
                plan = simulation.plan_round(round + 1, past, ask)
            following = _plan_ahead(simulation, round + 2, past)
            done = _run_round(simulation, engine, plan, handle, following, clock=clock, watch=watch)
            round, handle, plan = round + 1, done.handle, following
            watch.take(done.record)
            if best is not None:
                best.note(round, handle)
            past = simulation.learn(past, done.clients)
            yield done
            clock.enter("checkpoint")
            is_over = round == scenario.rounds or watch.reason is not None
            if best is not None and (checkpoints.is_due(round) or (is_over and checkpoints.every)):
                best.store(engine, round=round)
            checkpoints.save_if_due(engine, handle, round=round, past=past)
            if is_over:
                checkpoints.finish(engine)
        except StatesLostError:
            clock.enter("checkpoint")
            previous, (round, handle, sampled) = saved, checkpoints.go_back(engine)
            saved, past, plan = round, simulation.read_past(sampled), None
            watch.go_back(round)
            if best is not None:
                best.forget()
            rollbacks = rollbacks + 1 if saved <= previous else 1
            if rollbacks > scenario.cluster.max_retries:
                raise


def _plan_ahead(simulation: Simulation, round: int, past: Past | None) -> RoundPlan | None:
    """Return the plan of a round that depends on none before, if nothing is evaluated before it."""
    is_last = round > simulation.scenario.rounds
    if is_last or past is not None or is_evaluated(simulation, round - 1):
        return None
    with suppress(Exception):  # it is raised when the round begins, and those before are done
        return simulation.plan_round(round)
    return None


def _run_round(
    simulation: Simulation,
    engine: Engine,
    plan: RoundPlan,
    handle: Handle,
    following: RoundPlan | None,
    *,
    clock: PhaseClock,
    watch: Watch,
) -> Done:
    """Train and evaluate; if the run ends early, evaluate all that is evaluated after the last.

    The handle that training returns is used by the evaluation and by the next round, so weights are
    put into the object store once a round.
    """
    clock.enter("train")
    cohort = engine.train(plan, handle, ends=True)
    report, trace, handle = engine.end_round(cohort, following=following)
    clock.enter("evaluate")
    clock.move(trace.aggregate_s, "train", "aggregate")
    evaluated = evaluate(simulation, engine, handle, round=plan.round)
    if watch.ends_with(record_of(report, trace, {}, evaluated)):
        evaluated = evaluate_rest(simulation, engine, handle, evaluated)
    clock.enter("observe")
    record = record_of(report, trace, clock.lap(), evaluated)
    return Done(record, client_table(plan.round, trace, evaluated.clients), handle)


def record_of(
    report: RoundReport, trace: RoundTrace, lap: dict[str, float], evaluated: Evaluated
) -> RoundRecord:
    """Return the record of a round.

    Args:
        report: its numbers.
        trace: how it was trained.
        lap: its seconds, by phase.
        evaluated: what was measured after it.
    """
    return RoundRecord(
        round=report.round,
        seconds=sum(lap.values()),
        phases={phase: lap.get(phase, 0.0) for phase in PHASES},
        train_loss=_finite(report.train_loss),
        clients=report.num_clients,
        dropped=report.num_dropped,
        retries=sum(chunk.retries for chunk in trace.chunks),
        actors=trace.num_actors,
        examples=report.num_examples,
        examples_seen=report.num_seen,
        steps=report.num_steps,
        sent_bytes=report.sent_bytes,
        received_bytes=report.received_bytes,
        received_dense_bytes=report.received_dense_bytes,
        aux_bytes=report.aux_bytes,
        delta_norm=_finite(report.delta_norm),
        metrics=evaluated.metrics,
        client_metrics=evaluated.client_metrics,
        arrays=evaluated.arrays,
    )


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
