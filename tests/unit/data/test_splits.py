"""Stratified test rows and each client's holdout."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simfl.data.build import draw_rows, hold_out
from simfl.errors import ConfigError

draw_test_rows = partial(draw_rows, key="data.test")


def test_each_class_gives_its_share():
    targets = np.repeat([0, 1, 2], [1000, 100, 50])
    rows = draw_test_rows(targets, fraction=0.1, seed=0)
    assert np.bincount(targets[rows]).tolist() == [100, 10, 5]
    assert len(set(rows.tolist())) == 115


def test_rounding_favours_the_classes_with_the_largest_remainder():
    """0.3 of 13, 11 and 8 is 3.9, 3.3 and 2.4: 3 + 3 + 2 = 8 of round(9.6) = 10.

    The remainders are 0.9, 0.3 and 0.4, so the first and the third class give one more.
    """
    targets = np.repeat([0, 1, 2], [13, 11, 8])
    rows = draw_test_rows(targets, fraction=0.3, seed=0)
    assert np.bincount(targets[rows]).tolist() == [4, 3, 3]


def test_each_class_keeps_an_example_to_train_on():
    """0.99 of 2 and 1 is 1.98 and 0.99, round(2.97) = 3, but one of each class stays."""
    rows = draw_test_rows(np.array([0, 0, 1]), fraction=0.99, seed=0)
    assert len(rows) == 1
    assert rows[0] in (0, 1)


def test_targets_that_are_no_classes_are_drawn_from_at_random():
    rows = draw_test_rows(np.linspace(0, 1, 100), fraction=0.25, seed=0)
    assert len(set(rows.tolist())) == 25
    assert rows.max() - rows.min() > 25


def test_which_rows_are_drawn_depends_on_the_seed_alone():
    targets = np.arange(200) % 4
    rows = draw_test_rows(targets, fraction=0.5, seed=1).tolist()
    assert rows == draw_test_rows(targets, fraction=0.5, seed=1).tolist()
    assert set(rows) != set(draw_test_rows(targets, fraction=0.5, seed=2).tolist())


def test_every_row_is_as_likely_to_be_drawn():
    """A row is drawn with chance 1/2: in 400 draws 200 times, deviation 10; 5 of those are 50."""
    targets = np.arange(20) % 2
    times = np.zeros(20)
    for seed in range(400):
        times[draw_test_rows(targets, fraction=0.5, seed=seed)] += 1
    assert np.abs(times - 200).max() <= 50


def test_a_fraction_that_draws_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"test_fraction is 0\.01, which leaves no test example"):
        draw_test_rows(np.zeros(20, int), fraction=0.01, seed=0)


def test_holdout_counts_as_people_count():
    """0.29 * 100 is 28.999999999999996 in floats, but 29 examples were meant."""
    _, starts = hold_out(np.arange(100), np.array([0, 100]), fraction=0.29, seed=0)
    assert starts.tolist() == [71]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.floats(0, 0.999))
def test_rows_stay_with_their_client_and_one_is_left_to_train_on(sizes, fraction):
    offsets = np.cumsum([0, *sizes])
    rows = np.arange(offsets[-1])[::-1]
    shuffled, starts = hold_out(rows, offsets, fraction=fraction, seed=0)
    for client, size in enumerate(sizes):
        start, end = offsets[client], offsets[client + 1]
        assert sorted(shuffled[start:end]) == sorted(rows[start:end])
        assert start < starts[client] <= end
        assert abs((end - starts[client]) - fraction * size) <= 1


def test_which_examples_a_client_keeps_is_random():
    rows, starts = hold_out(np.arange(1000), np.array([0, 1000]), fraction=0.5, seed=0)
    kept = rows[starts[0] :]
    # A random half of 0..999 has mean 499.5, deviation 9.1 (finite population); 5 of those.
    assert abs(kept.mean() - 499.5) < 46
    assert sorted(kept.tolist()) != list(range(500, 1000))
