"""Files in a run's folder: a line per round, tables of clients, and a summary."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from simfl.observers.observer import ClientEvaluation, ClientTable, Observer, RunInfo, Summary
from simfl.observers.parts import PartFiles
from simfl.record import (
    CLIENTS_FILE,
    EVALUATIONS_FILE,
    METRICS_FILE,
    SUMMARY_FILE,
    RoundRecord,
)
from simfl.regular_files import replacing

if TYPE_CHECKING:
    import pyarrow as pa

_Evaluations: TypeAlias = "Sequence[tuple[int, ClientEvaluation]]"
"""The round and its evaluations, one for each model."""

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


class JsonLines(Observer):
    """Writes ``metrics.jsonl``, one object a round.

    Rounds that cannot be written are retried after the next round: the disk may have space again,
    and a checkpoint is of no use without the rounds before it.

    Args:
        out: the run's folder.
        notify: called with a message when rounds cannot be written, and when they can be again.
    """

    def __init__(self, out: Path, *, notify: Callable[[str], None]) -> None:
        self._path = out / METRICS_FILE
        self._notify = notify
        self._written: list[RoundRecord] = []
        self._waiting: list[RoundRecord] = []
        self._whole_bytes = 0
        self._error: OSError | None = None

    def on_run_start(self, info: RunInfo) -> None:
        """Write the finished rounds; those after them, complete or not, will be repeated."""
        self._written = list(info.history)
        self._write_all()

    def on_round(self, record: RoundRecord, clients: ClientTable) -> None:
        """Append the round, and those that could not be written before."""
        self._waiting.append(record)
        self.flush()

    def flush(self) -> None:
        """Append all waiting rounds or none."""
        data = "".join(map(_line, self._waiting)).encode()
        try:
            self._restore()
            self._whole_bytes = _append(self._path, data, after=self._whole_bytes)
        except OSError as error:
            if self._error is None:
                self._notify(f"{self._path} cannot be written: {error.strerror}; the run continues")
            self._error = error
            return
        if self._error is not None:
            self._notify(f"{self._path} can be written again; no round is missing")
        self._written += self._waiting
        self._waiting, self._error = [], None

    def on_run_end(self, summary: Summary) -> None:
        """Retry the pending writes."""
        if self._waiting:
            self.flush()

    def lost(self) -> str | None:
        """Return which rounds are not in the file."""
        if self._error is None:
            return None
        first = len(self._written) + 1
        last = first + len(self._waiting) - 1
        return f"rounds {first} to {last}: {self._error.strerror}"

    def _restore(self) -> None:
        """Rewrite the file if another process has truncated or deleted it."""
        size = self._path.stat().st_size if self._path.exists() else 0
        if size < self._whole_bytes:
            self._write_all()
            self._notify(f"another process truncated {self._path}; it has been restored")

    def _write_all(self) -> None:
        text = "".join(map(_line, self._written))
        write_whole(self._path, text)
        self._whole_bytes = len(text.encode())


class ClientFiles(Observer):
    """Writes a row for each client of a round, and a row for each client that was evaluated.

    Args:
        out: the run's folder.
    """

    def __init__(self, out: Path) -> None:
        self._clients = PartFiles[ClientTable](
            out / CLIENTS_FILE, to_table=_to_table, count_rows=len
        )
        self._evaluations = PartFiles[_Evaluations](
            out / EVALUATIONS_FILE,
            to_table=_evaluations_to_table,
            count_rows=lambda evaluations: sum(len(one) for _, one in evaluations),
        )

    def on_run_start(self, info: RunInfo) -> None:
        """Remove the rows of rounds that will be repeated."""
        self._clients.begin(done=len(info.history))
        evaluated = [record.round for record in info.history if record.client_metrics]
        self._evaluations.begin(done=max(evaluated, default=0))

    def on_round(self, record: RoundRecord, clients: ClientTable) -> None:
        """Add the round's rows."""
        self._clients.add(clients)
        if clients.evaluation is not None:
            every_model = (clients.evaluation, *clients.own_evaluations)
            self._evaluations.add([(clients.round, evaluation) for evaluation in every_model])

    def flush(self) -> None:
        """Write all rows."""
        self._clients.flush()
        self._evaluations.flush()

    def on_run_end(self, summary: Summary) -> None:
        """Write all rows."""
        self.flush()


class SummaryFile(Observer):
    """Writes ``summary.json`` at the end, even of a run that could not start.

    Args:
        out: the run's folder.
    """

    def __init__(self, out: Path) -> None:
        self._path = out / SUMMARY_FILE

    def on_run_end(self, summary: Summary) -> None:
        """Write the file."""
        write_whole(self._path, json.dumps(summary, indent=2, allow_nan=False) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write a file atomically, replacing the previous one if there is one.

    Raises:
        OSError: if it cannot be written; the previous one still exists then.
    """
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8")


def _append(path: Path, data: bytes, *, after: int) -> int:
    """Write all or nothing after this many bytes of a file; return its new size."""
    with path.open("ab", buffering=0) as file:
        start = min(after, file.seek(0, os.SEEK_END))
        try:
            file.truncate(start)
            _write_all(file.fileno(), data)
        except OSError:
            with suppress(OSError):
                file.truncate(start)
            raise
        return start + len(data)


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _line(record: RoundRecord) -> str:
    return json.dumps(record.line, allow_nan=False) + "\n"


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


def _evaluations_to_table(rounds: Sequence[_Evaluations]) -> pa.Table:
    """Return the rows of some rounds; ``model`` and ``new`` only if they differ from row to row."""
    import pyarrow as pa

    pairs = [pair for evaluations in rounds for pair in evaluations]
    evaluations = [evaluation for _, evaluation in pairs]

    def floats(columns: Sequence[np.ndarray[Any, Any]], mask: Any = None) -> pa.Array:
        return pa.array(np.concatenate(columns).astype(np.float32), mask=mask)

    metrics = {
        name: floats(
            [evaluation.metrics[name] for evaluation in evaluations],
            mask=np.concatenate([evaluation.weights[name] == 0 for evaluation in evaluations]),
        )
        for name in evaluations[0].metrics
    }
    for name in evaluations[0].arrays:
        values = np.concatenate([e.arrays[name].reshape(len(e), -1) for e in evaluations])
        flat = pa.array(values.astype(np.float32).flatten())
        metrics[name] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    columns: dict[str, Any] = {
        "round": pa.array(_repeat([(round, len(evaluation)) for round, evaluation in pairs])),
        "client": pa.array(np.concatenate([e.client for e in evaluations]).astype(np.int32)),
        "weight": floats([evaluation.weight for evaluation in evaluations]),
    }
    models = list(dict.fromkeys(evaluation.model for evaluation in evaluations))
    if len(models) > 1:
        codes = np.repeat([models.index(e.model) for e in evaluations], list(map(len, evaluations)))
        columns["model"] = pa.DictionaryArray.from_arrays(codes.astype(np.int32), models)
    if evaluations[0].is_new is not None:
        columns["new"] = pa.array(np.concatenate([e.is_new for e in evaluations]))
    return pa.table(columns | metrics)


def _repeat(numbers: Sequence[tuple[int, int]]) -> np.ndarray[Any, Any]:
    """Return each number, the first of a pair, as often as the second."""
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
    """Return why each client was dropped; loops over dropped clients only."""
    import pyarrow as pa

    reasons = np.full(sum(map(len, rounds)), None, dtype=object)
    start = 0
    for table in rounds:
        for client, reason in table.dropped.items():
            reasons[start + np.flatnonzero(table.client == client)] = reason
        start += len(table)
    return pa.array(reasons, type=pa.string())
