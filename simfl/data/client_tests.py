"""Each client's own part of the source's test split, for its evaluation.

Shapes: N training examples, M test examples, C clients.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from simfl.data.dataset import Array, Examples, join_examples
from simfl.data.partition import Partition
from simfl.data.partitions import Natural
from simfl.data.source import SourceData
from simfl.errors import ConfigError, DataError, one_line


@dataclass(frozen=True)
class ClientTests:
    """Training examples and, behind them, those that clients are evaluated on."""

    examples: Examples
    """N + M."""
    rows: Array
    """The clients' rows, client after client: those that it trains on, then its tests."""
    offsets: Array
    """(C + 1,), where each client's rows begin."""
    holdout_offsets: Array
    """(C,), where each client's tests begin; their end if it has none."""
    notes: tuple[str, ...]
    """What the user should know, one line each."""


def add_client_tests(
    data: SourceData, rows: Array, offsets: Array, partition: Partition
) -> ClientTests:
    """Give each client the test examples that have its id.

    Ids are matched by value: those of a column of both splits, which the partition names.

    Args:
        data: with a test split.
        rows: (N,) the clients' rows, client after client.
        offsets: (C + 1,) where each client's begin.
        partition: of the training examples.

    Raises:
        ConfigError: if there is no test split, or clients are no values of a column.
        DataError: if a split lacks the column, or no test example is a client's.
    """
    if data.test is None:
        raise ConfigError(
            "data.client_tests is true, but the source has no test split; name one, or use "
            "data.holdout_fraction"
        )
    if not isinstance(partition, Natural):
        raise ConfigError(
            f"data.client_tests is true, but data.partition {partition.name!r} makes clients that "
            "the test split does not know; use 'natural', or data.holdout_fraction"
        )
    name = partition.column
    if name not in data.test_columns:
        raise DataError(
            f"data.client_tests is true, but the test split has no column {name!r}; add each test "
            "example's client"
        )
    tests_M, clients_C = data.test_columns[name], np.unique(data.columns[name])
    owners_M = _owners(tests_M, clients_C)
    if (owners_M < 0).all():
        raise DataError(
            f"data.client_tests is true, but no test example has the {name!r} of a client: they "
            f"are {_some(tests_M)}, and the clients {_some(clients_C)}"
        )
    known = np.flatnonzero(owners_M >= 0)
    sizes, num_tests = np.diff(offsets), np.bincount(owners_M[known], minlength=len(clients_C))
    owners = np.concatenate([np.repeat(np.arange(len(sizes)), sizes), owners_M[known]])
    order = np.argsort(owners, kind="stable")
    ends = np.cumsum(sizes + num_tests)
    return ClientTests(
        examples=join_examples(data.train, data.test),
        rows=np.concatenate([rows, known + len(data.train)])[order],
        offsets=np.concatenate([[0], ends]),
        holdout_offsets=ends - num_tests,
        notes=_notes(tests_M[owners_M < 0], clients_C[num_tests == 0], len(tests_M), len(sizes)),
    )


def with_client_tests(data: SourceData, own: ClientTests) -> SourceData:
    """Return the source's data with the joined examples and the notes."""
    return replace(data, train=own.examples, notes=(*data.notes, *own.notes))


def _owners(tests_M: Array, clients_C: Array) -> Array:
    """Return the client of each test example, -1 if none has its id: (M,)."""
    if tests_M.dtype.kind != clients_C.dtype.kind:
        # In another file, a column may be text because of a single value.
        tests_M, clients_C = tests_M.astype(str), clients_C.astype(str)
    order = np.argsort(clients_C)
    places = np.searchsorted(clients_C[order], tests_M).clip(max=len(clients_C) - 1)
    owners = order[places]
    return np.where(clients_C[owners] == tests_M, owners, -1)


def _notes(strangers: Array, untested: Array, num_tests: int, num_clients: int) -> tuple[str, ...]:
    notes = []
    if len(strangers):
        notes.append(
            f"{len(strangers)} of {num_tests} test examples are of clients without training "
            f"examples, such as {one_line(strangers[0])}; only the central evaluation has them"
        )
    if len(untested):
        notes.append(
            f"{len(untested)} of {num_clients} clients have no test examples, such as "
            f"{one_line(untested[0])}; they are evaluated on what they train on"
        )
    return tuple(notes)


def _some(values: Array) -> str:
    return ", ".join(map(one_line, values[:3].tolist())) + (", ..." if len(values) > 3 else "")
