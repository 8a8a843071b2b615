"""The weighted mean of FedAvg."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from simfl.aggregation.aggregator import Aggregator
from simfl.errors import AggregationError
from simfl.vector import Vector


@dataclass(frozen=True)
class Mean(Aggregator):
    """Average the deltas, each with its client's weight (``server.weighting``).

    Memory: one delta for each complete subtree, however many clients there are.

    Source: McMahan et al., 2017, Algorithm 1, https://arxiv.org/abs/1602.05629
    """

    name: ClassVar[str] = "mean"
    takes_read_only: ClassVar[bool] = True

    def lift(self, delta: Vector, weight: float) -> Vector:
        """Return weight * delta."""
        return delta.mul_(weight)

    def lift_stack(self, deltas_C: Vector, weights: Sequence[float]) -> Vector:
        """Return the sum of weight * delta over the stack, in one pass."""
        weights_C = torch.tensor(weights, dtype=torch.float64)
        return Vector({name: _weighted_sum(weights_C, t) for name, t in deltas_C.items()})

    def merge(self, left: Vector, right: Vector) -> Vector:
        """Add the right sum to the left one."""
        return left + right if left.read_only else left.add_(right)

    def finish(self, total: Vector, weight: float) -> Vector:
        """Divide by the sum of the weights.

        Raises:
            AggregationError: if every client's weight is zero.
        """
        if weight <= 0:
            raise AggregationError("every client of the round has weight zero")
        return total / weight if total.read_only else total.div_(weight)


def _weighted_sum(weights_C: Tensor, tensor: Tensor) -> Tensor:
    shape = tensor.shape[1:]
    rows = tensor.reshape(len(tensor), math.prod(shape))
    return (weights_C.to(tensor.device, tensor.dtype) @ rows).reshape(shape)
