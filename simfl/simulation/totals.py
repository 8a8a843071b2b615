"""What a loop of one's own gives and gets: cohorts, weights, totals, records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from simfl.engine import Cohort
from simfl.errors import InputError
from simfl.messages import Contribution, RoundPlan, RoundReport, RoundTrace
from simfl.observers import ClientTable, client_table
from simfl.record import RoundRecord, is_metric
from simfl.sampling import order_cohort
from simfl.simulation.building import Simulation
from simfl.simulation.evaluation import Evaluated
from simfl.simulation.grouping import order_by_group
from simfl.simulation.rounds import record_of
from simfl.states import State
from simfl.vector import Vector


@dataclass(frozen=True)
class Total:
    """What a cohort has sent."""

    mean: Vector
    """What ``server.aggregator`` makes of the clients' deltas, start minus end: by default their
    weighted mean. It points along a gradient: ``weights - total.mean`` is FedAvg. Without clients,
    zeros."""
    buffers: Vector
    """The part of ``mean`` that is no gradient: running statistics, such as BatchNorm's."""
    weight: float
    """The sum of the clients' weights (``server.weighting``)."""
    sums: Mapping[str, Any]
    """What the algorithm's clients send besides (``Update.sums``), added up."""
    aux: Mapping[str, Mapping[str, Any]]
    """The auxiliary variables of the clients' modules, merged, by their names."""
    clients: ClientTable
    """What each client did, as columns in the order of the cohort: ``client``, ``train_loss``..."""
    report: RoundReport
    """Counts over the cohort."""
    sent: Contribution | None = field(repr=False)
    """All that was sent, as ``Federation.step`` needs it; None: nothing."""
    cohort: Cohort = field(repr=False)

    @property
    def loss(self) -> float:
        """The mean training loss over all steps, by examples; NaN without clients."""
        return self.report.train_loss


@dataclass(frozen=True)
class ClientUpdate:
    """What one client has sent."""

    client: int
    """Its id."""
    delta: Vector
    """The start minus the end of its training."""
    weight: float
    """As ``server.weighting`` or the algorithm weights it."""
    loss: float
    """Its mean training loss over all steps, by examples."""


class Saved(NamedTuple):
    """What a loop goes on from."""

    round: int
    """The last round before it was saved; 0 at the start."""
    weights: Vector
    values: State
    """What else was saved, by name."""


def plan_cohort(simulation: Simulation, clients: Sequence[int], round: int) -> RoundPlan:
    """Return the plan of a cohort of one's own.

    Args:
        simulation: knows the clients.
        clients: their ids, in any order.
        round: which round, from 1.

    Raises:
        InputError: if two ids are the same, or one is no client that may train.
    """
    ids = np.array(sorted(clients))
    if round < 1:
        raise InputError(f"train: round is {round}, and the first is 1")
    if len(ids) and ids.dtype.kind not in "iu":
        raise InputError(f"train: clients are {ids.dtype}; they must be ids, whole numbers")
    ids = ids.astype(np.int64)
    if (twice := ids[1:][ids[1:] == ids[:-1]]).size:
        raise InputError(f"train: client {twice[0]} is given twice")
    if (unknown := ids[~np.isin(ids, simulation.participants)]).size:
        raise InputError(f"train: client {unknown[0]} is none of those that may train")
    plan = order_cohort(
        ids,
        num_examples=simulation.num_examples,
        num_steps=simulation.num_steps,
        seed=simulation.scenario.seed,
        round=round,
        work=simulation.client.work,
    )
    return order_by_group(plan, simulation.group_of, simulation.stacks)


def like(known: Vector, weights: Vector) -> Vector:
    """Return weights in the types of known ones, and averaged counts as whole numbers.

    Raises:
        InputError: unless they have the same names and shapes.
    """
    if not isinstance(weights, Vector | Mapping):
        raise InputError(f"weights: is {type(weights).__name__}, but must be a Vector")
    for name in (*known, *weights):
        given, wanted = (list(v[name].shape) if name in v else None for v in (weights, known))
        if given != wanted:
            raise InputError(f"weights: {name!r} has shape {given}, and in the model {wanted}")
    return Vector({name: _as(weights[name], known[name].dtype) for name in known})


def _as(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    is_rounded = tensor.is_floating_point() and not dtype.is_floating_point
    return (tensor.round() if is_rounded else tensor).to(dtype)


def clients_of(cohorts: Sequence[Cohort], round: int) -> ClientTable:
    """Return the table of all clients of some cohorts."""
    chunks = tuple(chunk for cohort in cohorts for chunk in cohort.chunks)
    return client_table(round, RoundTrace(chunks, 0.0, 0.0))


def record_loop(
    round: int,
    trained: Sequence[tuple[RoundReport, Cohort]],
    values: Mapping[str, Any],
    *,
    lap: dict[str, float],
    num_actors: int,
) -> RoundRecord:
    """Return the record of a round of a loop.

    Args:
        round: which round.
        trained: the cohorts that were trained in it.
        values: numbers, and lists of them, by name; ``train_loss`` replaces the clients' own.
        lap: seconds by phase.
        num_actors: that train clients.

    Raises:
        InputError: if a name is a field of records, or a value is no number.
    """
    arrays = {name: _numbers(name, v) for name, v in values.items() if isinstance(v, list)}
    metrics = {name: _number(name, value) for name, value in values.items() if name not in arrays}
    is_given = "train_loss" in metrics
    given = metrics.pop("train_loss", None)
    if known := [name for name in (*metrics, *arrays) if not is_metric(name)]:
        raise InputError(f"log: {known[0]!r} is a field of the records; give it another name")
    chunks = tuple(chunk for _, cohort in trained for chunk in cohort.chunks)
    trace = RoundTrace(chunks, 0.0, 0.0, num_actors)
    report = _joined(round, [report for report, _ in trained])
    record = record_of(report, trace, lap, Evaluated(metrics, {}, (), arrays))
    return replace(record, train_loss=given) if is_given else record


def _joined(round: int, reports: Sequence[RoundReport]) -> RoundReport:
    """Add up the numbers of several cohorts."""
    if len(reports) == 1:
        return replace(reports[0], round=round)
    counts = ("clients", "dropped", "examples", "seen", "steps")
    sizes = ("sent_bytes", "received_bytes", "received_dense_bytes", "aux_bytes")
    names = (*(f"num_{count}" for count in counts), *sizes)
    sums: dict[str, Any] = {name: sum(getattr(one, name) for one in reports) for name in names}
    losses = [one.train_loss * one.num_seen for one in reports if one.num_seen]
    loss = math.fsum(losses) / sums["num_seen"] if losses else math.nan
    return RoundReport(round=round, train_loss=loss, delta_norm=math.nan, **sums)


def _numbers(name: str, values: list[Any]) -> list[Any]:
    return [_numbers(name, v) if isinstance(v, list) else _number(name, v) for v in values]


def _number(name: str, value: Any) -> float | None:
    try:
        number = None if value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        raise InputError(
            f"log: {name!r} is {type(value).__name__}, but must be a number or None"
        ) from None
    return number if number is None or math.isfinite(number) else None
