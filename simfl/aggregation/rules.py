"""The aggregators: the weighted mean of FedAvg, and those that bound what a few bad clients can do.

The robust ones ignore the clients' weights.

Shapes: C clients, T coordinates of a tile, ... a tensor's own axes.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Interval
from torch import Tensor, tensor
from torch.nn import functional

from simfl.aggregation.aggregator import Aggregator, EveryUpdate, Weighted
from simfl.component import Count
from simfl.errors import AggregationError, ConfigError
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


_TILE = 1024
"""Coordinates that are looked at together: those of 100 deltas fit a processor's cache."""


@dataclass(frozen=True)
class Median(EveryUpdate):
    """Take the median of each coordinate; of an even number, the mean of the middle two.

    Source: Yin et al., 2018, Definition 1, https://arxiv.org/abs/1803.01498
    """

    name: ClassVar[str] = "median"

    def combine(self, deltas_C: Vector, weights_C: Tensor) -> Vector:
        """Return the coordinate-wise median; the weights play no part."""
        half = (len(weights_C) - 1) // 2
        return _mean_of_middle(deltas_C, trim=half)


@dataclass(frozen=True)
class TrimmedMean(EveryUpdate):
    """Leave out the largest and the smallest values of each coordinate, and average the rest.

    Of C updates, floor(trim C) are removed at either end. C counts the updates that arrived,
    without dropped clients. A cohort so small that none would be removed is refused before the run;
    if clients are dropped later, at least one update is still removed at either end.

    Source: Yin et al., 2018, Definition 2, https://arxiv.org/abs/1803.01498
    """

    name: ClassVar[str] = "trimmed-mean"

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
        return _mean_of_middle(deltas_C, trim=max(1, self._count(size)))

    def _count(self, size: int) -> int:
        """Return how many to remove at either end: 0.29 of 100 is 29, not 28.99... as in floats."""
        return min(math.floor(self.trim * size + 1e-9), (size - 1) // 2)


@dataclass(frozen=True)
class Krum(EveryUpdate):
    """Take the delta that is nearest to its neighbours, or the mean of the few nearest.

    A delta's score is the sum of the squared distances to its C - f - 2 nearest neighbours. C
    counts the updates that arrived, without dropped clients; too few end the run. Integer buffers,
    such as counts of batches, are excluded from the distances.

    Source: Blanchard et al., 2017, section 4 (Krum) and section 5 (Multi-Krum),
    https://arxiv.org/abs/1703.02757
    """

    name: ClassVar[str] = "krum"

    num_byzantine: Annotated[int, Ge(0)] = 1
    """f, how many bad clients are tolerated; the cohort must have at least 2f + 3."""
    num_selected: Count = 1
    """How many of the best-scored deltas are averaged, at most C - f; 1 is Krum, more is
    Multi-Krum."""

    def check_cohort(self, size: int) -> None:
        """Refuse a cohort that is too small for ``num_byzantine`` or ``num_selected``."""
        if (lack := self._lack(size)) is not None:
            raise ConfigError(lack)

    def finish_round(self, total: Weighted, weight: float, *, counts: Collection[str]) -> Vector:
        """Stack the deltas and apply the rule; the counts are excluded from the distances."""
        deltas_C = Vector.stack([delta for delta, _ in total])
        return self.combine(deltas_C, tensor([own for _, own in total]), counts=counts)

    def combine(
        self, deltas_C: Vector, weights_C: Tensor, *, counts: Collection[str] = ()
    ) -> Vector:
        """Return the mean of the selected deltas; the weights play no part.

        Args:
            deltas_C: a stack of C deltas.
            weights_C: [C] the clients' weights.
            counts: names that are excluded from the distances.

        Raises:
            AggregationError: if there are too few for ``num_byzantine`` or ``num_selected``.
        """
        num_clients = len(weights_C)
        if (lack := self._lack(num_clients)) is not None:
            raise AggregationError(lack)
        compared_C = deltas_C.select(name for name in deltas_C.names if name not in counts)
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


def _mean_of_middle(deltas_C: Vector, *, trim: int) -> Vector:
    """Sort each coordinate's values, leave out ``trim`` of them at either end, average the rest."""

    def mean(tensor_C: Tensor) -> Tensor:
        kept = slice(trim, len(tensor_C) - trim)
        means = [_sort(tile_CT.T)[:, kept].mean(dim=1) for tile_CT in _tiles(tensor_C)]
        return torch.cat(means).reshape(tensor_C.shape[1:])

    return Vector({name: mean(tensor) for name, tensor in deltas_C.items()})


def _sort(tile_TC: Tensor) -> Tensor:
    """Return the tile with each row sorted."""
    if tile_TC.device.type != "cpu" or tile_TC.dtype not in (torch.float32, torch.float64):
        return tile_TC.sort(dim=1).values
    # numpy sorts contiguous rows with vector instructions: 20 times as fast as torch.
    sorted_TC = tile_TC.clone(memory_format=torch.contiguous_format)
    sorted_TC.numpy().sort(axis=1)
    return sorted_TC


def _krum_scores(deltas_C: Vector, *, num_neighbours: int) -> Tensor:
    """Return each delta's score, shape [C], in float64."""
    distances_CC = _squared_distances(deltas_C)
    # The nearest one is the delta itself, at distance 0.
    return distances_CC.sort(dim=1).values[:, 1 : num_neighbours + 1].sum(dim=1)


def _squared_distances(deltas_C: Vector) -> Tensor:
    """Return the squared distance of each pair of deltas, shape [C, C], in float64.

    Of differences and not of a matrix product: next to one huge delta, those of the others would
    be lost to rounding.
    """
    first = deltas_C.tensors[0]
    num_clients = len(first)
    distances_CC = first.new_zeros(num_clients, num_clients, dtype=torch.float64)
    above_diagonal = tuple(torch.triu_indices(num_clients, num_clients, offset=1))
    for tensor_C in deltas_C.tensors:
        for tile_CT in _tiles(tensor_C):
            distances_CC[above_diagonal] += functional.pdist(tile_CT.double()).square()
    return distances_CC + distances_CC.T


def _tiles(tensor_C: Tensor) -> Sequence[Tensor]:
    """Cut the coordinates of C deltas into tiles of T: [C, T] each."""
    return torch.split(tensor_C.unsqueeze(1).flatten(1), _TILE, dim=1)
