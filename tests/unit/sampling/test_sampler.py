"""Cohorts: drawn from the seed and the round alone, in the order of the reduction."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from simfl.errors import ConfigError
from simfl.messages import RoundPlan
from simfl.sampling import Proportional, Sampler, Uniform, Weighted, plan_round


def plan(
    sampler: Sampler, counts: list[int], size: int, *, round: int = 1, seed: int = 0
) -> RoundPlan:
    examples = np.array(counts)
    return plan_round(
        sampler, num_examples=examples, num_steps=examples, size=size, seed=seed, round=round
    )


@pytest.mark.parametrize("sampler", [Uniform(), Weighted(), Proportional()])
def test_a_cohort_holds_different_clients_and_depends_on_seed_and_round_alone(
    sampler: Sampler,
) -> None:
    counts = list(range(1, 101))
    cohort = plan(sampler, counts, 10, round=3)
    assert len(set(cohort.clients)) == 10
    assert cohort == plan(sampler, counts, 10, round=3)
    assert cohort.clients != plan(sampler, counts, 10, round=4).clients
    assert cohort.clients != plan(sampler, counts, 10, round=3, seed=1).clients


def test_the_longest_local_work_comes_first_then_the_lower_id() -> None:
    assert plan(Uniform(), [5, 9, 5, 7], 4).clients == (1, 3, 0, 2)


def test_uniform_draws_every_client_equally_often() -> None:
    """2,000 rounds of 2 out of 10: 400 each; 5 standard deviations of B(2000, 0.2) are 90."""
    drawn = [
        client for r in range(2000) for client in plan(Uniform(), [1] * 10, 2, round=r).clients
    ]
    counts = np.bincount(drawn, minlength=10)
    assert np.abs(counts - 400).max() < 90


def test_weighted_draws_one_client_in_proportion_to_its_examples() -> None:
    """4,000 draws with p = 3/4: 3,000; 5 standard deviations are 137."""
    drawn = [plan(Weighted(), [30, 10], 1, round=r).clients[0] for r in range(4000)]
    assert abs(drawn.count(0) - 3000) < 137


def test_weighted_draws_one_after_another_from_those_that_are_left() -> None:
    """Two of three with 2, 1 and 1: the first is drawn with 1/2 + 2 · 1/4 · 2/3 = 5/6, and not 1.

    Of 4,000 rounds 3,333, with a standard deviation of 24, times five.
    """
    drawn = sum(0 in plan(Weighted(), [2, 1, 1], 2, round=r).clients for r in range(4000))
    assert abs(drawn - 3333) < 120


class Scripted:
    """A generator whose draws the test sets."""

    def __init__(self, order: tuple[int, ...], start: int) -> None:
        self.order, self.start, self.num_starts = order, start, 1

    def permutation(self, size: int) -> np.ndarray:
        return np.array(self.order)

    def integers(self, high: int) -> int:
        self.num_starts = high
        return self.start


def cohorts(counts: list[int], size: int, order: tuple[int, ...]) -> list[list[int]]:
    """Return the cohort from each start that there is to draw, in this order of the clients."""
    drawn: list[list[int]] = []
    rng: Any = Scripted(order, 0)
    while len(drawn) < rng.num_starts:
        rng.start = len(drawn)
        drawn.append(Proportional().sample(np.array(counts), size, rng=rng).tolist())
    return drawn


def inclusion(counts: list[int], size: int) -> list[Fraction]:
    """Return each client's probability, over all orders and starts."""
    orders = list(itertools.permutations(range(len(counts))))
    included = [Fraction(0)] * len(counts)
    for order in orders:
        drawn = cohorts(counts, size, order)
        for cohort in drawn:
            assert len(set(cohort)) == len(cohort) == size
            for client in cohort:
                included[client] += Fraction(1, len(drawn) * len(orders))
    return included


@pytest.mark.parametrize(
    ("counts", "size", "expected"),
    [
        ([3, 1, 4, 2], 2, ["6/10", "2/10", "8/10", "4/10"]),
        ([3, 1, 4, 2], 1, ["3/10", "1/10", "4/10", "2/10"]),
        # 2 · 10 / 14 is more than 1: the first is certain, and one is drawn of the others.
        ([10, 1, 1, 2], 2, ["1", "1/4", "1/4", "2/4"]),
        # 3 · 6 / 13 > 1; of the rest 2 · 5 / 7 > 1; of the rest 1 · 1 / 2.
        ([6, 5, 1, 1], 3, ["1", "1", "1/2", "1/2"]),
        ([2, 2, 2, 2], 4, ["1", "1", "1", "1"]),
        # One has examples; any of the others is as good to be second.
        ([5, 0, 0, 0], 2, ["1", "1/3", "1/3", "1/3"]),
    ],
)
def test_proportional_includes_each_client_with_exactly_its_share_of_the_cohort(
    counts: list[int], size: int, expected: list[str]
) -> None:
    assert inclusion(counts, size) == [Fraction(share) for share in expected]


RETURNED: list[Any] = []


@dataclass(frozen=True)
class Returning(Sampler):
    """Returns what the test has set."""

    def sample(self, num_examples: Any, size: int, *, rng: Any) -> Any:
        return RETURNED[-1]


# Named only now: a class that has a name when it is made registers itself for all tests.
Returning.name = "returning"


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([0], "returned 1 clients, but 3 take part"),
        (np.arange(4), "returned 4 clients, but 3 take part"),
        ([2, 0, 2], "returned client 2 2 times"),
        ([0, 1, 3], "returned client 3, but clients are numbered from 0 to 2"),
        ([-1, 0, 1], "returned client -1, but"),
        ([0.0, 1.0, 2.0], "returned float64 of shape [3]"),
        (np.array([True, False, True]), "returned bool of shape [3]"),
        (np.zeros((3, 1), int), "returned int64 of shape [3, 1]"),
        (None, "returned object of shape []"),
        ([[0], [1, 2]], "returned list"),
    ],
    ids=str,
)
def test_what_a_sampler_returns_is_checked(returned: Any, message: str) -> None:
    """Where all three of the population take part, too."""
    RETURNED.append(returned)
    with pytest.raises(ConfigError) as caught:
        plan(Returning(), [1, 1, 1], 3)
    assert str(caught.value).startswith("sampler 'returning' " + message)
    assert "\n" not in str(caught.value)


def test_a_client_that_is_drawn_twice_is_reported() -> None:
    RETURNED.append([1, 1])
    with pytest.raises(ConfigError, match="returned client 1 2 times"):
        plan(Returning(), [1, 1, 1], 2)


def test_a_sampler_may_return_a_list_of_ids_and_any_kind_of_integer() -> None:
    for returned in ([2, 0], np.array([2, 0], np.uint8), (np.int32(2), 0)):
        RETURNED.append(returned)
        assert plan(Returning(), [5, 5, 5], 2).clients == (0, 2)
