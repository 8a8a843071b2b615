"""Robust rules that iterate: the geometric median, and clipping around the last aggregate.

Shapes: C clients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from simfl.aggregation.aggregator import AggregationContext, Aggregator, EveryUpdate
from simfl.aggregation.geometry import median, weighted_sums
from simfl.component import Count, NonNegative, Positive
from simfl.states import State
from simfl.vector import Vector


@dataclass(frozen=True)
class GeometricMedian(EveryUpdate):
    """Take the point whose weighted sum of distances to the deltas is least.

    The smoothed Weiszfeld algorithm, from the coordinate-wise median: each iterate is the mean of
    the deltas with weights a_i / max(nu, |v - x_i|), where a_i is the client's weight
    (``server.weighting``). Distances are those of trained weights, in float64; buffers are averaged
    with the last iterate's weights.

    Source: Pillutla et al., 2022, Algorithm 2, https://arxiv.org/abs/1912.13445
    """

    name: ClassVar[str] = "geometric-median"

    steps: Count = 100
    """The largest number of iterations."""
    tolerance: NonNegative = 1e-6
    """It ends when the point moves by no more than this share of its mean distance to the deltas,
    which are weighted as in the iterate."""
    smoothing: Positive = 1e-6
    """nu, below which distances count as nu; the point stays off the deltas by about as much."""

    def combine(
        self, deltas_C: Vector, weights_C: Tensor, context: AggregationContext | None = None
    ) -> Vector:
        """Return the geometric median.

        Args:
            deltas_C: a stack of C deltas.
            weights_C: [C] the clients' weights.
            context: names the weights that are compared; None: all are.
        """
        compared_C = context.compared(deltas_C) if context else deltas_C
        return weighted_sums(self._weigh(compared_C, weights_C.double()), deltas_C)

    def _weigh(self, deltas_C: Vector, weights_C: Tensor) -> Tensor:
        """Return the weights of the last iterate: [C], sum 1."""
        point = median(deltas_C).map(Tensor.double)
        distances_C = _distances(deltas_C, point)
        for _ in range(self.steps):
            shares_C = weights_C / distances_C.clamp(min=self.smoothing)
            shares_C = shares_C / shares_C.sum()
            before, point = point, _weighted_mean(shares_C, deltas_C)
            if (point - before).norm() <= self.tolerance * (shares_C @ distances_C):
                break
            distances_C = _distances(deltas_C, point)
        return shares_C


def _weighted_mean(shares_C: Tensor, deltas_C: Vector) -> Vector:
    """Return the mean in float64."""
    tensors = {
        name: torch.tensordot(shares_C, tensor.double(), 1) for name, tensor in deltas_C.items()
    }
    return Vector(tensors)


def _distances(deltas_C: Vector, point: Vector) -> Tensor:
    """Return each delta's distance to a point, both over all tensors: [C], in float64."""
    norms = [(t.double() - point[n]).reshape(len(t), -1).norm(dim=1) for n, t in deltas_C.items()]
    distances_C: Tensor = torch.stack(norms).norm(dim=0)
    return distances_C


@dataclass(frozen=True)
class CenteredClipping(Aggregator):
    """Clip each delta's distance to the last round's aggregate, and average.

    v = v + the mean of (x_i - v) min(1, radius / |x_i - v|), from v = 0. The centre v is sent to
    the clients, so that sums of partial cohorts suffice. The clients' weights are ignored. Norms
    are those of trained weights; buffers are averaged as they are.

    Source: Karimireddy et al., 2021, section 4 with one iteration a round,
    https://arxiv.org/abs/2012.10333
    """

    name: ClassVar[str] = "centered-clipping"
    uses_weights: ClassVar[bool] = False

    radius: Positive = 1.0
    """How far from the centre a delta counts in full."""

    def init(self, like: Vector) -> State:
        """Return the centre of the first round, which is 0."""
        return {"centre": like.zeros_like()}

    def announce(self, state: State) -> State:
        """Return the centre."""
        return state

    def lift(self, delta: Vector, weight: float, announced: State) -> Vector:
        """Return how far the delta is from the centre, clipped."""
        return self._clip(delta, announced["centre"])

    def lift_stack(
        self, deltas_C: Vector, weights: Sequence[float], announced: State | None = None
    ) -> Vector:
        """Return the sum over the stack."""
        assert announced is not None
        clipped_C = self._clip(deltas_C, announced["centre"])
        return Vector({name: tensor.sum(dim=0) for name, tensor in clipped_C.items()})

    def merge(self, left: Vector, right: Vector) -> Vector:
        """Add the right sum to the left one."""
        return left.add_(right)

    def finish(
        self, total: Vector, weight: float, state: State, context: AggregationContext
    ) -> tuple[Vector, State]:
        """Return the new centre, with the mean of buffers."""
        mean, centre = total / context.contributed, state["centre"]
        moved = _common(centre, mean)
        delta = mean | centre.select(moved) + mean.select(moved)
        return delta, {"centre": centre | delta.select(moved).clone()}

    def _clip(self, deltas: Vector, centre: Vector) -> Vector:
        names = _common(centre, deltas)
        from_centre = deltas.select(names) - centre.select(names)
        return deltas | from_centre * (self.radius / from_centre.norm()).clamp(max=1.0)


def _common(centre: Vector, deltas: Vector) -> list[str]:
    return [name for name in centre.names if name in deltas]
