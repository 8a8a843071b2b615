"""The order in which the clients of a stack are trained.

Shapes: C clients of a stack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from simfl.vector import rows_of

T = TypeVar("T")


@dataclass(frozen=True)
class Order:
    """An order of a stack's clients; by default they are trained in the order that they have."""

    rows: Tensor | None = None
    """[C] the clients' rows, in the order of training; None: 0, 1, ..."""

    @property
    def back(self) -> Tensor | None:
        """Return [C] the places of the clients in the order of training, by row."""
        return None if self.rows is None else self.rows.argsort()

    def sort(self, value: T) -> T:
        """Return a value of the clients with its rows in the order of training."""
        return value if self.rows is None else rows_of(value, self.rows)

    def restore(self, value: T) -> T:
        """Undo ``sort``."""
        return value if self.back is None else rows_of(value, self.back)

    def sort_list(self, values: Sequence[T]) -> list[T]:
        """Return one value per client, in the order of training."""
        return [*values] if self.rows is None else [values[row] for row in self.rows.tolist()]

    def restore_list(self, values: Sequence[T]) -> list[T]:
        """Undo ``sort_list``."""
        return [*values] if self.back is None else [values[row] for row in self.back.tolist()]


AS_THEY_ARE = Order()
