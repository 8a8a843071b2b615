"""What a partition is: who holds which examples. Partitions are indices only.

Shapes: N examples, C clients.
"""

from __future__ import annotations

import numpy as np

from simfl.component import Component
from simfl.data.dataset import Array
from simfl.errors import ConfigError, DataError


class Partition(Component, kind="partition"):
    """Who holds which examples.

    To write one, override ``split``. It must not depend on anything but its arguments and the
    fields.
    """

    @property
    def num_clients(self) -> int | None:
        """The size of the population where it is known before the data are; otherwise None."""
        clients: int | None = getattr(self, "clients", None)
        return clients

    def split(self, targets: Array, columns: dict[str, Array], *, seed: int) -> tuple[Array, Array]:
        """Say which rows each client holds.

        Args:
            targets: (N,) or (N, ...), the examples' targets.
            columns: name -> (N,), other values known of each example.
            seed: the run's.

        Returns:
            ``rows``, int64, each row at most once, and ``offsets``, (C + 1,) int64: client c
            holds ``rows[offsets[c] : offsets[c + 1]]``, at least one row.

        Raises:
            ConfigError: if the fields ask for what these examples can't give.
            DataError: if targets or columns aren't what the partition goes by.
        """
        raise NotImplementedError(f"{type(self).__name__} has no split()")


def rows_by_owner(owners: Array, *, clients: int) -> tuple[Array, Array]:
    """Return rows and offsets from the client that holds each row.

    >>> rows, offsets = rows_by_owner(np.array([1, 0, 1]), clients=2)
    >>> rows.tolist(), offsets.tolist()
    ([1, 0, 2], [0, 1, 3])
    """
    offsets = np.zeros(clients + 1, np.int64)
    np.cumsum(np.bincount(owners, minlength=clients), out=offsets[1:])
    return np.argsort(owners, kind="stable").astype(np.int64, copy=False), offsets


def fill_up(
    owners: Array, *, clients: int, min_examples: int, generator: np.random.Generator
) -> Array:
    """Give clients that hold too few rows some that others can spare, drawn at random.

    Every row beyond the first ``min_examples`` of a client is as likely to be taken, so large
    clients give the most and nobody falls below the minimum. There must be enough rows.

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
    shuffled = generator.permutation(len(owners))
    grouped = shuffled[np.argsort(owners[shuffled], kind="stable")]
    rank_in_client = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
    spare = generator.permutation(grouped[rank_in_client >= min_examples])
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
            f"data.partition {partition!r} goes by the class of each example, but the targets are "
            f"{targets.dtype} of shape {targets.shape}; use 'iid', 'quantity' or 'natural'"
        )
    return np.unique(targets, return_inverse=True)[1].astype(np.int64, copy=False)


def require_enough_examples(examples: int, *, clients: int, min_examples: int = 1) -> None:
    """Check that each client can have its share.

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
