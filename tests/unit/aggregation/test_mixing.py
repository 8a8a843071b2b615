"""Pre-aggregators against numbers worked out by hand, and against numpy."""

import functools
from collections import Counter

import numpy as np
import pytest
import torch

from simfl.aggregation import (
    AggregationContext,
    Aggregator,
    Bucketing,
    CenteredClipping,
    Krum,
    Mean,
    Median,
    NearestNeighborMixing,
    PreAggregator,
    mix_before,
)
from simfl.errors import AggregationError, ConfigError
from simfl.vector import Vector


def context(contributed: int, *, round: int = 1) -> AggregationContext:
    return AggregationContext(
        seed=5,
        round=round,
        contributed=contributed,
        planned=contributed,
        population=50,
        trainable=("w",),
    )


def mix(rule: PreAggregator, rows: np.ndarray, *, round: int = 1) -> np.ndarray:
    deltas = Vector({"w": torch.tensor(rows)}, stacked=True)
    before = deltas.clone()
    mixed = rule.mix(deltas, context(len(rows), round=round))
    assert deltas == before
    assert mixed.stacked
    return mixed["w"].numpy()


def test_nnm_is_the_mean_of_the_nearest_by_hand() -> None:
    """Of 1, 4 and 7 with f = 1: 4 is as near to 1 as to 7, and takes the first."""
    rows = np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]])
    expected = [[2.5, 3.5, 4.5], [2.5, 3.5, 4.5], [5.5, 6.5, 7.5]]
    np.testing.assert_array_equal(mix(NearestNeighborMixing(num_byzantine=1), rows), expected)


def test_nnm_is_what_numpy_makes_of_all_distances() -> None:
    rows = np.random.default_rng(0).normal(size=(11, 4))
    distances = np.linalg.norm(rows[:, None] - rows[None], axis=2)
    nearest = distances.argsort(axis=1)[:, : 11 - 3]
    found = mix(NearestNeighborMixing(num_byzantine=3), rows)
    np.testing.assert_allclose(found, rows[nearest].mean(axis=1))


def test_nnm_measures_trained_weights_and_mixes_buffers_likewise() -> None:
    deltas = Vector(
        {"w": torch.tensor([[0.0], [1.0], [9.0]]), "b": torch.tensor([[1e6], [3.0], [5.0]])},
        stacked=True,
    )
    mixed = NearestNeighborMixing(num_byzantine=1).mix(deltas, context(3))
    assert mixed["w"].flatten().tolist() == [0.5, 0.5, 5.0]
    assert mixed["b"].flatten().tolist() == [500001.5, 500001.5, 4.0]


def test_buckets_are_a_partition_and_each_is_a_mean() -> None:
    """Of 7 in threes: two means of three and the one that is left, of powers of two."""
    rows = 2.0 ** np.arange(7)[:, None]
    found = mix(Bucketing(size=3), rows).flatten()
    sums = (found * [3, 3, 1]).round().astype(int)
    assert sums.sum() == 127  # each exactly once
    assert [bin(total).count("1") for total in sums] == [3, 3, 1]


def test_buckets_are_drawn_anew_each_round_and_equally_often() -> None:
    """6 updates make pairs in 15 ways: chi-square with 14 degrees of freedom, 99.9 % quantile."""
    drawn = Counter(
        frozenset(mix(Bucketing(size=2), 2.0 ** np.arange(6)[:, None], round=round).flatten())
        for round in range(1, 1501)
    )
    assert len(drawn) == 15
    assert sum((count - 100) ** 2 / 100 for count in drawn.values()) < 36.1


def aggregate(rule: Aggregator, rows: list[list[float]]) -> list[float]:
    state = rule.init(Vector({"w": torch.zeros(len(rows[0]))}))
    announced = rule.announce(state)
    lifted = [rule.lift(Vector({"w": torch.tensor(row)}), 3.0, announced) for row in rows]
    total = functools.reduce(rule.merge, lifted)
    delta, _ = rule.finish(total, 3.0 * len(rows), state, context(len(rows)))
    found: list[float] = delta["w"].tolist()
    return found


def test_any_rule_works_on_what_is_mixed() -> None:
    """NNM makes .5, .5 and 5 of 0, 1 and 9: mean 2, median .5, and of those clipped to 1 2/3."""
    rows = [[0.0], [1.0], [9.0]]
    nnm = (NearestNeighborMixing(num_byzantine=1),)
    assert aggregate(mix_before(Mean(), nnm), rows) == [2.0]
    assert aggregate(mix_before(Median(), nnm), rows) == [0.5]
    clipped = aggregate(mix_before(CenteredClipping(radius=1.0), nnm), rows)
    assert clipped == pytest.approx([2 / 3])
    assert aggregate(mix_before(Mean(), (Bucketing(size=3),)), rows) == pytest.approx([10 / 3])


def test_a_cohort_that_is_too_small_once_mixed_is_refused() -> None:
    rule = mix_before(Krum(num_byzantine=1), (Bucketing(size=2),))
    rule.check_cohort(9)
    with pytest.raises(ConfigError, match=r"krum .* at least 5 updates a round, but there are 4"):
        rule.check_cohort(8)
    nnm = NearestNeighborMixing(num_byzantine=2)
    with pytest.raises(ConfigError, match=r"nnm .* at least 5 updates, but there are 4"):
        mix_before(Mean(), (nnm,)).check_cohort(4)
    with pytest.raises(AggregationError, match=r"nnm .* at least 5 updates, but there are 3"):
        mix(nnm, np.zeros((3, 1)))
