"""Shards of examples sorted by class."""

import itertools

import numpy as np
import pytest

from simfl.data import Shards
from simfl.errors import ConfigError, DataError


def labels_per_client(partition, targets, seed=0):
    rows, offsets = partition.split(targets, {}, seed=seed)
    return [
        len(set(targets[rows[start:end]].tolist())) for start, end in itertools.pairwise(offsets)
    ]


def test_two_shards_of_the_paper_hold_two_classes_at_most():
    """McMahan et al. cut 60,000 images, 6,000 of each class, into 200 shards of 300.

    The same in small: 6,000 examples, 600 of each class, 200 shards of 30. A class is 20 whole
    shards, so each shard has one class and each of 100 clients two at most.
    """
    targets = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 600))
    partition = Shards(clients=100)
    _, offsets = partition.split(targets, {}, seed=0)
    labels = labels_per_client(partition, targets)

    assert set(np.diff(offsets)) == {60}
    assert max(labels) == 2
    # A second shard of the first one's class is drawn 19 times in 199: about 10 clients of 100.
    assert 2 <= labels.count(1) <= 25


def test_a_shard_in_which_a_class_ends_adds_one_class():
    """7 classes of 100 examples in 30 shards of 23 or 24: a shard spans two classes at most."""
    targets = np.repeat(np.arange(7), 100)
    assert max(labels_per_client(Shards(clients=10, shards_per_client=3), targets)) <= 6
    assert max(labels_per_client(Shards(clients=30, shards_per_client=1), targets)) == 2


def test_sizes_differ_by_one_example_per_shard_at_most():
    _, offsets = Shards(clients=7, shards_per_client=3).split(np.arange(1000) % 10, {}, seed=0)
    # 1000 = 21 shards of 47 or 48
    assert np.diff(offsets).min() >= 3 * 47
    assert np.diff(offsets).max() <= 3 * 48


def test_the_examples_of_a_class_are_dealt_out_at_random():
    targets = np.zeros(100, np.int64)
    rows, offsets = Shards(clients=2, shards_per_client=1).split(targets, {}, seed=0)
    first = sorted(rows[: offsets[1]].tolist())
    assert first not in (list(range(50)), list(range(50, 100)))


def test_more_shards_than_examples_are_refused():
    with pytest.raises(ConfigError) as caught:
        Shards(clients=50, shards_per_client=4).split(np.zeros(100, np.int64), {}, seed=0)
    assert str(caught.value) == (
        "data.partition.shards_per_client is 4, which makes 200 shards for 50 clients, but there "
        "are 100 training examples; lower it or data.partition.clients"
    )


def test_targets_that_are_no_class_ids_are_refused_by_shards():
    with pytest.raises(DataError, match="'shards' uses the class"):
        Shards(clients=2).split(np.zeros(100, np.float32), {}, seed=0)
