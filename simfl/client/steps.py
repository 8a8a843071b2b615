"""The steps of a training, and the order in which the clients of a stack take them.

Shapes: C clients of a stack, A those that still have steps to do, a prefix of them. Without a
stack, both are 1, and there is no such axis.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from torch import Tensor

from simfl.client.updates import StepLosses
from simfl.models import Batch
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


class Step(NamedTuple):
    """A step of the clients that still have one to do."""

    active: int
    """A."""
    batch: Batch
    sizes: Sequence[int]
    """[A] how many examples of each client are its own."""


class Steps(ABC):
    """The steps of one training, or of one pass."""

    num_steps: Sequence[int]
    """[C] of each client, in the order in which they are trained."""
    order: Order = AS_THEY_ARE
    """The order in which they are trained: longest first."""

    @abstractmethod
    def __iter__(self) -> Iterator[Step]:
        """Iterate over the steps, and seed what the model draws in each."""

    @abstractmethod
    def sum_losses(self, losses: Sequence[Tensor]) -> list[StepLosses]:
        """Return [C] the sums of the losses [A] of each step, in the order of training."""

    def seeded(self) -> AbstractContextManager[None]:
        """Return the context to train in, in which torch's generators have the client's seed."""
        return nullcontext()
