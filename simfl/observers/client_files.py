"""The per-client tables: ``clients.parquet`` and ``evaluations.parquet``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from simfl.observers.clients import ClientEvaluation, ClientTable
from simfl.observers.observer import Observer, RunInfo, Summary
from simfl.observers.parts import PartFiles
from simfl.record import RoundRecord

if TYPE_CHECKING:
    import pyarrow as pa

CLIENTS_FILE = "clients.parquet"
EVALUATIONS_FILE = "evaluations.parquet"

_TYPES = {
    "client": "int32",
    "num_examples": "int32",
    "num_steps": "int32",
    "train_loss": "float32",
    "first_loss": "float32",
    "last_loss": "float32",
    "delta_norm": "float32",
    "seconds": "float32",
    "retries": "int16",
}


class ClientFiles(Observer):
    """Writes a row for each client of a round, and one for each that was evaluated.

    Args:
        out: the run's folder.
    """

    def __init__(self, out: Path) -> None:
        self._clients = PartFiles[ClientTable](
            out / CLIENTS_FILE, to_table=_to_table, count_rows=len
        )
        self._evaluations = PartFiles[tuple[int, ClientEvaluation]](
            out / EVALUATIONS_FILE, to_table=_evaluations_to_table, count_rows=lambda e: len(e[1])
        )

    def on_run_start(self, info: RunInfo) -> None:
        """Leave out the rows of rounds that are done again."""
        self._clients.begin(done=len(info.history))
        evaluated = [record.round for record in info.history if record.client_metrics]
        self._evaluations.begin(done=max(evaluated, default=0))

    def on_round(self, record: RoundRecord, clients: ClientTable) -> None:
        """Take in the round's rows."""
        self._clients.add(clients)
        if clients.evaluation is not None:
            self._evaluations.add((clients.round, clients.evaluation))

    def flush(self) -> None:
        """Write all rows."""
        self._clients.flush()
        self._evaluations.flush()

    def on_run_end(self, summary: Summary) -> None:
        """Write all rows."""
        self.flush()


def _to_table(rounds: Sequence[ClientTable]) -> pa.Table:
    import pyarrow as pa

    joined = {
        name: np.concatenate([getattr(table, name) for table in rounds]).astype(dtype)
        for name, dtype in _TYPES.items()
    }
    numbers = _repeat([(table.round, len(table)) for table in rounds])
    return pa.table(
        {"round": numbers, **joined, "actor": _actors(rounds), "dropped": _dropped(rounds)}
    )


def _evaluations_to_table(rounds: Sequence[tuple[int, ClientEvaluation]]) -> pa.Table:
    import pyarrow as pa

    evaluations = [evaluation for _, evaluation in rounds]

    def floats(columns: Sequence[np.ndarray[Any, Any]], mask: Any = None) -> pa.Array:
        return pa.array(np.concatenate(columns).astype(np.float32), mask=mask)

    metrics = {
        name: floats(
            [evaluation.metrics[name] for evaluation in evaluations],
            mask=np.concatenate([evaluation.weights[name] == 0 for evaluation in evaluations]),
        )
        for name in evaluations[0].metrics
    }
    columns = {
        "round": pa.array(_repeat([(round, len(evaluation)) for round, evaluation in rounds])),
        "client": pa.array(np.concatenate([e.client for e in evaluations]).astype(np.int32)),
        "weight": floats([evaluation.weight for evaluation in evaluations]),
    }
    return pa.table(columns | metrics)


def _repeat(numbers: Sequence[tuple[int, int]]) -> np.ndarray[Any, Any]:
    """Return each number as often as it says."""
    values, counts = np.array(numbers).T
    return np.repeat(values.astype(np.int32), counts)


def _actors(rounds: Sequence[ClientTable]) -> pa.DictionaryArray:
    import pyarrow as pa

    names = sorted({name for table in rounds for name in table.actors})
    codes = [
        np.array([names.index(name) for name in table.actors], dtype=np.int32)[table.actor]
        for table in rounds
    ]
    return pa.DictionaryArray.from_arrays(np.concatenate(codes), names)


def _dropped(rounds: Sequence[ClientTable]) -> pa.Array:
    """Return why each was left out; a loop over those that were."""
    import pyarrow as pa

    reasons = np.full(sum(map(len, rounds)), None, dtype=object)
    start = 0
    for table in rounds:
        for client, why in table.dropped.items():
            reasons[start + np.flatnonzero(table.client == client)] = why
        start += len(table)
    return pa.array(reasons, type=pa.string())
