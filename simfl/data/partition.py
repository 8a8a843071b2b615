"""The contract of partitions, which assign examples to clients by index; tools to write one.

Shapes: N examples, C clients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from simfl.component import Component, Count
from simfl.data.dataset import Array, positions_within
from simfl.errors import ConfigError, DataError


class Partition(Component, kind="partition"):
    """Which client holds which examples.

    To write one, override ``split``. It must depend only on its arguments and the fields.
    """

    @property
    def num_clients(self) -> int | None:
        """The size of the population if it is known before the data are loaded, otherwise None."""
        return None

    def split(self, targets: Array, columns: dict[str, Array], *, seed: int) -> tuple[Array, Array]:
        """Assign rows to clients.

        Args:
            targets: (N,) or (N, ...), the examples' targets.
            columns: name -> (N,), other values of each example.
            seed: the run's.

        Returns:
            ``rows``, int64, each row at most once, and ``offsets``, (C + 1,) int64: client c
            holds ``rows[offsets[c] : offsets[c + 1]]``, at least one row.

        Raises:
            ConfigError: if the fields ask for more than these examples allow.
            DataError: if targets or columns do not fit the partition.
        """
        raise NotImplementedError(f"{type(self).__name__} has no split()")


@dataclass(frozen=True)
class SizedPartition(Partition):
    """A partition whose number of clients is a field."""

    clients: Count
    """The number of clients."""

    @property
    def num_clients(self) -> int:
        """The field ``clients``."""
        return self.clients


def rows_by_owner(owners: Array, *, clients: int) -> tuple[Array, Array]:
    """Return rows and offsets from the client that holds each row.

    >>> rows, offsets = rows_by_owner(np.array([1, 0, 1]), clients=2)
    >>> rows.tolist(), offsets.tolist()
    ([1, 0, 2], [0, 1, 3])
    """
    offsets = np.zeros(clients + 1, np.int64)
    np.cumsum(np.bincount(owners, minlength=clients), out=offsets[1:])
    return np.argsort(owners, kind="stable").astype(np.int64, copy=False), offsets


def shuffled_by_group(groups: Array, generator: np.random.Generator) -> Array:
    """Return the rows (N,) group after group, in random order within each."""
    shuffled = generator.permutation(len(groups))
    rows: Array = shuffled[np.argsort(groups[shuffled], kind="stable")]
    return rows


def fill_up(
    owners: Array, *, clients: int, min_examples: int, generator: np.random.Generator
) -> Array:
    """Move rows at random from clients that can spare them to clients that hold too few.

    Every row beyond the first ``min_examples`` of a client is as likely to be taken, so large
    clients give the most and none falls below the minimum. There must be enough rows.

    Args:
        owners: (N,), the client that holds each row.
        clients: C, how many there are.
        min_examples: how many rows each is to hold at least.
        generator: draws the rows.

    Returns:
        (N,), the client that holds each row afterwards.
    """
    counts = np.bincount(owners, minlength=clients)
    missing = np.maximum(min_examples - counts, 0)
    if not missing.any():
        return owners
    by_client = shuffled_by_group(owners, generator)
    spare = generator.permutation(by_client[positions_within(counts) >= min_examples])
    filled = owners.copy()
    filled[spare[: missing.sum()]] = np.repeat(np.arange(clients), missing)
    return filled


def class_codes(targets: Array, *, partition: str) -> Array:
    """Return each example's class as a number from 0 without gaps: (N,) int64.

    Raises:
        DataError: if the targets are not one class id per example.
    """
    if targets.ndim != 1 or targets.dtype.kind not in "biu":
        raise DataError(
            f"data.partition {partition!r} uses the class of each example, but the targets are "
            f"{targets.dtype} of shape {targets.shape}; use 'iid', 'quantity' or 'natural'"
        )
    return np.unique(targets, return_inverse=True)[1].astype(np.int64, copy=False)


def require_enough_examples(examples: int, *, clients: int, min_examples: int = 1) -> None:
    """Raise an error unless there are enough examples for all clients.

    Raises:
        ConfigError: naming both numbers and which to lower.
    """
    if clients > examples:
        raise ConfigError(
            f"data.partition.clients is {clients}, but there are {examples} training examples; "
            "lower it"
        )
    if clients * min_examples > examples:
        raise ConfigError(
            f"data.partition.min_examples is {min_examples}, which takes {clients * min_examples} "
            f"examples for {clients} clients, but there are {examples}; lower it or "
            "data.partition.clients"
        )


def check_split(split: Any, *, examples: int, partition: Partition) -> tuple[Array, Array]:
    """Check the rows and offsets that a partition returned; return them, each (any,) int64.

    Raises:
        DataError: if they are not such arrays, the number of clients differs from the partition's,
            a client holds no row, or a row is out of range or held twice.
    """
    where = f"data.partition {partition.name!r}"
    if not isinstance(split, tuple | list) or len(split) != 2:
        raise DataError(f"{where} returned {type(split).__name__}; it must return (rows, offsets)")
    rows = _integers(split[0], what=f"{where} returned rows")
    offsets = _integers(split[1], what=f"{where} returned offsets")
    sizes, expected = np.diff(offsets), partition.num_clients
    if len(sizes) == 0 or offsets[0] != 0 or offsets[-1] != len(rows):
        raise DataError(f"{where} returned offsets that don't go from 0 to its {len(rows)} rows")
    if expected is not None and len(sizes) != expected:
        raise DataError(f"{where} made {len(sizes)} clients, but its num_clients is {expected}")
    if (sizes < 1).any():
        client = int((sizes < 1).argmax())
        raise DataError(f"{where} left client {client} without examples; each must hold one")
    if (is_out := (rows < 0) | (rows >= examples)).any():
        raise DataError(
            f"{where} returned row {rows[is_out][0]}, but there are {examples} examples, "
            "numbered from 0"
        )
    uses = np.bincount(rows, minlength=examples)
    if uses.max() > 1:
        raise DataError(f"{where} returned row {int(uses.argmax())} {uses.max()} times")
    return rows, offsets


def _integers(values: Any, *, what: str) -> Array:
    try:
        array = np.asarray(values)
    except ValueError:  # a list of lists of several lengths
        raise DataError(
            f"{what} of several lengths; they must be a 1-D array of integers"
        ) from None
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise DataError(
            f"{what} of {array.dtype} and shape {list(array.shape)}; they must be a 1-D "
            "array of integers"
        )
    return array.astype(np.int64, copy=False)
