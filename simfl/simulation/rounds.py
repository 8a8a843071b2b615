"""The round loop, its clock, and the record of a round."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias

from simfl.engine import Engine, Handle, Trained
from simfl.errors import StatesLostError
from simfl.messages import FloatColumn, IntColumn, RoundPlan, RoundReport, RoundTrace
from simfl.observers import ClientTable, client_table
from simfl.record import RoundRecord
from simfl.sampling import Past
from simfl.simulation.best_weights import BestWeights
from simfl.simulation.building import Simulation
from simfl.simulation.checkpoints import Checkpoints
from simfl.simulation.evaluation import (
    NOT_EVALUATED,
    Evaluated,
    ask_losses,
    evaluate,
    evaluate_rest,
    is_evaluated,
)
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


Ask: TypeAlias = Callable[[IntColumn], FloatColumn]


class Done(NamedTuple):
    """A round that is done."""

    record: RoundRecord
    clients: ClientTable
    handle: Handle
    """What the next round starts from."""


class _Schedule:
    """The rounds that come, planned before those ahead of them have ended, if they depend on none.

    They come in series, each of which ends where something is done with its weights.

    Args:
        simulation: plans rounds.
        checkpoints: says when weights are saved.
    """

    def __init__(self, simulation: Simulation, checkpoints: Checkpoints) -> None:
        self._simulation, self._checkpoints = simulation, checkpoints
        self._series: list[list[RoundPlan]] = []

    def coming(
        self, round: int, past: Past | None, ask: Ask, *, length: int
    ) -> tuple[list[RoundPlan], list[RoundPlan]]:
        """Return the next series, and the one that may begin as soon as it has ended.

        Args:
            round: the next one.
            past: what the rounds before have left for the sampler, if it looks back.
            ask: returns clients' losses.
            length: the number of rounds of a series.
        """
        most = length if past is None else 1
        if not self._series:
            first = self._simulation.plan_round(round, past, ask)
            self._series = [self._extended([first], round + 1, most)]
        (now, *others), last = self._series, self._series[0][-1].round
        if not others and past is None and not is_evaluated(self._simulation, last):
            self._series.append(self._extended([], last + 1, most))
        return now, self._series[1] if len(self._series) > 1 else []

    def note(self, num_rounds: int) -> None:
        """Forget rounds of the next series, which are done."""
        left = self._series[0][num_rounds:]
        self._series = [series for series in (left, *self._series[1:]) if series]

    def forget(self) -> None:
        """Forget all plans."""
        self._series = []

    def _extended(self, series: list[RoundPlan], round: int, most: int) -> list[RoundPlan]:
        while len(series) < most and round <= self._simulation.scenario.rounds:
            last = round - 1
            is_used = is_evaluated(self._simulation, last) or self._checkpoints.is_due(last)
            if series and is_used:
                break
            try:
                series.append(self._simulation.plan_round(round))
            except Exception:  # it is raised when the round begins, and those before are done
                break
            round += 1
        return series


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
    in_series: bool = False,
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
        in_series: whether the engine may run several rounds before the first of them is yielded.
            Only the last one has a handle then, so the caller must not leave in between.
    """
    watch = watch or Watch()
    clock = clock or PhaseClock("sample")
    clock.enter("sample")
    clock.lap()
    scenario = simulation.scenario
    in_series = in_series and not watch.looks_at("train_loss")
    rollbacks, saved = 0, round
    past = simulation.read_past(sampled)
    schedule = _Schedule(simulation, checkpoints)
    while round < scenario.rounds and watch.reason is None:
        try:
            clock.enter("sample")
            length = engine.series_length if in_series else 1
            ask = partial(ask_losses, simulation, engine, handle)
            plans, following = schedule.coming(round + 1, past, ask, length=length)
            clock.enter("train")
            began = time.perf_counter()
            trained = engine.run(plans, handle, following=following)
            schedule.note(len(trained))
            laps = _laps(clock, trained, time.perf_counter() - began)
            for done in _look_at(simulation, engine, trained, laps, clock=clock, watch=watch):
                round, handle = round + 1, done.handle
                watch.take(done.record)
                if best is not None:
                    best.note(round, handle)
                past = simulation.learn(past, done.clients)
                yield done
                clock.enter("checkpoint")
                is_over = round == scenario.rounds or watch.reason is not None
                if best is not None and (
                    checkpoints.is_due(round) or (is_over and checkpoints.every)
                ):
                    best.store(engine, round=round)
                checkpoints.save_if_due(engine, handle, round=round, past=past)
                if is_over:
                    checkpoints.finish(engine)
        except StatesLostError:
            clock.enter("checkpoint")
            previous, (round, handle, sampled) = saved, checkpoints.go_back(engine)
            saved, past = round, simulation.read_past(sampled)
            schedule.forget()
            watch.go_back(round)
            if best is not None:
                best.forget()
            rollbacks = rollbacks + 1 if saved <= previous else 1
            if rollbacks > scenario.cluster.max_retries:
                raise


def _look_at(
    simulation: Simulation,
    engine: Engine,
    trained: Sequence[Trained],
    laps: Sequence[Mapping[str, float]],
    *,
    clock: PhaseClock,
    watch: Watch,
) -> Iterator[Done]:
    """Iterate over rounds that were trained, and evaluate what is due after the last.

    If the run ends early, all is evaluated that is evaluated after the last round. The handle that
    training returns is used by the evaluation and by the next round, so weights are put into the
    object store once.
    """
    *others, (report, trace, handle) = trained
    for one, lap in zip(others, laps, strict=False):
        clock.enter("observe")
        record = record_of(one.report, one.trace, lap, NOT_EVALUATED)
        yield Done(record, client_table(one.report.round, one.trace, ()), None)
    clock.enter("evaluate")
    evaluated = evaluate(simulation, engine, handle, round=report.round)
    if watch.ends_with(record_of(report, trace, {}, evaluated)):
        evaluated = evaluate_rest(simulation, engine, handle, evaluated)
    clock.enter("observe")
    lap = Counter(laps[-1]) + Counter(clock.lap())
    record = record_of(report, trace, lap, evaluated)
    yield Done(record, client_table(report.round, trace, evaluated.clients), handle)


def _laps(clock: PhaseClock, trained: Sequence[Trained], seconds: float) -> list[dict[str, float]]:
    """Return the seconds of each round that has just been run, by phase, so far.

    Args:
        clock: in the phase ``train``.
        trained: the rounds, which share the time by what each has measured.
        seconds: the time in that phase.
    """
    each = [trace.train_s + trace.aggregate_s for _, trace, _ in trained]
    total = sum(each) or 1.0
    aggregate_s = sum(trace.aggregate_s for _, trace, _ in trained)
    clock.move(seconds * aggregate_s / total, "train", "aggregate")
    lap = clock.lap()
    return [{phase: own * one / total for phase, own in lap.items()} for one in each]


def record_of(
    report: RoundReport, trace: RoundTrace, lap: Mapping[str, float], evaluated: Evaluated
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
