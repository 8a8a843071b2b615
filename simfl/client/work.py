"""LocalWork: how much a client trains in a round, and on which examples at each step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

import numpy as np

from simfl.seeding import numpy_generator

__all__ = ["LocalWork"]


@dataclass(frozen=True)
class LocalWork:
    """How much a client trains in a round: a number of epochs or a number of steps."""

    epochs: int | None = 1
    steps: int | None = None
    """Steps a round, however many examples a client has; then ``epochs`` is None."""
    batch_size: int | None = None
    """Examples a step; the last batch of an epoch may be smaller. None: all of them."""
    sclip: float | None = None
    """The L2 norm to which each example's gradient is clipped; None or 0: off."""

    def num_steps(self, num_examples: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return how many steps clients make that hold so many examples each; any shape."""
        if self.steps is not None:
            return np.where(num_examples > 0, self.steps, 0)
        size = self.batch_size or np.maximum(num_examples, 1)
        batches: np.ndarray[Any, Any] = -(-num_examples // size) * (self.epochs or 0)
        return batches

    def batches(
        self, rows: np.ndarray[Any, Any], *, seed: int, round: int, client: int
    ) -> Iterator[np.ndarray[Any, Any]]:
        """Iterate over the rows of each step: every epoch in an order of its own."""
        total = int(self.num_steps(np.array(len(rows))))
        return islice(self._endless_batches(rows, seed, round, client), total)

    def _endless_batches(
        self, rows: np.ndarray[Any, Any], seed: int, round: int, client: int
    ) -> Iterator[np.ndarray[Any, Any]]:
        size = self.batch_size or len(rows)
        for epoch in count():
            rng = numpy_generator(seed, "shuffle", round=round, client=client, step=epoch)
            order = rng.permutation(len(rows))
            for start in range(0, len(rows), size):
                yield rows[order[start : start + size]]
