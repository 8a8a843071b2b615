"""Cohorts: drawn from the seed and the round alone, in the order of the reduction."""

from __future__ import annotations

import numpy as np
import pytest

from simfl.messages import RoundPlan
from simfl.sampling import Sampler, Uniform, Weighted, plan_round


def plan(
    sampler: Sampler, counts: list[int], size: int, *, round: int = 1, seed: int = 0
) -> RoundPlan:
    examples = np.array(counts)
    return plan_round(
        sampler, num_examples=examples, num_steps=examples, size=size, seed=seed, round=round
    )


@pytest.mark.parametrize("sampler", [Uniform(), Weighted()])
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
