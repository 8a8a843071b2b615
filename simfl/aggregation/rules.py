"""The aggregators: the weighted mean of FedAvg, and those that bound what a few bad clients can do.

The robust ones ignore the clients' weights. What they do to a coordinate they do to those of
buffers, too; distances are those of trained weights only.

Shapes: C clients.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Interval
from torch import Tensor

from simfl.aggregation.aggregator import AggregationContext, Aggregator, EveryUpdate
from simfl.aggregation.geometry import mean_of_middle, median, squared_distances, weighted_sums
from simfl.component import Count
from simfl.errors import AggregationError, ConfigError
from simfl.states import State
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

    def lift_stack(
        self, deltas_C: Vector, weights: Sequence[float], announced: State | None = None
    ) -> Vector:
        """Return the sum of weight * delta over the stack, in one pass."""
        return weighted_sums(torch.tensor(weights, dtype=torch.float64), deltas_C)

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


@dataclass(frozen=True)
class Median(EveryUpdate):
    """Take the median of each coordinate; of an even number, the mean of the middle two.

    Source: Yin et al., 2018, Definition 1, https://arxiv.org/abs/1803.01498
    """

    name: ClassVar[str] = "median"
    uses_weights: ClassVar[bool] = False

    def combine(self, deltas_C: Vector, weights_C: Tensor) -> Vector:
        """Return the coordinate-wise median; the weights play no part."""
        return median(deltas_C)


@dataclass(frozen=True)
class TrimmedMean(EveryUpdate):
    """Leave out the largest and the smallest values of each coordinate, and average the rest.

    Of C updates, floor(trim C) are removed at either end. C counts the updates that arrived,
    without dropped clients. A cohort so small that none would be removed is refused before the run;
    if clients are dropped later, at least one update is still removed at either end.

    Source: Yin et al., 2018, Definition 2, https://arxiv.org/abs/1803.01498
    """

    name: ClassVar[str] = "trimmed-mean"
    uses_weights: ClassVar[bool] = False

    trim: Annotated[float, Interval(gt=0, lt=0.5)] = 0.1
    """The share of clients removed at either end; the count is rounded down, and at least 1."""

    def check_cohort(self, size: int) -> None:
        """Refuse a cohort so small that none would be removed."""
        if self._count(size) == 0:
            least = max(3, math.ceil((1 - 1e-9) / self.trim))
            raise ConfigError(
                f"trimmed-mean needs at least {least} updates a round, since trim {self.trim} "
                f"removes none of fewer, but there are {size}; raise client.per_round or "
                "server.aggregator.trim"
            )

    def combine(self, deltas_C: Vector, weights_C: Tensor) -> Vector:
        """Return the coordinate-wise trimmed mean; the weights play no part.

        Raises:
            AggregationError: if there are fewer than three updates.
        """
        size = len(weights_C)
        if size < 3:
            raise AggregationError(
                f"trimmed-mean needs at least 3 updates a round, but there are {size}; raise "
                "client.per_round, or find out why clients are dropped"
            )
        return mean_of_middle(deltas_C, trim=max(1, self._count(size)))

    def _count(self, size: int) -> int:
        """Return how many to remove at either end: 0.29 of 100 is 29, not 28.99... as in floats."""
        return min(math.floor(self.trim * size + 1e-9), (size - 1) // 2)


@dataclass(frozen=True)
class Krum(EveryUpdate):
    """Take the delta that is nearest to its neighbours, or the mean of the few nearest.

    A delta's score is the sum of the squared distances to its C - f - 2 nearest neighbours. C
    counts the updates that arrived, without dropped clients; too few end the run. Distances are
    those of trained weights; buffers are those of the chosen deltas.

    Source: Blanchard et al., 2017, section 4 (Krum) and section 5 (Multi-Krum),
    https://arxiv.org/abs/1703.02757
    """

    name: ClassVar[str] = "krum"
    uses_weights: ClassVar[bool] = False

    num_byzantine: Annotated[int, Ge(0)] = 1
    """f, how many bad clients are tolerated; the cohort must have at least 2f + 3."""
    num_selected: Count = 1
    """How many of the best-scored deltas are averaged, at most C - f; 1 is Krum, more is
    Multi-Krum."""

    def check_cohort(self, size: int) -> None:
        """Refuse a cohort that is too small for ``num_byzantine`` or ``num_selected``."""
        if (lack := self._lack(size)) is not None:
            raise ConfigError(lack)

    def combine(
        self, deltas_C: Vector, weights_C: Tensor, context: AggregationContext | None = None
    ) -> Vector:
        """Return the mean of the selected deltas; the weights play no part.

        Args:
            deltas_C: a stack of C deltas.
            weights_C: [C] the clients' weights.
            context: names the weights that are compared; None: all are.

        Raises:
            AggregationError: if there are too few for ``num_byzantine`` or ``num_selected``.
        """
        num_clients = len(weights_C)
        if (lack := self._lack(num_clients)) is not None:
            raise AggregationError(lack)
        compared_C = context.compared(deltas_C) if context else deltas_C
        scores_C = _krum_scores(compared_C, num_neighbours=num_clients - self.num_byzantine - 2)
        chosen = scores_C.argsort(stable=True)[: self.num_selected]
        return Vector({name: tensor[chosen].mean(dim=0) for name, tensor in deltas_C.items()})

    def _lack(self, size: int) -> str | None:
        least = 2 * self.num_byzantine + 3
        if size < least:
            return (
                f"krum with num_byzantine {self.num_byzantine} needs at least {least} updates a "
                f"round, but there are {size}; raise client.per_round or lower "
                "server.aggregator.num_byzantine"
            )
        if self.num_selected > size - self.num_byzantine:
            return (
                f"krum with num_selected {self.num_selected} and num_byzantine "
                f"{self.num_byzantine} can select at most {size - self.num_byzantine} of {size} "
                "updates; raise client.per_round or lower server.aggregator.num_selected"
            )
        return None


def _krum_scores(deltas_C: Vector, *, num_neighbours: int) -> Tensor:
    """Return each delta's score, shape [C], in float64."""
    distances_CC = squared_distances(deltas_C)
    # The nearest one is the delta itself, at distance 0.
    return distances_CC.sort(dim=1).values[:, 1 : num_neighbours + 1].sum(dim=1)
