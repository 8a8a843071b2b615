"""ClientTable: what the clients of one round did, a column for each fact.

Shapes: N clients of the cohort, M clients that were evaluated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from simfl.messages import FloatColumn, IntColumn, RoundTrace


@dataclass(frozen=True)
class ClientEvaluation:
    """The broadcast weights, evaluated on what each client holds."""

    client: IntColumn
    """[M] ids."""
    weights: Mapping[str, FloatColumn]
    """[M] the number or total weight of each client's examples, by metric."""
    metrics: Mapping[str, FloatColumn]
    """[M] each client's mean, by metric: ``loss`` and what the scenario measures. NaN where the
    weight is 0: there is no value."""

    @property
    def weight(self) -> FloatColumn:
        """[M] the number or total weight of the examples that each was evaluated on."""
        return self.weights["loss"]

    def __len__(self) -> int:
        return len(self.client)


@dataclass(frozen=True)
class ClientTable:
    """One row for each client of a round, in the order of the cohort.

    All but ``seconds``, ``actor`` and ``retries`` are the same bits on every backend.
    """

    round: int
    client: IntColumn
    """[N] ids."""
    num_examples: IntColumn
    """[N] how many examples each trains on."""
    num_steps: IntColumn
    """[N] how many steps each took."""
    train_loss: FloatColumn
    """[N] the mean over its steps of the loss before the step, by examples; 0 without any."""
    first_loss: FloatColumn
    """[N] the loss of the first step's batch, before that step; NaN without any."""
    last_loss: FloatColumn
    """[N] the loss of the last step's batch, before that step; NaN without any."""
    delta_norm: FloatColumn
    """[N] the L2 norm of its delta; NaN where the client itself has failed."""
    seconds: FloatColumn
    """[N] wall time; clients that are trained together share it by their steps."""
    actor: IntColumn
    """[N] who trained it: an index of ``actors``."""
    actors: tuple[str, ...]
    """Those who trained: ``client-3``, or ``inline``; sorted."""
    retries: IntColumn
    """[N] how often its chunk was lost with an actor before."""
    dropped: Mapping[int, str]
    """Client id -> why its update was left out; only of those whose was."""
    evaluation: ClientEvaluation | None = None
    """Of all clients of the population; None after a round that is not one to evaluate after."""

    def __len__(self) -> int:
        return len(self.client)


def client_table(
    round: int, trace: RoundTrace, evaluation: ClientEvaluation | None = None
) -> ClientTable:
    """Put the columns of a round's chunks together."""
    reports = [chunk.report.clients for chunk in trace.chunks]
    sizes = [len(report.clients) for report in reports]
    actors = sorted({chunk.actor for chunk in trace.chunks})

    def per_client(values: Sequence[int]) -> IntColumn:
        return np.repeat(np.array(values, dtype=np.int64), sizes)

    return ClientTable(
        round=round,
        client=np.concatenate([report.clients for report in reports]),
        num_examples=np.concatenate([report.num_examples for report in reports]),
        num_steps=np.concatenate([report.num_steps for report in reports]),
        train_loss=np.concatenate([report.train_loss for report in reports]),
        first_loss=np.concatenate([report.first_loss for report in reports]),
        last_loss=np.concatenate([report.last_loss for report in reports]),
        delta_norm=np.concatenate([report.delta_norm for report in reports]),
        seconds=np.concatenate([report.seconds for report in reports]),
        actor=per_client([actors.index(chunk.actor) for chunk in trace.chunks]),
        actors=tuple(actors),
        retries=per_client([chunk.retries for chunk in trace.chunks]),
        dropped={client: why for report in reports for client, why in report.dropped.items()},
        evaluation=evaluation,
    )
