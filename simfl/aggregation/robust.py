"""Aggregators that bound what a few bad clients can do. They leave the clients' weights aside.

Shapes: C clients, T coordinates of a tile, ... a tensor's own axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Interval
from torch import Tensor
from torch.nn import functional

from simfl.aggregation.aggregator import EveryUpdate
from simfl.component import Count
from simfl.errors import AggregationError
from simfl.vector import Vector

__all__ = ["Krum", "Median", "TrimmedMean"]

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

    Source: Yin et al., 2018, Definition 2, https://arxiv.org/abs/1803.01498
    """

    name: ClassVar[str] = "trimmed-mean"

    trim: Annotated[float, Interval(ge=0, lt=0.5)] = 0.1
    """The share of clients left out at either end; the count is rounded down."""

    def combine(self, deltas_C: Vector, weights_C: Tensor) -> Vector:
        """Return the coordinate-wise trimmed mean; the weights play no part."""
        return _mean_of_middle(deltas_C, trim=int(self.trim * len(weights_C)))


@dataclass(frozen=True)
class Krum(EveryUpdate):
    """Take the delta that is nearest to its neighbours, or the mean of the few nearest.

    A delta's score is the sum of the squared distances to its C - f - 2 nearest neighbours.

    Source: Blanchard et al., 2017, section 4 (Krum) and section 5 (Multi-Krum),
    https://arxiv.org/abs/1703.02757
    """

    name: ClassVar[str] = "krum"

    num_byzantine: Annotated[int, Ge(0)] = 1
    """f, how many bad clients are reckoned with; the cohort must have at least 2f + 3."""
    num_selected: Count = 1
    """How many of the best-scored deltas are averaged; 1 is Krum, more is Multi-Krum."""

    def combine(self, deltas_C: Vector, weights_C: Tensor) -> Vector:
        """Return the mean of the selected deltas; the weights play no part.

        Raises:
            AggregationError: if the cohort is too small for ``num_byzantine``.
        """
        num_clients = len(weights_C)
        if num_clients < 2 * self.num_byzantine + 3:
            raise AggregationError(
                f"krum with num_byzantine {self.num_byzantine} needs at least "
                f"{2 * self.num_byzantine + 3} updates a round, and there are {num_clients}; "
                "raise client.per_round or lower server.aggregator.num_byzantine"
            )
        scores_C = _krum_scores(deltas_C, num_neighbours=num_clients - self.num_byzantine - 2)
        chosen = scores_C.argsort(stable=True)[: self.num_selected]
        return Vector({name: tensor[chosen].mean(dim=0) for name, tensor in deltas_C.items()})


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
