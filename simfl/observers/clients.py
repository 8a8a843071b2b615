"""ClientTable: what the clients of a round did, a column for each fact.

Shapes: N clients of the cohort, M clients that were evaluated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from simfl.messages import ClientReports, FloatColumn, IntColumn, RoundTrace


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
class ClientTable(ClientReports):
    """What the clients of a round did, in the order of the cohort, and where.

    The reports of all chunks, one after the other, and columns that vary between runs.
    """

    round: int
    actor: IntColumn
    """[N] the actor that trained each client: an index of ``actors``."""
    actors: tuple[str, ...]
    """The actors that trained: ``client-3``, or ``inline``; sorted."""
    retries: IntColumn
    """[N] how often the client's chunk was lost with an actor and trained again."""
    evaluation: ClientEvaluation | None = None
    """Of all clients of the population; None after a round without their evaluation."""


def client_table(
    round: int, trace: RoundTrace, evaluation: ClientEvaluation | None = None
) -> ClientTable:
    """Concatenate the columns of a round's chunks."""
    reports = [chunk.report.clients for chunk in trace.chunks]
    sizes = [len(report) for report in reports]
    actors = sorted({chunk.actor for chunk in trace.chunks})
    columns: dict[str, Any] = {
        column.name: np.concatenate([getattr(report, column.name) for report in reports])
        for column in fields(ClientReports)
        if column.name != "dropped"
    }
    return ClientTable(
        **columns,
        dropped={client: why for report in reports for client, why in report.dropped.items()},
        round=round,
        actor=np.repeat([actors.index(chunk.actor) for chunk in trace.chunks], sizes),
        actors=tuple(actors),
        retries=np.repeat([chunk.retries for chunk in trace.chunks], sizes),
        evaluation=evaluation,
    )
