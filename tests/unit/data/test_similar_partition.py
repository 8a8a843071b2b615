"""Clients of a given similarity, as in section 7 of the SCAFFOLD paper."""

import itertools

import numpy as np
import pytest

from simfl.data import Similar
from simfl.errors import DataError

TARGETS = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 100))


def counts_by_client(similarity, clients=20):
    """Return the number of examples by client and class, and by client."""
    split = Similar(clients=clients, similarity=similarity).split(TARGETS, {}, seed=0)
    rows, offsets = split
    ends = itertools.pairwise(offsets)
    return np.array([np.bincount(TARGETS[rows[a:b]], minlength=10) for a, b in ends])


def test_without_similarity_clients_hold_the_examples_in_the_order_of_their_classes():
    """1,000 examples, 100 of each of 10 classes, for 20 clients: two hold a class."""
    expected = np.repeat(np.eye(10, dtype=int) * 50, 2, axis=0)
    assert np.array_equal(counts_by_client(0.0), expected)


def test_with_a_similarity_of_1_clients_hold_a_random_sample():
    """50 of 1,000 at random: a class is 5 of them on average, with a deviation of 2.1."""
    counts = counts_by_client(1.0)
    assert set(counts.sum(axis=1)) == {50}
    assert counts.max() <= 5 + 5 * 2.1
    assert counts.std() == pytest.approx(2.1, rel=0.2)


def test_a_tenth_of_a_client_is_random_and_the_rest_is_sorted():
    """Of 50 examples 5 are random; the other 45 are of one class, or of two where one ends.

    Of a class about 90 examples are sorted, so 45 lie in two or three clients.
    """
    counts = counts_by_client(0.1)
    assert set(counts.sum(axis=1)) == {50}
    largest_two = np.sort(counts, axis=1)[:, -2:].sum(axis=1)
    assert largest_two.min() >= 45
    assert largest_two.max() <= 50
    assert (counts > 0).sum(axis=1).min() >= 3


@pytest.mark.parametrize("similarity", [0.0, 0.01, 0.5, 0.97, 1.0])
@pytest.mark.parametrize("clients", [3, 7, 30, 999, 1000])
def test_sizes_differ_by_one_at_most(clients, similarity):
    sizes = counts_by_client(similarity, clients).sum(axis=1)
    assert sizes.min() >= 1
    assert np.ptp(sizes) <= 1


def test_targets_that_are_no_class_ids_are_refused_by_similarity():
    with pytest.raises(DataError, match="'similar' uses the class"):
        Similar(clients=2, similarity=0.5).split(np.zeros(100, np.float32), {}, seed=0)
