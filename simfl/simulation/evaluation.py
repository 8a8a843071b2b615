"""When weights are evaluated, and by which metrics runs are ranked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np

from simfl.engine import Engine, Handle
from simfl.messages import EvaluationChunk, FloatColumn, IntColumn
from simfl.models.model import MetricSums
from simfl.observers import ClientEvaluation
from simfl.record import (
    GLOBAL,
    GLOBAL_TRAIN_LOSS,
    ClientMetric,
    Number,
    RoundRecord,
    client_keys,
    evaluated_as,
)
from simfl.sections import EvaluationSection
from simfl.simulation.building import Simulation
from simfl.simulation.judging import better_keys
from simfl.simulation.metric_values import ClientSums, by_client, values_of


@dataclass(frozen=True)
class Evaluated:
    """The result of an evaluation."""

    metrics: dict[str, float | None]
    """``loss`` and each metric on the test split; empty if that was not due."""
    client_metrics: dict[str, ClientMetric]
    """``loss`` and each metric over clients; empty if that was not due."""
    clients: tuple[ClientEvaluation, ...]
    """The values of each client: with the broadcast weights, then with each of its own models;
    empty if that was not due."""
    arrays: dict[str, list[Any]] = field(default_factory=dict)
    """The metrics that are arrays, as lists, by the key of the record."""


NOT_EVALUATED: Final = Evaluated({}, {}, ())


def evaluate(simulation: Simulation, engine: Engine, handle: Handle, *, round: int) -> Evaluated:
    """Evaluate the weights that the next round starts from, if an evaluation is due."""
    options, is_last = simulation.scenario.evaluation, round == simulation.scenario.rounds
    return measure(
        simulation,
        engine,
        handle,
        test=_is_due(options.every, round, is_last=is_last),
        clients=_is_due(options.clients_every, round, is_last=is_last),
    )


def is_evaluated(simulation: Simulation, round: int) -> bool:
    """Return whether anything is evaluated after a round."""
    options, is_last = simulation.scenario.evaluation, round == simulation.scenario.rounds
    due = (
        _is_due(every, round, is_last=is_last) for every in (options.every, options.clients_every)
    )
    return any(due)


def evaluate_rest(
    simulation: Simulation, engine: Engine, handle: Handle, done: Evaluated
) -> Evaluated:
    """Evaluate what a run's last round has evaluated besides; return both."""
    options = simulation.scenario.evaluation
    rest = measure(
        simulation,
        engine,
        handle,
        test=options.every > 0 and not done.metrics,
        clients=options.clients_every > 0 and not done.clients,
    )
    return Evaluated(
        done.metrics or rest.metrics,
        done.client_metrics or rest.client_metrics,
        done.clients or rest.clients,
        done.arrays | rest.arrays,
    )


def measure(
    simulation: Simulation, engine: Engine, handle: Handle, *, test: bool, clients: bool
) -> Evaluated:
    """Evaluate the weights of a handle.

    Args:
        simulation: names the metrics, and the models of clients that are evaluated.
        engine: evaluates them.
        handle: what they are in.
        test: whether on the test split, if there is one.
        clients: whether on each client's own examples.
    """
    metrics: dict[str, Number] = {}
    arrays: dict[str, list[Any]] = {}
    client_metrics: dict[str, ClientMetric] = {}
    by_model: dict[str, ClientSums] = {}
    num_examples = simulation.num_test_examples
    if num_examples and test:
        batches = -(-num_examples // simulation.scenario.evaluation.batch_size)
        chunk = EvaluationChunk("test", tuple((number,) for number in range(batches)))
        parts = engine.evaluate(chunk, handle)
        metrics, arrays = values_of(parts, simulation.client.build_metrics())
    if test and simulation.scenario.evaluation.train_loss:
        metrics[GLOBAL_TRAIN_LOSS] = _global_train_loss(simulation, engine, handle)
    if clients:
        by_model = _evaluate_clients(simulation, engine, handle)
        for model, is_new in simulation.scenario.evaluations:
            over, own_arrays = by_model[model].over_clients(new=is_new)
            client_metrics |= {evaluated_as(name, model, is_new): m for name, m in over.items()}
            arrays |= {
                client_keys(evaluated_as(name, model, is_new))["mean"]: found
                for name, found in own_arrays.items()
            }
    tables = tuple(found.table for found in by_model.values())
    return Evaluated(metrics, client_metrics, tables, arrays)


def without_last_evaluation(
    history: Sequence[RoundRecord], options: EvaluationSection
) -> list[RoundRecord]:
    """Return the records that a longer run would have: without evaluations only due at the end.

    Args:
        history: of the first rounds.
        options: define which rounds are evaluated in any case.
    """
    if not history:
        return []
    last = history[-1]
    is_due = _is_due(options.every, last.round, is_last=False)
    are_clients_due = _is_due(options.clients_every, last.round, is_last=False)
    return [*history[:-1], last.without(metrics=not is_due, client_metrics=not are_clients_due)]


def _evaluate_clients(
    simulation: Simulation, engine: Engine, handle: Handle
) -> dict[str, ClientSums]:
    """Evaluate every client on the actors of its group, with each model that the scenario asks for.

    With the broadcast weights small clients are evaluated together; with its own, each is alone.
    """
    models = [model for model, is_new in simulation.scenario.evaluations if not is_new]
    sums: dict[str, dict[int, MetricSums]] = {model: {} for model in models}
    own = tuple(model for model in models if model != GLOBAL)
    num_rows = simulation.dataset.num_evaluation_examples()
    most = simulation.scenario.evaluation.batch_size
    for group in np.unique(simulation.group_of).tolist():
        clients = np.flatnonzero(simulation.group_of == group).tolist()
        items = join_small_clients(clients, num_rows[clients].tolist(), most=most)
        evaluated = engine.evaluate(EvaluationChunk("clients", items, group), handle)
        sums[GLOBAL] |= zip(clients, evaluated, strict=True)
        if own:
            alone = tuple((client,) for client in clients)
            chunk = EvaluationChunk("clients", alone, group, own, needs_states=True)
            evaluated = engine.evaluate(chunk, handle)
            for index, model in enumerate(own):
                sums[model] |= zip(clients, evaluated[index :: len(own)], strict=True)
    everyone = np.arange(simulation.population)
    is_new = ~np.isin(everyone, simulation.participants)
    return {
        model: by_client(
            [found[c] for c in everyone.tolist()],
            model,
            is_new if is_new.any() else None,
            simulation.client.build_metrics(),
        )
        for model, found in sums.items()
    }


def ask_losses(
    simulation: Simulation, engine: Engine, handle: Handle, clients: IntColumn
) -> FloatColumn:
    """Return clients' mean losses over their training examples, with the weights of a handle.

    NaN: a client has no examples, or its code has failed and it is dropped. Each is evaluated
    alone, so that its loss does not depend on which others are.

    Args:
        simulation: knows their groups.
        engine: evaluates them.
        handle: what the next round starts from.
        clients: [M] ids.
    """
    total, weight = _training_losses(simulation, engine, handle, clients).T
    losses: FloatColumn = np.where(weight > 0, total / np.where(weight > 0, weight, 1.0), np.nan)
    return losses


def _global_train_loss(simulation: Simulation, engine: Engine, handle: Handle) -> Number:
    """Return the mean loss over the training examples of all clients; None: it is not finite."""
    sums = _training_losses(simulation, engine, handle, simulation.participants)
    found, _ = values_of([{"loss": (total, weight)} for total, weight in sums.tolist()], ())
    return found["loss"]


def _training_losses(
    simulation: Simulation, engine: Engine, handle: Handle, clients: IntColumn
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the sum of each client's losses over its training examples, and its weight: [M, 2]."""
    sums = np.zeros((simulation.population, 2))
    held = clients[simulation.num_examples[clients] > 0]
    needs_states = bool(simulation.client.personal)  # personal weights are among these
    for group in np.unique(simulation.group_of[held]).tolist():
        own = held[simulation.group_of[held] == group]
        items = tuple((client,) for client in own.tolist())
        chunk = EvaluationChunk("training", items, group, (GLOBAL,), needs_states=needs_states)
        found = engine.evaluate(chunk, handle)
        sums[own] = [each["loss"] for each in found]
    found_sums: np.ndarray[Any, np.dtype[np.float64]] = sums[clients]
    return found_sums


def join_small_clients(
    clients: Sequence[int], num_rows: Sequence[int], *, most: int
) -> tuple[tuple[int, ...], ...]:
    """Group clients, in their order, so that the examples of each group fit into one batch.

    The groups follow from the scenario alone, since the batch affects floating-point rounding.

    Args:
        clients: their ids.
        num_rows: how many examples each is evaluated on; a client with more than a batch is alone.
        most: the number of examples in a batch.

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


def better_values(simulation: Simulation) -> dict[str, Literal["max", "min"]]:
    """Return the metrics evaluated in any round, by key; see ``better_keys``."""
    return better_keys(
        simulation.scenario,
        simulation.client.build_metrics(),
        has_test=simulation.num_test_examples > 0,
    )


def metric_units(simulation: Simulation) -> dict[str, str]:
    """Return the unit of each metric that has one, by the keys of its numbers in records."""
    known: dict[str, str] = {}
    for metric in simulation.client.build_metrics():
        if metric.unit is not None:
            names = [evaluated_as(metric.key, *of) for of in simulation.scenario.evaluations]
            keys = [client_keys(name) for name in names]
            known |= dict.fromkeys(
                [metric.key, *(k for own in keys for part, k in own.items() if part != "count")],
                metric.unit,
            )
    return known
