"""Splits for evaluation: a central test split, and a part of each client's examples.

Shapes: N examples, C clients.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from simfl.data.dataset import Array, Examples, take_rows
from simfl.data.source import SourceData
from simfl.errors import ConfigError
from simfl.seeding import numpy_generator


def take_test_split(data: SourceData, *, fraction: float, seed: int) -> SourceData:
    """Move a random part of the training examples to the test split.

    Raises:
        ConfigError: if the source has a test split of its own, or the part would be empty.
    """
    if data.test is not None:
        raise ConfigError(
            f"data.test_fraction is {fraction}, but the source has a test split of its own; "
            "set it to 0, or leave the source's test split out"
        )
    is_test = np.zeros(len(data.train), bool)
    is_test[draw_test_rows(data.train.targets, fraction=fraction, seed=seed)] = True
    kept = np.flatnonzero(~is_test)
    return SourceData(
        train=_take(data.train, kept),
        test=_take(data.train, np.flatnonzero(is_test)),
        columns={name: column[kept] for name, column in data.columns.items()},
        class_names=data.class_names,
    )


def draw_test_rows(targets: Array, *, fraction: float, seed: int) -> Array:
    """Draw the rows of a test split, stratified where targets are class ids.

    Each class gives its share, rounded so that the whole has ``round(fraction * N)`` rows, and
    keeps at least one row for training.

    Raises:
        ConfigError: if no row would be drawn.
    """
    shuffled = numpy_generator(seed, "data.test").permutation(len(targets))
    is_class = targets.ndim == 1 and targets.dtype.kind in "biu"
    strata = targets[shuffled] if is_class else np.zeros(len(targets), np.int64)
    codes, counts = np.unique(strata, return_inverse=True, return_counts=True)[1:]
    wanted = _shares(counts, fraction=fraction)
    if not wanted.any():
        raise ConfigError(
            f"data.test_fraction is {fraction}, which leaves no test example of "
            f"{len(targets)}; raise it"
        )
    by_class = np.argsort(codes, kind="stable")
    rank_in_class = np.arange(len(targets)) - np.repeat(np.cumsum(counts) - counts, counts)
    rows: Array = shuffled[by_class[rank_in_class < np.repeat(wanted, counts)]]
    return rows


def hold_out(rows: Array, offsets: Array, *, fraction: float, seed: int) -> tuple[Array, Array]:
    """Shuffle each client's rows and keep the last of them for its own evaluation.

    Args:
        rows: the clients' rows, client after client.
        offsets: (C + 1,), where each client's rows begin.
        fraction: of n rows, ``floor(fraction * n)`` are kept, and at most n - 1.
        seed: the run's.

    Returns:
        The rows shuffled within clients, and (C,) where each client's kept rows begin.
    """
    sizes = np.diff(offsets)
    keys = numpy_generator(seed, "data.holdout").random(len(rows))
    order = np.lexsort((keys, np.repeat(np.arange(len(sizes)), sizes)))
    # A hair on top: 0.29 * 100 is 28.999999999999996 as a float.
    kept = np.minimum(np.floor(sizes * fraction + 1e-9).astype(np.int64), sizes - 1)
    return rows[order], offsets[1:] - kept


def _shares(counts: Array, *, fraction: float) -> Array:
    """Split ``round(fraction * N)`` over the classes by largest remainder."""
    exact = counts * fraction
    shares = np.floor(exact + 1e-9).astype(np.int64)
    beyond = round(fraction * int(counts.sum())) - int(shares.sum())
    by_remainder = np.argsort(shares - exact, kind="stable")
    shares[by_remainder[: max(beyond, 0)]] += 1
    shares_below: Array = np.minimum(shares, counts - 1)
    return shares_below


def _take(examples: Examples, rows: Array) -> Examples:
    inputs, targets = take_rows(examples.inputs, rows), examples.targets[rows]
    return dataclasses.replace(examples, inputs=inputs, targets=targets)
