"""Dirichlet and quantity skew, against their definitions."""

import numpy as np
import pytest

from simfl.data import Dirichlet, Quantity
from simfl.data.partition import fill_up
from simfl.errors import ConfigError, DataError


def counts(partition, targets, seed=0):
    """Return [clients, classes]."""
    rows, offsets = partition.split(targets, {}, seed=seed)
    owners = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    table = np.zeros((len(offsets) - 1, targets.max() + 1), int)
    np.add.at(table, (owners, targets[rows]), 1)
    return table


def test_shares_have_the_mean_and_variance_of_a_dirichlet_distribution():
    """With K clients a share is Beta(a, (K - 1) a): mean 1/K, variance (K-1) / (K^2 (K a + 1)).

    K = 5, a = 0.4: variance 4 / (25 * 3) = 0.05333. 2,000 classes of 100 examples give 10,000
    shares. The variance's own standard error is about sqrt((kurtosis - 1) / n) = 2%; rounding to
    hundredths adds at most 0.01^2 / 4. So 10% is five standard errors.
    """
    targets = np.repeat(np.arange(2000), 100)
    shares = counts(Dirichlet(clients=5, alpha=0.4), targets) / 100
    assert shares.mean() == pytest.approx(1 / 5)
    assert shares.var() == pytest.approx(4 / 75, rel=0.1)


def test_a_large_alpha_gives_every_client_the_same_share_of_each_class():
    """With a = 1e6 and K = 4 a share's standard deviation is sqrt(3 / (16 * 4e6)) = 0.0002.

    Of 1,000 examples that is 0.2, so counts are 250, give or take a rounding and 5 deviations.
    """
    table = counts(Dirichlet(clients=4, alpha=1e6), np.repeat(np.arange(10), 1000))
    assert np.abs(table - 250).max() <= 2


def test_a_tiny_alpha_gives_each_class_to_a_single_client():
    """With a = 1e-6 a class is shared by two clients about once in 10^5.

    The clients that no class went to are then given one example each.
    """
    table = counts(Dirichlet(clients=20, alpha=1e-6), np.repeat(np.arange(6), 500))
    assert (table.max(axis=0) >= 500 - 20).all()
    assert (np.sort(table.sum(axis=1))[:14] == 1).all()


def test_classes_smaller_than_the_population_are_spread_over_different_clients():
    """10 classes of 100 examples, 1,000 clients, equal shares of 0.1 example each.

    Rounded at random, a client gets of each class one example in ten cases, all classes together
    1 on average; were every class rounded alike, a tenth of the clients would hold all of them.
    Without a top-up (1 - 0.1)^10 = 35% of the clients would hold nothing, so at least half of
    them were dealt an example, and few hold many.
    """
    table = counts(Dirichlet(clients=1000, alpha=1e6), np.repeat(np.arange(10), 100))
    assert table.sum(axis=1).max() <= 8


def test_examples_that_fill_up_small_clients_come_from_those_that_can_spare_them():
    owners = np.array([0] * 7 + [1] * 2 + [2])
    filled = fill_up(owners, clients=4, min_examples=2, generator=np.random.default_rng(0))
    # Client 0 can spare 5: one goes to client 2, two to client 3; client 1 has just enough.
    assert np.bincount(filled).tolist() == [4, 2, 2, 2]
    assert (filled[7:] == [1, 1, 2]).all()


def test_fill_up_leaves_a_split_alone_that_has_the_minimum():
    owners = np.array([0, 1, 1, 0])
    filled = fill_up(owners, clients=2, min_examples=2, generator=np.random.default_rng(0))
    assert filled is owners


def test_quantity_sizes_have_the_variance_of_a_dirichlet_distribution():
    """K = 2,000 clients, a = 2: a share's variance is (K-1) / (K^2 (2K+1)), about 1 / (2 K^2).

    Of 1,000,000 examples the sizes have mean 500 and variance 500^2 / 2. Sizes are nearly
    Gamma(2), whose kurtosis is 6, so the variance is known to sqrt(5 / 2000) = 5%.
    """
    partition = Quantity(clients=2000, alpha=2.0)
    _, offsets = partition.split(np.zeros(1_000_000, np.int64), {}, seed=0)
    assert np.diff(offsets).mean() == 500
    assert np.diff(offsets).var() == pytest.approx(125_000, rel=0.2)


def test_quantity_leaves_the_mix_of_classes_alone():
    """A client of n examples, half of them class 1, strays from n/2 by 5 sqrt(n)/2 at most."""
    table = counts(Quantity(clients=20, alpha=1.0), np.arange(50_000) % 2)
    sizes = table.sum(axis=1)
    assert (np.abs(table[:, 1] - sizes / 2) <= 2.5 * np.sqrt(sizes)).all()


def test_quantity_takes_targets_that_are_no_classes():
    rows, _ = Quantity(clients=3, alpha=1.0).split(np.zeros((30, 2), np.float32), {}, seed=0)
    assert len(rows) == 30


@pytest.mark.parametrize(
    "targets", [np.zeros(9, np.float32), np.zeros((9, 2), np.int64)], ids=["float", "two axes"]
)
def test_targets_that_are_no_class_ids_are_refused(targets):
    with pytest.raises(DataError, match="uses the class of each example, but the targets are"):
        Dirichlet(clients=3, alpha=1.0).split(targets, {}, seed=0)


def test_class_ids_may_have_gaps_and_be_negative():
    targets = np.array([-5, 1_000_000_000, 7] * 10)
    rows, _ = Dirichlet(clients=3, alpha=1.0).split(targets, {}, seed=0)
    assert sorted(rows.tolist()) == list(range(30))


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("cls", [Dirichlet, Quantity])
def test_a_concentration_that_is_no_positive_number_is_refused(cls, alpha):
    with pytest.raises(ConfigError, match=f"alpha is {alpha}"):
        cls(clients=2, alpha=alpha)
