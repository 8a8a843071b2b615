"""The round loop."""

from __future__ import annotations

import time
from collections.abc import Iterator

from simfl.engine import Engine, Handle
from simfl.errors import StatesLostError
from simfl.observers import RoundRecord
from simfl.simulation.build import Simulation
from simfl.simulation.checkpoints import Checkpoints
from simfl.simulation.evaluation import evaluate

__all__ = ["run_rounds"]


def run_rounds(
    simulation: Simulation,
    engine: Engine,
    checkpoints: Checkpoints,
    *,
    handle: Handle,
    round: int = 0,
) -> Iterator[tuple[RoundRecord, Handle]]:
    """Run the rounds that are left; yield each one's record, and what the next starts from.

    Where states are lost with a node, the run goes back to its last checkpoint, and rounds that
    were yielded before are yielded again, with the same numbers.

    Args:
        simulation: what is run.
        engine: where it is run.
        checkpoints: where to save to.
        handle: what the next round starts from.
        round: how many rounds are done.
    """
    scenario = simulation.scenario
    setbacks = 0
    while round < scenario.rounds:
        try:
            record, handle = _run_round(simulation, engine, handle, round=round + 1)
        except StatesLostError:
            setbacks += 1
            if setbacks > scenario.cluster.max_retries:
                raise
            round, handle = checkpoints.go_back(engine)
            continue
        round += 1
        yield record, handle
        checkpoints.save_if_due(engine, handle, round=round)
    checkpoints.finish(engine)


def _run_round(
    simulation: Simulation, engine: Engine, handle: Handle, *, round: int
) -> tuple[RoundRecord, Handle]:
    """Train and evaluate.

    The handle that training returns serves the evaluation and the next round alike, so weights are
    put into the object store once a round.
    """
    started = time.perf_counter()
    trained = engine.train(simulation.plan_round(round), handle)
    report = trained.report
    metrics = evaluate(simulation, engine, trained.handle, round=round)
    record = {
        "round": round,
        "seconds": time.perf_counter() - started,
        "train_loss": report.train_loss,
        "clients": report.num_clients,
        "dropped": report.num_dropped,
        "examples": report.num_examples,
        "steps": report.num_steps,
        "delta_norm": report.delta_norm,
        **metrics,
    }
    return record, trained.handle
