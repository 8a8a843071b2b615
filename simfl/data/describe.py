"""Statistics of a data set, per client and over all clients.

Shapes: C clients, K classes. A client's examples include those it keeps for its own evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from simfl.data.dataset import Array, FederatedDataset, positions_within
from simfl.errors import DataError

_MAX_CELLS: Final = 50_000_000


@dataclass(frozen=True)
class LabelSummary:
    """How labels are distributed over clients."""

    num_classes: int
    """How many classes the clients' examples have."""
    mean_per_client: float
    """How many classes a client holds on average."""
    mean_entropy: float
    """The entropy of a client's labels in bits, on average over clients."""
    overall_entropy: float
    """The entropy of all clients' labels together in bits."""


@dataclass(frozen=True)
class DatasetSummary:
    """Statistics of a data set."""

    num_clients: int
    """The size of the population."""
    num_train: int
    """How many examples clients train on, over all clients."""
    num_holdout: int
    """How many examples clients keep for their own evaluation, over all clients."""
    num_test: int
    """How many examples the central test split has."""
    min_examples: int
    """How many examples the smallest client holds."""
    median_examples: float
    """How many examples the client in the middle holds."""
    mean_examples: float
    """How many examples a client holds on average."""
    max_examples: int
    """How many examples the largest client holds."""
    labels: LabelSummary | None
    """The labels; None if targets are not class ids."""


def summarize(dataset: FederatedDataset) -> DatasetSummary:
    """Count a data set's clients, examples and labels; memory is proportional to the examples."""
    sizes_C = np.diff(dataset.offsets)
    num_train = int(dataset.num_train_examples().sum())
    return DatasetSummary(
        num_clients=dataset.num_clients,
        num_train=num_train,
        num_holdout=len(dataset.rows) - num_train,
        num_test=0 if dataset.test is None else len(dataset.test),
        min_examples=int(sizes_C.min()),
        median_examples=float(np.median(sizes_C)),
        mean_examples=float(sizes_C.mean()),
        max_examples=int(sizes_C.max()),
        labels=_label_numbers(dataset, sizes_C),
    )


def class_ids(dataset: FederatedDataset) -> Array | None:
    """Return the clients' class ids, sorted: (K,); None if targets are not class ids."""
    targets = dataset.train.targets
    if targets.ndim != 1 or targets.dtype.kind not in "biu":
        return None
    return np.unique(targets[dataset.rows])


def label_counts(dataset: FederatedDataset, clients: Sequence[int] | None = None) -> Array:
    """Count each client's examples of each class.

    Args:
        dataset: with one class id per example.
        clients: the clients to count, in this order; None: all.

    Returns:
        (C, K) int64, the columns in the order of ``class_ids``.

    Raises:
        DataError: if targets are not class ids, or the table would be too large to hold.
    """
    classes = class_ids(dataset)
    if classes is None:
        raise DataError("the targets are not class ids; there are no labels to count")
    chosen = np.arange(dataset.num_clients) if clients is None else np.asarray(clients, np.int64)
    if len(chosen) * len(classes) > _MAX_CELLS:
        raise DataError(
            f"label counts of {len(chosen)} clients and {len(classes)} classes are more than "
            f"{_MAX_CELLS} numbers; ask for fewer clients"
        )
    sizes = np.diff(dataset.offsets)[chosen]
    starts = np.repeat(dataset.offsets[chosen], sizes)
    rows = dataset.rows[starts + positions_within(sizes)]
    codes = np.searchsorted(classes, dataset.train.targets[rows])
    keys = np.repeat(np.arange(len(chosen)), sizes) * len(classes) + codes
    counts = np.bincount(keys, minlength=len(chosen) * len(classes))
    return counts.reshape(len(chosen), len(classes))


def _label_numbers(dataset: FederatedDataset, sizes_C: Array) -> LabelSummary | None:
    classes = class_ids(dataset)
    if classes is None:
        return None
    codes = np.searchsorted(classes, dataset.train.targets[dataset.rows])
    keys = np.repeat(np.arange(len(sizes_C)), sizes_C) * len(classes) + codes
    # Only the (client, class) pairs that occur: a full table of a million clients is too large.
    pairs, counts = np.unique(keys, return_counts=True)
    shares = counts / sizes_C[pairs // len(classes)]
    overall = np.bincount(codes) / len(codes)
    return LabelSummary(
        num_classes=len(classes),
        mean_per_client=len(pairs) / len(sizes_C),
        mean_entropy=float(-(shares * np.log2(shares)).sum() / len(sizes_C)),
        overall_entropy=float(-(overall * np.log2(overall)).sum()),
    )
