"""The steps of a training: which examples clients see at each, and what their losses add up to.

Shapes: C clients of a stack, A those that still have steps to do, a prefix of them. Without a
stack, both are 1, and there is no such axis.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

from torch import Tensor

from simfl.client.order import AS_THEY_ARE, Order
from simfl.client.updates import StepLosses
from simfl.models import Batch


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
