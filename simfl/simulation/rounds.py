"""The round loop."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from simfl.engine import Engine, Handle
from simfl.errors import StatesLostError
from simfl.messages import RoundReport, RoundTrace
from simfl.observers import ClientTable, RoundRecord, client_table
from simfl.simulation.build import Simulation
from simfl.simulation.checkpoints import Checkpoints
from simfl.simulation.clock import PhaseClock
from simfl.simulation.evaluation import evaluate

PHASES = ("sample", "train", "aggregate", "evaluate", "checkpoint", "observe")
"""Of a round, in the order of its record; the last two are the former round's."""


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
    clock: PhaseClock | None = None,
) -> Iterator[Done]:
    """Run the rounds that are left; yield each when it is done, and then save it if that is due.

    Where states are lost with a node, the run goes back to its last checkpoint, and rounds that
    were yielded before are yielded again, with the same numbers. The run ends after rolling back to
    the same one more than ``cluster.max_retries`` times.

    Args:
        simulation: what is run.
        engine: where it is run.
        checkpoints: where to save to.
        handle: what the next round starts from.
        round: how many rounds are done.
        clock: is told of each phase; left in ``observe`` while a round is yielded.
    """
    clock = clock or PhaseClock("sample")
    clock.enter("sample")
    clock.lap()
    scenario = simulation.scenario
    setbacks, saved = 0, round
    while round < scenario.rounds:
        try:
            done = _run_round(simulation, engine, handle, round=round + 1, clock=clock)
            round, handle = round + 1, done.handle
            yield done
            clock.enter("checkpoint")
            checkpoints.save_if_due(engine, handle, round=round)
            if round == scenario.rounds:
                checkpoints.finish(engine)
        except StatesLostError:
            clock.enter("checkpoint")
            former, (round, handle) = saved, checkpoints.go_back(engine)
            saved = round
            setbacks = setbacks + 1 if saved <= former else 1
            if setbacks > scenario.cluster.max_retries:
                raise


def _run_round(
    simulation: Simulation, engine: Engine, handle: Handle, *, round: int, clock: PhaseClock
) -> Done:
    """Train and evaluate.

    The handle that training returns serves the evaluation and the next round alike, so weights are
    put into the object store once a round.
    """
    clock.enter("sample")
    plan = simulation.plan_round(round)
    clock.enter("train")
    report, trace, following = engine.train(plan, handle)
    clock.enter("evaluate")
    clock.move(trace.aggregate_s, "train", "aggregate")
    evaluated = evaluate(simulation, engine, following, round=round)
    clock.enter("observe")
    record = _finite(_record(report, trace, clock.lap())) | evaluated.metrics
    return Done(record, client_table(round, trace, evaluated.clients), following)


def _finite(record: RoundRecord) -> RoundRecord:
    """Replace numbers that JSON cannot represent, infinities and NaN, by None."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in record.items()
    }


def _record(report: RoundReport, trace: RoundTrace, lap: dict[str, float]) -> RoundRecord:
    """Return the round as plain data.

    Its seconds are those since the former record: what was saved and observed then is in them, so
    that the rounds' seconds add up to the wall time.
    """
    return {
        "round": report.round,
        "seconds": sum(lap.values()),
        **{f"seconds_{phase}": lap.get(phase, 0.0) for phase in PHASES},
        "train_loss": report.train_loss,
        "clients": report.num_clients,
        "dropped": report.num_dropped,
        "retries": sum(chunk.retries for chunk in trace.chunks),
        "actors": trace.num_actors,
        "examples": report.num_examples,
        "examples_seen": report.num_seen,
        "steps": report.num_steps,
        "sent_bytes": report.sent_bytes,
        "received_bytes": report.received_bytes,
        "aux_bytes": report.aux_bytes,
        "delta_norm": report.delta_norm,
    }
