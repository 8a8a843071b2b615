"""Sampler: which clients take part in a round, and the rules that do not look back.

Shapes: N clients of the population, K of a round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np

from simfl.component import Component
from simfl.messages import ClientReports
from simfl.sampling.pool import Array, Memory, Pool


@dataclass(frozen=True)
class Poisson:
    """Each client takes part with the same probability, independently of the others."""

    probability: float
    """q."""


@dataclass(frozen=True)
class FixedSize:
    """Every set of so many clients has the same probability."""

    size: int
    """m."""
    population: int
    """N."""


@dataclass(frozen=True)
class All:
    """The whole population takes part in every round."""


@dataclass(frozen=True)
class DataFree:
    """The cohort depends on the round, and on no data: nothing is amplified."""


Mechanism: TypeAlias = Poisson | FixedSize | All | DataFree
"""How a cohort is drawn, in the terms of privacy accounting: amplification by sampling."""


class Sampler(Component, kind="sampler"):
    """A rule by which a round's cohort is drawn.

    A rule that always draws ``client.per_round`` clients, by their examples alone, overrides
    ``sample``; any other overrides ``select``, ``init`` and ``learn`` if it remembers anything, and
    ``asks`` if it needs losses of the present weights.
    All are functions of their arguments, and leave these as they are: a run that is resumed, or
    repeats rounds, draws the same cohorts.
    """

    def select(self, pool: Pool, memory: Memory, size: int, rng: np.random.Generator) -> Array:
        """Return the ids of a round's clients: different ones, any number of them, in any order.

        Args:
            pool: the population.
            memory: what ``init``, or ``learn`` after the last round, has returned.
            size: how many clients the scenario asks for (``client.per_round``).
            rng: the round's own generator, as ``asks`` has left it.
        """
        return self.sample(pool.num_examples, size, rng=rng)

    def asks(self, pool: Pool, memory: Memory, size: int, rng: np.random.Generator) -> Array:
        """Return the ids of the clients whose losses ``select`` needs: different ones, any number.

        Before the cohort is drawn, they evaluate the weights that the round starts from on their
        training examples: the ``loss`` in the pool of ``select``.

        Args:
            pool: the population.
            memory: as in ``select``.
            size: as in ``select``.
            rng: the round's own generator.
        """
        return np.zeros(0, np.int64)

    def sample(self, num_examples: Array, size: int, *, rng: np.random.Generator) -> Array:
        """Return the ids of ``size`` different clients, in any order.

        Args:
            num_examples: [N] how many examples each client trains on.
            size: the number of clients to draw, up to and including the population.
            rng: the round's own generator.
        """
        raise NotImplementedError(f"{type(self).__name__} has no sample() and no select()")

    def init(self, population: int) -> Memory:
        """Return what the sampler remembers before the first round."""
        return {}

    def learn(self, memory: Memory, feedback: ClientReports) -> Memory:
        """Return what it remembers after a round.

        Args:
            memory: what it remembered before.
            feedback: the numbers of the round's K clients, those included that were dropped.
                ``seconds`` are NaN, since wall time differs from run to run.
        """
        return memory

    def mechanism(self, *, size: int, population: int) -> Mechanism | None:
        """Return how cohorts are drawn, for privacy accounting; None: in no way that is known."""
        return None


@dataclass(frozen=True)
class Uniform(Sampler):
    """Draw every client with the same probability, without replacement.

    Source: McMahan et al., 2017, Algorithm 1, https://arxiv.org/abs/1602.05629
    """

    name: ClassVar[str] = "uniform"

    def sample(self, num_examples: Array, size: int, *, rng: np.random.Generator) -> Array:
        """Return ids drawn uniformly."""
        return rng.choice(len(num_examples), size, replace=False, shuffle=False)

    def mechanism(self, *, size: int, population: int) -> Mechanism:
        """Return that every set of the size has the same probability."""
        return All() if size == population else FixedSize(size, population)


@dataclass(frozen=True)
class Weighted(Sampler):
    """Draw clients one after another, each in proportion to its examples among the remaining ones.

    With one client per round, each takes part in proportion to its examples. With more, large
    clients take part less often than that, and small ones more often. When two of three
    clients with 2, 1 and 1 examples are drawn, the probabilities are 5/6, 7/12 and 7/12. Use
    ``proportional`` to get 1, 1/2 and 1/2.

    Source: Efraimidis and Spirakis, 2006, https://doi.org/10.1016/j.ipl.2005.11.003
    """

    name: ClassVar[str] = "weighted"

    def sample(self, num_examples: Array, size: int, *, rng: np.random.Generator) -> Array:
        """Return ids in the order drawn."""
        return draw_by_examples(num_examples, size, rng=rng)


@dataclass(frozen=True)
class Proportional(Sampler):
    """Draw clients so that each takes part in proportion to its examples, without replacement.

    The probability that client i of N is in a cohort of K is exactly K n_i / sum of n. If that is 1
    or more, the client takes part in every round, and the rest are drawn from the others. With
    ``server.weighting: uniform``, the mean of a round is then unbiased unless a client takes part
    in every round: its expectation is the mean over the population weighted by examples, as in
    FedAvg's other scheme.

    The method is systematic sampling: the clients' shares are laid out in random order, and the
    clients hit by equidistant points with a random start are selected.

    Source: Madow, 1949, https://doi.org/10.1214/aoms/1177729988; the scheme: Li et al., 2020,
    Scheme I, https://arxiv.org/abs/1907.02189 (there with replacement)
    """

    name: ClassVar[str] = "proportional"

    def sample(self, num_examples: Array, size: int, *, rng: np.random.Generator) -> Array:
        """Return ids by systematic sampling, in integers, so that nothing is rounded."""
        order_N = rng.permutation(len(num_examples))
        counts_N = num_examples[order_N].astype(np.int64)
        is_certain_N, left, total = np.zeros(len(order_N), bool), size, int(counts_N.sum())
        while left and total and (more_N := ~is_certain_N & (left * counts_N >= total)).any():
            is_certain_N |= more_N
            left, total = left - int(more_N.sum()), total - int(counts_N[more_N].sum())
        certain, rest = order_N[is_certain_N], order_N[~is_certain_N]
        if not total:  # the remaining clients have no examples; take any of them
            return np.concatenate([certain, rest[:left]])
        ends = np.cumsum(left * num_examples[rest].astype(np.int64))
        points = int(rng.integers(total)) + total * np.arange(left)
        return np.concatenate([certain, rest[np.searchsorted(ends, points, side="right")]])


@dataclass(frozen=True)
class PoissonSampling(Sampler):
    """Draw each client by itself, with the probability ``client.per_round`` / N.

    So ``client.per_round`` is the expected number of clients. Their real number varies, and a
    round may have none: then the weights stay as they are.

    Source: Abadi et al., 2016, section 3.1 (lots of examples), https://arxiv.org/abs/1607.00133;
    of clients: McMahan et al., 2018, Algorithm 1, https://arxiv.org/abs/1710.06963
    """

    name: ClassVar[str] = "poisson"

    def select(self, pool: Pool, memory: Memory, size: int, rng: np.random.Generator) -> Array:
        """Return the ids of those that were drawn."""
        return np.flatnonzero(rng.random(len(pool)) < size / len(pool))

    def mechanism(self, *, size: int, population: int) -> Mechanism:
        """Return the probability."""
        return Poisson(size / population)


@dataclass(frozen=True)
class RoundRobin(Sampler):
    """Draw clients in turn, by their ids, and start again after the last one."""

    name: ClassVar[str] = "round-robin"

    def select(self, pool: Pool, memory: Memory, size: int, rng: np.random.Generator) -> Array:
        """Return the next ids."""
        return ((pool.round - 1) * size + np.arange(size)) % len(pool)

    def mechanism(self, *, size: int, population: int) -> Mechanism:
        """Return that the cohort depends on the round alone."""
        return All() if size == population else DataFree()


def draw_by_examples(num_examples: Array, size: int, *, rng: np.random.Generator) -> Array:
    """Draw clients one after another, each in proportion to its examples among those left.

    By the Gumbel-top-k trick, which needs no normalised weights.

    Args:
        num_examples: [N] how many examples each client trains on.
        size: the number of clients to draw.
        rng: the round's own generator.

    Returns:
        Ids, in the order drawn.
    """
    with np.errstate(divide="ignore"):
        keys = np.log(num_examples) + rng.gumbel(size=len(num_examples))
    drawn = np.argpartition(-keys, size - 1)[:size]
    ordered: Array = drawn[np.argsort(-keys[drawn], kind="stable")]
    return ordered
