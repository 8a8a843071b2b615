"""The round loop."""

from __future__ import annotations

import time
from collections.abc import Iterator

from simfl.engine import Engine
from simfl.observers import RoundRecord
from simfl.simulation.build import Simulation
from simfl.simulation.evaluation import evaluate

__all__ = ["run_rounds"]


def run_rounds(simulation: Simulation, engine: Engine) -> Iterator[RoundRecord]:
    """Run all rounds; yield each one's record as it ends.

    The handle that a round returns serves its evaluation and the next round alike, so weights are
    put into the object store once a round.
    """
    handle = engine.start()
    for round in range(1, simulation.scenario.rounds + 1):
        started = time.perf_counter()
        report, handle = engine.train(simulation.plan_round(round), handle)
        metrics = evaluate(simulation, engine, handle, round=round)
        yield {
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
