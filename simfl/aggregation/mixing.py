"""Pre-aggregators: they mix the cohort's updates before a robust rule sees them.

Shapes: C clients, M updates after mixing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from annotated_types import Ge

from simfl.aggregation.aggregator import (
    AggregationContext,
    Aggregator,
    EveryUpdate,
    Weighted,
    stacked,
)
from simfl.aggregation.geometry import squared_distances, weighted_sums
from simfl.component import Component
from simfl.errors import AggregationError, ConfigError
from simfl.seeding import numpy_generator
from simfl.states import State
from simfl.vector import Vector


class PreAggregator(Component, kind="pre-aggregator"):
    """A rule by which a stack of updates becomes another, which the aggregator then sees."""

    def mixed_size(self, size: int) -> int:
        """Return how many updates come out of so many.

        Raises:
            ConfigError: if there are too few.
        """
        return size

    def mix(self, deltas_C: Vector, context: AggregationContext) -> Vector:
        """Return a stack of M updates of the same names and dtypes, and leave the first as it is.

        Args:
            deltas_C: a stack of C.
            context: the round; its ``compared`` selects what distances are measured in.
        """
        raise NotImplementedError(f"{type(self).__name__} has no mix()")


@dataclass(frozen=True)
class Bucketing(PreAggregator):
    """Shuffle the updates, and average every few of them: a bucket.

    The last bucket may be smaller; it is the mean of its own updates.

    Source: Karimireddy et al., 2022, Algorithm 1, https://arxiv.org/abs/2006.09365
    """

    name: ClassVar[str] = "bucketing"

    size: Annotated[int, Ge(2)] = 2
    """s, how many updates are in a bucket."""

    def mixed_size(self, size: int) -> int:
        """Return the number of buckets."""
        return -(-size // self.size)

    def mix(self, deltas_C: Vector, context: AggregationContext) -> Vector:
        """Return the means of M buckets, drawn by seed and round."""
        num_clients = len(deltas_C.tensors[0])
        rng = numpy_generator(context.seed, self.name, round=context.round)
        bucket_C = rng.permutation(num_clients) // self.size
        is_in_MC = np.arange(self.mixed_size(num_clients))[:, None] == bucket_C
        shares_MC = is_in_MC / is_in_MC.sum(axis=1, keepdims=True)
        return weighted_sums(torch.from_numpy(shares_MC), deltas_C)


@dataclass(frozen=True)
class NearestNeighborMixing(PreAggregator):
    """Replace each update by the mean of the C - f that are nearest to it, itself included.

    Distances are those of trained weights; buffers are averaged over the same neighbours.

    Source: Allouah et al., 2023 (NNM), https://arxiv.org/abs/2302.01772
    """

    name: ClassVar[str] = "nnm"

    num_byzantine: Annotated[int, Ge(0)] = 1
    """f, how many bad clients are tolerated; there must be at least 2f + 1 updates."""

    def mixed_size(self, size: int) -> int:
        """Check that there are more good updates than bad ones."""
        if (lack := self._lack(size)) is not None:
            raise ConfigError(lack)
        return size

    def mix(self, deltas_C: Vector, context: AggregationContext) -> Vector:
        """Return C means.

        Raises:
            AggregationError: if there are too few updates for ``num_byzantine``.
        """
        num_clients = len(deltas_C.tensors[0])
        if (lack := self._lack(num_clients)) is not None:
            raise AggregationError(lack)
        order_CC = squared_distances(context.compared(deltas_C)).argsort(dim=1, stable=True)
        nearest = order_CC[:, : num_clients - self.num_byzantine]
        shares_CC = torch.zeros_like(order_CC, dtype=torch.float64)
        return weighted_sums(shares_CC.scatter(1, nearest, 1.0 / nearest.shape[1]), deltas_C)

    def _lack(self, size: int) -> str | None:
        least = 2 * self.num_byzantine + 1
        if size >= least:
            return None
        return (
            f"nnm with num_byzantine {self.num_byzantine} needs at least {least} updates, but "
            f"there are {size}; raise client.per_round or lower num_byzantine"
        )


@dataclass(frozen=True)
class Mixed(EveryUpdate):
    """An aggregator behind pre-aggregators: it sees the updates that they return, weighted equally.

    A scenario says it with ``server.pre_aggregators``.
    """

    rule: Aggregator
    steps: tuple[PreAggregator, ...]

    def check(self) -> None:
        """Take the rule's name, by which errors call it."""
        object.__setattr__(self, "name", self.rule.name)

    def check_cohort(self, size: int) -> None:
        """Refuse a cohort that is too small for a step, or from which too few updates come out."""
        for step in self.steps:
            size = step.mixed_size(size)
        self.rule.check_cohort(size)

    def init(self, like: Vector) -> State:
        """Return the rule's state, of which nothing is announced: it is needed only at the end."""
        return self.rule.init(like)

    def finish(
        self,
        total: Weighted,
        weight: float,
        state: State | None = None,
        context: AggregationContext | None = None,
    ) -> Any:
        """Stack the updates, mix them, and apply the rule to what comes out."""
        assert state is not None
        assert context is not None
        updates, _ = stacked(total)
        for step in self.steps:
            updates = step.mix(updates, context)
        size = len(updates.tensors[0])
        lifted = self.rule.lift_stack(updates, [1.0] * size, self.rule.announce(state))
        return self.rule.finish(lifted, float(size), state, replace(context, contributed=size))


def mix_before(rule: Aggregator, steps: tuple[PreAggregator, ...]) -> Aggregator:
    """Return the rule behind pre-aggregators; itself without any."""
    return Mixed(rule, steps) if steps else rule
