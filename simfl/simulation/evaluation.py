"""When weights are evaluated, and what becomes of the sums."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from simfl.engine import Engine, Handle
from simfl.messages import EvaluationChunk
from simfl.models.model import MetricSums
from simfl.observers import ClientEvaluation
from simfl.simulation.build import Simulation

__all__ = ["Evaluated", "evaluate"]

WORST_SHARE = 0.1
"""The share of clients whose mean is reported as the worst."""


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation has brought."""

    metrics: dict[str, float]
    """``loss`` and each metric on the test split; ``client_loss`` and so on as the mean over
    clients, with ``_std`` and ``_worst`` (the mean of the worst tenth) beside it."""
    clients: ClientEvaluation | None
    """What the means over clients are made of."""


def evaluate(simulation: Simulation, engine: Engine, handle: Handle, *, round: int) -> Evaluated:
    """Evaluate what was broadcast, where the round is one to evaluate after."""
    options, is_last = simulation.scenario.evaluation, round == simulation.scenario.rounds
    metrics: dict[str, float] = {}
    clients = None
    num_examples = simulation.num_test_examples
    if num_examples and _is_due(options.every, round, is_last=is_last):
        batches = -(-num_examples // options.batch_size)
        chunk = EvaluationChunk("test", tuple((number,) for number in range(batches)))
        metrics |= _means(engine.evaluate(chunk, handle))
    if _is_due(options.clients_every, round, is_last=is_last):
        ascending = [m.key for m in simulation.client.build_metrics() if m.larger_is_better]
        clients = _by_client(_evaluate_clients(simulation, engine, handle))
        metrics |= _over_clients(clients, ascending=ascending)
    return Evaluated(metrics, clients)


def _evaluate_clients(simulation: Simulation, engine: Engine, handle: Handle) -> list[MetricSums]:
    """Evaluate every client where it is trained; one entry per client, by id."""
    by_client: dict[int, MetricSums] = {}
    num_rows = simulation.dataset.num_evaluation_examples()
    most = simulation.scenario.evaluation.batch_size
    for group in np.unique(simulation.group_of).tolist():
        clients = np.flatnonzero(simulation.group_of == group)
        items = join_small_clients(clients.tolist(), num_rows[clients].tolist(), most=most)
        evaluated = engine.evaluate(EvaluationChunk("clients", items, group), handle)
        by_client |= zip(clients.tolist(), evaluated, strict=True)
    return [by_client[client] for client in range(simulation.population)]


def join_small_clients(
    clients: Sequence[int], num_rows: Sequence[int], *, most: int
) -> tuple[tuple[int, ...], ...]:
    """Cut clients, in their order, into those whose examples make one batch together.

    The cut follows from the scenario alone, as an example's loss has other last bits in another
    batch.

    Args:
        clients: their ids.
        num_rows: how many examples each is evaluated on; one with more than a batch is alone.
        most: examples of a batch.

    >>> join_small_clients([0, 1, 2, 3, 4], [2, 3, 9, 1, 1], most=5)
    ((0, 1), (2,), (3, 4))
    """
    together: list[list[int]] = []
    room = 0
    for client, needed in zip(clients, num_rows, strict=True):
        if needed > room:
            together.append([])
            room = most
        together[-1].append(client)
        room -= needed
    return tuple(map(tuple, together))


def _is_due(every: int, round: int, *, is_last: bool) -> bool:
    return every > 0 and (is_last or round % every == 0)


def _means(parts: Sequence[MetricSums]) -> dict[str, float]:
    """Divide the sums by the weights; ``fsum`` is exact, so batches may come in any order."""

    def total(name: str, index: int) -> float:
        return math.fsum(part[name][index] for part in parts)

    return {name: total(name, 0) / total(name, 1) for name in parts[0]}


def _by_client(parts: Sequence[MetricSums]) -> ClientEvaluation:
    """Make a table of what each client was evaluated to, by id."""
    names = list(parts[0])
    sums = np.array([[part[name] for name in names] for part in parts], dtype=np.float64)
    totals, weights = sums[..., 0], sums[..., 1]
    return ClientEvaluation(
        client=np.arange(len(parts)),
        weight=weights[:, names.index("loss")],
        metrics={name: totals[:, i] / weights[:, i] for i, name in enumerate(names)},
    )


def _over_clients(clients: ClientEvaluation, *, ascending: Collection[str]) -> dict[str, float]:
    """Return mean, spread and the worst tenth; of ``ascending`` the smallest are the worst."""
    metrics = {}
    for name, unsorted in clients.metrics.items():
        values = np.sort(unsorted)
        worst = max(1, round(WORST_SHARE * len(values)))
        tail = values[:worst] if name in ascending else values[-worst:]
        metrics[f"client_{name}"] = float(values.mean())
        metrics[f"client_{name}_std"] = float(values.std())
        metrics[f"client_{name}_worst"] = float(tail.mean())
    return metrics
