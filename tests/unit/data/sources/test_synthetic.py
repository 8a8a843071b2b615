"""Synthetic(alpha, beta), against section 5.1 of the FedProx paper."""

import numpy as np
import pytest

from simfl.data import Synthetic
from simfl.errors import ConfigError

FIXED = {"size_log_mean": -50.0, "size_log_std": 0.0}
"""Nothing beyond min_examples."""


def inputs_of_clients(source, seed=0):
    data = source.load(seed=seed)
    owners = data.columns["client"]
    return [data.train.inputs[owners == client] for client in range(source.clients)]


def test_inputs_have_the_shape_and_classes_of_the_paper():
    data = Synthetic().load(seed=0)
    assert data.train.inputs.shape[1] == 60
    assert data.train.inputs.dtype == np.float32
    assert data.train.targets.dtype == np.int64
    assert set(data.train.targets.tolist()) <= set(range(10))
    assert sorted(set(data.columns["client"].tolist())) == list(range(30))


def test_inputs_of_a_client_have_the_variances_of_the_paper_and_no_covariances():
    """S_jj = j^-1.2. A variance of n = 40,000 normal numbers is known to sqrt(2/n) = 0.7%.

    A correlation of independent numbers is 0, give or take 1/sqrt(n) = 0.005.
    """
    (inputs,) = inputs_of_clients(Synthetic(clients=1, min_examples=40_000, **FIXED))
    variances = np.arange(1, 61) ** -1.2
    np.testing.assert_allclose(inputs.var(axis=0), variances, rtol=0.04)
    correlations = np.corrcoef(inputs.T) - np.eye(60)
    assert np.abs(correlations).max() < 0.03


def test_means_of_inputs_differ_between_clients_by_beta_and_within_one_by_1():
    """v_kj = B_k + N(0, 1), B_k ~ N(0, beta): over j the variance is 1, that of the mean
    over j is beta^2 + 1/60. With beta = 3 and 400 clients it is 9.017, known to sqrt(2/400) = 7%.
    """
    source = Synthetic(clients=400, beta=3.0, min_examples=200, **FIXED)
    means = np.array([inputs.mean(axis=0) for inputs in inputs_of_clients(source)])
    assert means.mean(axis=1).var() == pytest.approx(9 + 1 / 60, rel=0.3)
    # Of the 400 * 60 = 24,000 means: 5 standard errors are 5%. A mean of 200 examples adds 1/200.
    assert means.var(axis=1, ddof=1).mean() == pytest.approx(1, rel=0.06)


def test_alpha_moves_all_weights_of_a_client_alike_and_so_leaves_its_classes_alone():
    """W = u + Z and b = u + z, with one u per client: u adds the same to every class's score.

    So with the same draws argmax(x W + b) does not depend on alpha.
    """
    one = Synthetic(clients=10, alpha=0.0, **FIXED).load(seed=0)
    other = Synthetic(clients=10, alpha=1.0, **FIXED).load(seed=0)
    assert np.array_equal(one.train.inputs, other.train.inputs)
    assert np.array_equal(one.train.targets, other.train.targets)


def test_iid_clients_share_one_linear_model_and_one_distribution():
    """With one feature argmax(x W + b) is piecewise constant in x: one interval for each class.

    If all clients have the same W and b, the intervals are the same for all.
    """
    data = Synthetic(clients=20, iid=True, features=1, min_examples=1000, **FIXED).load(seed=0)
    order = np.argsort(data.train.inputs[:, 0])
    changes = (np.diff(data.train.targets[order]) != 0).sum()
    # The maximum of 10 lines has at most 10 pieces.
    assert changes <= 9
    # The mean of 20,000 inputs of variance 1: five standard errors are 5 / sqrt(20000) = 0.035.
    assert abs(data.train.inputs.mean()) < 0.036


def test_clients_that_are_not_iid_have_models_of_their_own():
    data = Synthetic(clients=20, features=1, min_examples=1000, **FIXED).load(seed=0)
    order = np.argsort(data.train.inputs[:, 0])
    assert (np.diff(data.train.targets[order]) != 0).sum() > 9


def test_sizes_are_log_normal_above_the_minimum():
    """log of the part beyond 50 is N(4, 2): its median is e^4 = 54.6, and 16% are under e^2 = 7.4.

    With 2,000 clients the share under the median is 0.5, give or take 5 * 0.011.
    """
    source = Synthetic(clients=2000, features=1, classes=2, max_examples=5000)
    beyond = np.bincount(source.load(seed=0).columns["client"]) - 50
    assert beyond.min() >= 0
    assert (beyond < 54.6).mean() == pytest.approx(0.5, abs=0.06)
    assert (beyond < 7.4).mean() == pytest.approx(0.1587 + 0.01, abs=0.05)  # rounded down
    assert beyond.max() == 4950


def test_a_client_is_the_same_in_a_larger_population():
    small = Synthetic(clients=3).load(seed=5)
    large = Synthetic(clients=6).load(seed=5)
    n = len(small.train)
    assert np.array_equal(small.train.inputs, large.train.inputs[:n])
    assert np.array_equal(small.train.targets, large.train.targets[:n])


def test_another_seed_gives_other_examples():
    one = Synthetic(clients=1, **FIXED).load(seed=0).train.inputs
    assert np.array_equal(one, Synthetic(clients=1, **FIXED).load(seed=0).train.inputs)
    assert not np.array_equal(one, Synthetic(clients=1, **FIXED).load(seed=1).train.inputs)


def test_a_maximum_below_the_minimum_is_refused():
    with pytest.raises(ConfigError, match="max_examples is 9, less than min_examples, 50"):
        Synthetic(max_examples=9)
