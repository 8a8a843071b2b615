"""Ragged: sequences of several lengths, stored one after another and padded when they are read.

Shapes: N sequences, S stored values, R rows that are read (any axes), L positions of a batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np

Array: TypeAlias = "np.ndarray[Any, Any]"

IGNORED: Final = -100
"""The target of positions that do not count, as in torch and transformers."""
MULTIPLE: Final = 8
"""Batches are padded to a multiple of so many positions."""
_BLOCK: Final = 4096


@dataclass(frozen=True)
class Vocabulary:
    """What token ids mean."""

    size: int
    """Ids are below it."""
    tokenizer: str = ""
    """What identifies the tokenizer; sequences of two are not mixed."""


@dataclass(frozen=True)
class Ragged:
    """N sequences of integers, in the place of an array [N, L].

    Rows are read into an int64 array whose last axis is as long as the longest of these rows,
    rounded up to a multiple of 8 and at most ``width``. The rest of a row is ``pad``.
    """

    values: Array
    """(S,) integers of any type, such as uint16. Several ``Ragged`` may share them."""
    begins: Array
    """(N,) int64, where each sequence begins in ``values``."""
    lengths: Array
    """(N,) int64, how many values it has: at least 1 and at most ``width``."""
    width: int
    """The most positions that a sequence may have."""
    vocabulary: Vocabulary
    pad: int = 0
    """What stands at positions behind the end of a sequence."""
    hidden: Array | None = None
    """(N,) int64, how many of the first values of each sequence are read as ``pad``; None: none."""

    ndim = 2
    dtype = np.dtype(np.int64)

    @staticmethod
    def mask(lengths: Array, *, width: int) -> Ragged:
        """Return 1 for each position of sequences of these lengths, and 0 behind their end."""
        ones, begins = np.ones(width, np.uint8), np.zeros(len(lengths), np.int64)
        return Ragged(ones, begins, lengths, width, Vocabulary(2, "mask"))

    def __len__(self) -> int:
        return len(self.begins)

    @property
    def shape(self) -> tuple[int, int]:
        """(N, width)."""
        return len(self), self.width

    @property
    def arrays(self) -> tuple[Array, ...]:
        """What it is stored in."""
        hidden = () if self.hidden is None else (self.hidden,)
        return (self.values, self.begins, self.lengths, *hidden)

    @property
    def nbytes(self) -> int:
        """The size of what it is stored in."""
        return sum(array.nbytes for array in self.arrays)

    def counts(self) -> Array:
        """Return how many values of each sequence are not read as ``pad``: (N,) int64."""
        return self.lengths if self.hidden is None else self.lengths - self.hidden

    def select(self, rows: Array) -> Ragged:
        """Return some of the sequences, which share the values: ``rows`` is (any,) int64."""
        hidden = None if self.hidden is None else self.hidden[rows]
        parts = (self.values, self.begins[rows], self.lengths[rows])
        return Ragged(*parts, self.width, self.vocabulary, self.pad, hidden)

    def joined(self, other: Ragged, *, values: Array) -> Ragged:
        """Return the sequences of both.

        Args:
            other: of the same vocabulary and width.
            values: the values of both, one after another.
        """
        begins = np.concatenate([self.begins, other.begins + len(self.values)])
        lengths, hidden = np.concatenate([self.lengths, other.lengths]), None
        if self.hidden is not None or other.hidden is not None:
            hidden = lengths - np.concatenate([self.counts(), other.counts()])
        return Ragged(values, begins, lengths, self.width, self.vocabulary, self.pad, hidden)

    def __getitem__(self, rows: Any) -> Array:
        """Read rows: [R] to [R, L], int64, a copy."""
        lengths_R1 = np.asarray(self.lengths[rows])[..., np.newaxis]
        longest = int(lengths_R1.max(initial=1))
        positions_L = np.arange(min(-(-longest // MULTIPLE) * MULTIPLE, self.width))
        is_read = positions_L < lengths_R1
        if self.hidden is not None:
            is_read &= positions_L >= np.asarray(self.hidden[rows])[..., np.newaxis]
        places = np.asarray(self.begins[rows])[..., np.newaxis] + positions_L
        found: Array = self.values[np.where(is_read, places, 0)].astype(np.int64)
        found[~is_read] = self.pad
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """Return all rows: [N, L]."""
        return np.asarray(self[np.arange(len(self))], dtype)

    def take(self, rows: Any, axis: int = 0) -> Array:
        """Read rows, as numpy's ``take`` does along the first axis."""
        assert axis == 0, "rows are along the first axis"
        return self[rows]

    def update_hash(self, total: hashlib._Hash) -> None:
        """Add the sequences to a hash, wherever they are in ``values``."""
        total.update(repr((len(self), self.width, self.vocabulary, self.pad)).encode())
        for array in (self.lengths, self.counts()):
            total.update(np.ascontiguousarray(array, np.int64).tobytes())
        for block in self._blocks():
            total.update(block.astype(np.int64).tobytes())

    def _blocks(self) -> Iterator[Array]:
        """Iterate over the values, sequence after sequence, some thousand sequences at a time."""
        for start in range(0, len(self), _BLOCK):
            rows = np.arange(start, min(start + _BLOCK, len(self)))
            dense = self[rows]
            yield dense[np.arange(dense.shape[1]) < self.lengths[rows, np.newaxis]]
