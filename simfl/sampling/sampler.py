"""Sampler: which clients take part in a round. A cohort depends on the seed and the round alone.

Shapes: N clients of the population, K of a round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np

from simfl.component import Component
from simfl.errors import ConfigError
from simfl.messages import RoundPlan
from simfl.sampling.local_work import LocalWork
from simfl.seeding import numpy_generator

Array: TypeAlias = "np.ndarray[Any, Any]"


class Sampler(Component, kind="sampler"):
    """A rule by which a round's cohort is drawn."""

    def sample(self, num_examples: Array, size: int, *, rng: np.random.Generator) -> Array:
        """Return the ids of ``size`` different clients, in any order.

        Args:
            num_examples: [population] how many examples each client trains on.
            size: the number of clients to draw, up to and including the population.
            rng: the round's own generator.
        """
        raise NotImplementedError(f"{type(self).__name__} has no sample()")


@dataclass(frozen=True)
class Uniform(Sampler):
    """Draw every client with the same probability, without replacement.

    Source: McMahan et al., 2017, Algorithm 1, https://arxiv.org/abs/1602.05629
    """

    name: ClassVar[str] = "uniform"

    def sample(self, num_examples: Array, size: int, *, rng: np.random.Generator) -> Array:
        """Return ids drawn uniformly."""
        return rng.choice(len(num_examples), size, replace=False, shuffle=False)


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
        """Return ids drawn by the Gumbel-top-k trick, which needs no normalised weights."""
        with np.errstate(divide="ignore"):
            keys = np.log(num_examples) + rng.gumbel(size=len(num_examples))
        return np.argpartition(-keys, size - 1)[:size]


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


def plan_round(
    sampler: Sampler,
    *,
    num_examples: Array,
    num_steps: Array,
    size: int,
    seed: int,
    round: int,
    work: LocalWork | None = None,
    participants: Array | None = None,
) -> RoundPlan:
    """Draw a round's cohort and sort it: longest local work first, then by id.

    Args:
        sampler: the rule.
        num_examples: [population] how many examples each client trains on.
        num_steps: [population] how many local steps each client makes.
        size: the number of clients that take part.
        seed: the run's seed.
        round: which round, from 1.
        work: what clients do. If its amount is drawn, the cohort's is drawn here, and
            ``num_steps`` is not used.
        participants: the ids of the clients that may be drawn, ascending: the population that the
            sampler sees, numbered from 0; None: all.

    Raises:
        ConfigError: unless the sampler returns ``size`` different ids, or if what is drawn is no
            amount of work.
    """
    rng = numpy_generator(seed, "cohort", round=round)
    pool = np.arange(len(num_examples)) if participants is None else participants
    cohort = sampler.sample(num_examples[pool], size, rng=rng)
    clients = pool[np.sort(_checked(cohort, sampler.name, size=size, population=len(pool)))]
    drawn: Array | None = None
    if work is not None:
        held = num_examples[clients]
        drawn = work.draw_steps(held, seed=seed, round=round, clients=clients)
    steps = num_steps[clients] if drawn is None else drawn
    order = np.argsort(-steps, kind="stable")
    return RoundPlan(
        round,
        tuple(clients[order].tolist()),
        tuple(steps[order].tolist()),
        draws_steps=drawn is not None,
    )


def _checked(drawn: Any, name: str, *, size: int, population: int) -> Array:
    """Return the ids that a sampler returned, as int64.

    Raises:
        ConfigError: unless it is ``size`` different ids.
    """
    where = f"sampler {name!r}"
    wanted = f"it must return {size} different ids from 0 to {population - 1}"
    try:
        ids = np.asarray(drawn)
    except ValueError:  # a list of lists of several lengths
        raise ConfigError(f"{where} returned {type(drawn).__name__}; {wanted}") from None
    if ids.ndim == 1 and len(ids) != size:
        raise ConfigError(f"{where} returned {len(ids)} clients, but {size} take part in a round")
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise ConfigError(f"{where} returned {ids.dtype} of shape {list(ids.shape)}; {wanted}")
    if (is_out := (ids < 0) | (ids >= population)).any():
        raise ConfigError(
            f"{where} returned client {ids[is_out][0]}, but clients are numbered from 0 to "
            f"{population - 1}"
        )
    found, times = np.unique(ids, return_counts=True)
    if len(found) < size:
        raise ConfigError(
            f"{where} returned client {found[times.argmax()]} {times.max()} times; {wanted}"
        )
    return ids.astype(np.int64)
