"""Sampler: who takes part in a round. A cohort depends on the seed and the round alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from simfl.component import Component
from simfl.messages import RoundPlan
from simfl.seeding import numpy_generator

__all__ = ["Sampler", "Uniform", "Weighted", "plan_round"]


class Sampler(Component, kind="sampler"):
    """A rule by which a round's cohort is drawn."""

    def sample(
        self, num_examples: np.ndarray[Any, Any], size: int, *, rng: np.random.Generator
    ) -> np.ndarray[Any, Any]:
        """Return the ids of ``size`` different clients, in any order.

        Args:
            num_examples: [population] how many examples each client trains on.
            size: how many to draw, at most the population.
            rng: the round's own generator.
        """
        raise NotImplementedError(f"{type(self).__name__} has no sample()")


@dataclass(frozen=True)
class Uniform(Sampler):
    """Draw every client with the same probability, without replacement.

    Source: McMahan et al., 2017, Algorithm 1, https://arxiv.org/abs/1602.05629
    """

    name: ClassVar[str] = "uniform"

    def sample(
        self, num_examples: np.ndarray[Any, Any], size: int, *, rng: np.random.Generator
    ) -> np.ndarray[Any, Any]:
        """Return ids drawn uniformly."""
        return rng.choice(len(num_examples), size, replace=False, shuffle=False)


@dataclass(frozen=True)
class Weighted(Sampler):
    """Draw clients in proportion to their examples, without replacement.

    With ``server.weighting: uniform`` this is the other unbiased scheme of FedAvg.

    Source: Li et al., 2020, Scheme I, https://arxiv.org/abs/1907.02189 (there with replacement)
    """

    name: ClassVar[str] = "weighted"

    def sample(
        self, num_examples: np.ndarray[Any, Any], size: int, *, rng: np.random.Generator
    ) -> np.ndarray[Any, Any]:
        """Return ids drawn by the Gumbel-top-k trick, which needs no normalised weights."""
        with np.errstate(divide="ignore"):
            keys = np.log(num_examples) + rng.gumbel(size=len(num_examples))
        return np.argpartition(-keys, size - 1)[:size]


def plan_round(
    sampler: Sampler,
    *,
    num_examples: np.ndarray[Any, Any],
    num_steps: np.ndarray[Any, Any],
    size: int,
    seed: int,
    round: int,
) -> RoundPlan:
    """Draw a round's cohort and put it in order: longest local work first, then by id.

    Args:
        sampler: the rule.
        num_examples: [population] how many examples each client trains on.
        num_steps: [population] how many local steps each client makes.
        size: how many take part; the whole population needs no drawing.
        seed: the run's seed.
        round: which round, from 1.
    """
    if size == len(num_examples):
        clients = np.arange(size)
    else:
        rng = numpy_generator(seed, "cohort", round=round)
        clients = np.sort(sampler.sample(num_examples, size, rng=rng))
    order = np.argsort(-num_steps[clients], kind="stable")
    clients = clients[order]
    return RoundPlan(round, tuple(clients.tolist()), tuple(num_steps[clients].tolist()))
