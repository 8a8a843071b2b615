"""When weights are evaluated, and what becomes of the sums."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np

from simfl.engine import Engine, Handle
from simfl.messages import EvaluationChunk
from simfl.models.model import MetricSums
from simfl.simulation.build import Simulation

__all__ = ["evaluate"]

WORST_SHARE = 0.1
"""The share of clients whose mean is reported as the worst."""


def evaluate(
    simulation: Simulation, engine: Engine, handle: Handle, *, round: int
) -> dict[str, float]:
    """Evaluate what was broadcast, where the round is one to evaluate after.

    Returns:
        ``loss`` and each metric on the test split; ``client_loss`` and so on as the mean over
        clients, with ``_std`` and ``_worst`` (the mean of the worst tenth) beside it.
    """
    options, is_last = simulation.scenario.evaluation, round == simulation.scenario.rounds
    metrics: dict[str, float] = {}
    test = simulation.dataset.test
    if test is not None and _is_due(options.every, round, is_last=is_last):
        batches = -(-len(test) // options.batch_size)
        chunk = EvaluationChunk("test", tuple(range(batches)))
        metrics |= _means(engine.evaluate(chunk, handle))
    if _is_due(options.clients_every, round, is_last=is_last):
        chunk = EvaluationChunk("clients", tuple(range(simulation.population)))
        ascending = [m.key for m in simulation.client.build_metrics() if m.larger_is_better]
        metrics |= _over_clients(engine.evaluate(chunk, handle), ascending=ascending)
    return metrics


def _is_due(every: int, round: int, *, is_last: bool) -> bool:
    return every > 0 and (is_last or round % every == 0)


def _means(parts: Sequence[MetricSums]) -> dict[str, float]:
    """Divide the sums by the weights; ``fsum`` is exact, so batches may come in any order."""

    def total(name: str, index: int) -> float:
        return math.fsum(part[name][index] for part in parts)

    return {name: total(name, 0) / total(name, 1) for name in parts[0]}


def _over_clients(clients: Sequence[MetricSums], *, ascending: Collection[str]) -> dict[str, float]:
    """Return mean, spread and the worst tenth; of ``ascending`` the smallest are the worst."""
    metrics = {}
    for name in clients[0]:
        values = np.sort([client[name][0] / client[name][1] for client in clients])
        worst = max(1, round(WORST_SHARE * len(values)))
        tail = values[:worst] if name in ascending else values[-worst:]
        metrics[f"client_{name}"] = float(values.mean())
        metrics[f"client_{name}_std"] = float(values.std())
        metrics[f"client_{name}_worst"] = float(tail.mean())
    return metrics
