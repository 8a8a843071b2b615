"""Aggregators, by numbers that can be checked by hand."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from simfl.aggregation import Aggregator, Krum, Mean, Median, TrimmedMean
from simfl.errors import AggregationError, ConfigError
from simfl.vector import Vector


def aggregate(rule: Aggregator, deltas: list[list[float]], weights: list[float]) -> list[float]:
    lifted = [
        rule.lift(Vector({"w": torch.tensor(delta)}), weight)
        for delta, weight in zip(deltas, weights, strict=True)
    ]
    return rule.finish(functools.reduce(rule.merge, lifted), sum(weights))["w"].tolist()


def test_the_mean_weighs_each_delta_by_its_examples() -> None:
    """(2 * [1, 0] + 1 * [4, 3]) / 3 = [2, 1]."""
    assert aggregate(Mean(), [[1.0, 0.0], [4.0, 3.0]], [2, 1]) == [2.0, 1.0]


def test_the_mean_of_clients_without_weight_is_refused() -> None:
    with pytest.raises(AggregationError, match="weight zero"):
        aggregate(Mean(), [[1.0]], [0])


@pytest.mark.parametrize("count", [1, 4, 5])
def test_the_median_is_numpys_in_each_coordinate(count: int) -> None:
    deltas = np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32)
    expected = np.median(deltas, axis=0)
    assert aggregate(Median(), deltas.tolist(), [1] * count) == pytest.approx(expected.tolist())


def test_the_trimmed_mean_leaves_out_a_quarter_at_either_end() -> None:
    """Of 1000, 2, 4, -1000 a quarter is one: (2 + 4) / 2 = 3."""
    deltas = [[1000.0], [2.0], [4.0], [-1000.0]]
    assert aggregate(TrimmedMean(trim=0.25), deltas, [1, 1, 1, 1]) == [3.0]


def test_a_trim_of_zero_is_the_plain_mean() -> None:
    assert aggregate(TrimmedMean(trim=0.0), [[1.0], [2.0], [6.0]], [5, 1, 1]) == [3.0]


def test_half_or_more_cannot_be_trimmed() -> None:
    with pytest.raises(ConfigError, match=r"less than 0\.5"):
        TrimmedMean(trim=0.5)


def test_krum_takes_the_delta_with_the_nearest_neighbours() -> None:
    """C = 5, f = 1: a score is the sum over the C - f - 2 = 2 nearest.

    At 0, 1, 2, 3.5 and 100: 1+4 = 5, 1+1 = 2, 1+2.25 = 3.25, 2.25+6.25 = 8.5, huge; so 1.0 wins.
    """
    deltas = [[3.5], [1.0], [100.0], [0.0], [2.0]]
    assert aggregate(Krum(num_byzantine=1), deltas, [1] * 5) == [1.0]


def test_multi_krum_averages_the_best_scored() -> None:
    """The three best of the scores above are 1, 2 and 0."""
    deltas = [[3.5], [1.0], [100.0], [0.0], [2.0]]
    assert aggregate(Krum(num_byzantine=1, num_selected=3), deltas, [1] * 5) == [1.0]


def test_krum_says_how_many_updates_it_needs() -> None:
    with pytest.raises(AggregationError, match="at least 7 updates a round, and there are 4"):
        aggregate(Krum(num_byzantine=2), [[0.0]] * 4, [1] * 4)
