"""Aggregators, with numbers that can be checked by hand."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial import distance

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


@pytest.mark.parametrize(("percent", "count"), [(29, 100), (29, 200)])
def test_a_share_that_is_a_whole_number_of_clients_trims_so_many(percent: int, count: int) -> None:
    """As a product of floats, .29 of 100 is 28.999999999999996."""
    assert percent / 100 * count < percent * count // 100  # or nothing would be shown
    values = np.arange(count) ** 2.0
    trim = percent * count // 100
    trimmed = TrimmedMean(trim=percent / 100)
    expected = values[trim : count - trim].mean()
    assert aggregate(trimmed, values[:, None].tolist(), [1] * count) == pytest.approx([expected])


def test_a_share_that_would_trim_none_is_refused() -> None:
    """.1 of nine is less than one."""
    with pytest.raises(ConfigError, match=r"at least 10 updates a round, since trim 0\.1"):
        TrimmedMean(trim=0.1).check_cohort(9)
    TrimmedMean(trim=0.1).check_cohort(10)
    with pytest.raises(ConfigError, match="greater than 0"):
        TrimmedMean(trim=0.0)


def test_of_a_cohort_that_has_lost_some_one_is_trimmed_at_either_end_all_the_same() -> None:
    """The mean of 1 to 7; of 0 to 1000 it would be 114.2."""
    deltas = [[value] for value in (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 1000.0)]
    assert aggregate(TrimmedMean(trim=0.1), deltas, [1] * 9) == [4.0]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_one_or_two_values_are_left_of_each_coordinate_at_least(count: int) -> None:
    """A share a rounding error below one half leaves the median."""
    values = [[0.0], [1.0], [5.0], [7.0]][:count]
    expected = {3: 1.0, 4: 3.0}
    if count in expected:
        rule = TrimmedMean(trim=0.5 - 1e-12)
        assert aggregate(rule, values, [1] * count) == [expected[count]]
    else:
        with pytest.raises(AggregationError, match="at least 3 updates"):
            aggregate(TrimmedMean(trim=0.5 - 1e-12), values, [1] * count)


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
    with pytest.raises(AggregationError, match="at least 7 updates a round, but there are 4"):
        aggregate(Krum(num_byzantine=2), [[0.0]] * 4, [1] * 4)


def test_krum_does_not_average_more_than_can_be_good() -> None:
    """Of five with one bad, four."""
    Krum(num_byzantine=1, num_selected=4).check_cohort(5)
    with pytest.raises(ConfigError, match=r"num_selected 5.*at most 4 of 5"):
        Krum(num_byzantine=1, num_selected=5).check_cohort(5)
    with pytest.raises(AggregationError, match=r"num_selected 5.*at most 4 of 5"):
        aggregate(Krum(num_byzantine=1, num_selected=5), [[0.0]] * 5, [1] * 5)


def many_deltas(count: int) -> Vector:
    """Return a stack of more coordinates than are looked at together, some of them tied."""
    rng = np.random.default_rng(count)
    wide, narrow = rng.normal(size=(count, 37, 60)), rng.integers(0, 3, size=(count, 1))
    arrays = {"w": wide, "b": narrow, "scalar": narrow[:, 0], "empty": wide[:, :0]}
    tensors = {name: torch.tensor(array).float() for name, array in arrays.items()}
    return Vector(tensors, stacked=True)


@pytest.mark.parametrize("count", [7, 8])
def test_the_median_of_many_coordinates_has_numpys_bits_and_leaves_the_deltas(count: int) -> None:
    deltas = many_deltas(count)
    before = deltas.clone()
    median = Median().combine(deltas, torch.ones(count))
    for name, tensor in before.items():
        assert np.array_equal(median[name].numpy(), np.median(tensor.numpy(), axis=0))
    assert deltas == before


def test_the_trimmed_mean_of_many_coordinates_is_scipys() -> None:
    """Sums in another order: a few units in the last place of float32."""
    deltas = many_deltas(30)
    trimmed = TrimmedMean(trim=0.2).combine(deltas, torch.ones(30))
    for name, tensor in deltas.items():
        expected = stats.trim_mean(tensor.double().numpy(), 0.2, axis=0)
        np.testing.assert_allclose(trimmed[name].numpy(), expected, rtol=1e-5, atol=1e-6)


def test_the_median_of_bfloat16_is_that_of_its_numbers() -> None:
    values = torch.tensor([[3.0], [-1.0], [0.5]], dtype=torch.bfloat16)
    median = Median().combine(Vector({"w": values}, stacked=True), torch.ones(3))
    assert median["w"].dtype is torch.bfloat16
    assert median["w"].tolist() == [0.5]


@pytest.mark.parametrize("huge", [1.0, 1e15])
def test_krum_selects_by_the_papers_scores_beside_a_huge_delta_too(huge: float) -> None:
    deltas = many_deltas(9)
    deltas["w"][4] *= huge
    flat = np.hstack([deltas[name].double().reshape(9, -1) for name in ("w", "b", "scalar")])
    squared = np.sort(distance.cdist(flat, flat, "sqeuclidean"), axis=1)
    best = squared[:, 1 : 9 - 2 - 2 + 1].sum(axis=1).argmin()
    chosen = Krum(num_byzantine=2).combine(deltas, torch.ones(9))
    assert torch.equal(chosen["w"], deltas["w"][best])
