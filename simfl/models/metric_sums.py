"""What a metric adds up over batches and clients: numbers, arrays, and rows that are joined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = "np.ndarray[Any, Any]"

SumLike: TypeAlias = "float | Array | Rows"


@dataclass(frozen=True, eq=False)
class Rows:
    """An array whose rows are joined, in the order of the examples, where a sum would be added."""

    values: Array
    """[N, ...]."""


def add_up(
    parts: Sequence[tuple[Any, ...]], *, add: Callable[[Any], float] = sum
) -> tuple[Any, ...]:
    """Add up a metric's sums over parts of the examples, in their order.

    Args:
        parts: the sums of each part: as many, and of the same kinds, in all of them.
        add: adds up numbers, such as ``math.fsum``.

    >>> add_up([(1.0, np.array([1, 2])), (0.5, np.array([0, 1]))])
    (1.5, array([1, 3]))
    """
    return tuple(_added(column, add) for column in zip(*parts, strict=True))


def flat(sums: tuple[Any, ...]) -> Array:
    """Return all numbers of a metric's sums, one after another."""
    arrays = [each.values if isinstance(each, Rows) else each for each in sums]
    return np.concatenate([np.ravel(array) for array in arrays] or [np.zeros(0)])


def _added(column: tuple[Any, ...], add: Callable[[Any], float]) -> Any:
    if isinstance(column[0], Rows):
        return Rows(np.concatenate([rows.values for rows in column]))
    if isinstance(column[0], np.ndarray):
        return reduce(np.add, column)
    return add(column)
