"""Federated k-means, EM and histograms against scikit-learn and numpy on the pooled examples."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import sklearn.cluster
import sklearn.mixture
import torch
from torch import nn

from simfl.algorithms import ExpectationMaximization, Histograms, KMeans
from simfl.models import Centers, GaussianMixture, Histogram, data_shape
from tests.unit.algorithms.federation import Federation, Linear64, least_squares

RNG = np.random.default_rng(0)
CENTRES = RNG.normal(size=(3, 2)) * 3
CLIENTS = [
    ((CENTRES[RNG.integers(3, size=n)] + RNG.normal(size=(n, 2))).astype(np.float32), np.zeros(n))
    for n in (20, 7, 13, 31)
]
POOLED = np.concatenate([x for x, _ in CLIENTS]).astype(np.float64)
SHAPE = data_shape(POOLED.astype(np.float32), np.zeros(len(POOLED), np.float32))
STACKS = pytest.mark.parametrize("stack", [1, 4])


def in_float64(spec: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module: nn.Module = spec.build(SHAPE)
    return module.double()


def federation(algorithm: Any, module: nn.Module, stack: int) -> Federation:
    return Federation(algorithm, CLIENTS, module, loss="output", stack=stack)


@STACKS
def test_k_means_is_lloyds_algorithm_on_the_pooled_examples(stack: int) -> None:
    module = in_float64(Centers(clusters=4, spread=3.0))
    fed = federation(KMeans(), module, stack)
    start = module.centers.detach().numpy().copy()
    for rounds in (1, 2, 3):
        fed.run()
        expected = sklearn.cluster.KMeans(
            4, init=start, n_init=1, max_iter=rounds, tol=0.0, algorithm="lloyd"
        ).fit(POOLED)
        np.testing.assert_allclose(
            fed.weights["centers"], expected.cluster_centers_, rtol=0, atol=1e-10
        )
    inertia = fed.host._model.evaluate(fed.host._read(np.arange(len(POOLED))))["loss"]  # type: ignore[attr-defined]
    assert inertia[1] == len(POOLED)


@STACKS
def test_a_centre_without_examples_stays(stack: int) -> None:
    module = in_float64(Centers(clusters=2))
    module.centers.data = torch.tensor([[0.0, 0.0], [1e6, 1e6]], dtype=torch.float64)
    fed = federation(KMeans(), module, stack).run()
    found = fed.weights["centers"].numpy()
    np.testing.assert_allclose(found, [POOLED.mean(axis=0), [1e6, 1e6]], rtol=1e-12)


@STACKS
def test_em_is_scikit_learns_on_the_pooled_examples(stack: int) -> None:
    module = in_float64(GaussianMixture(clusters=3, spread=2.0))
    start = module.means.detach().numpy().copy()
    fed = federation(ExpectationMaximization(floor=1e-6), module, stack)
    for rounds in (1, 2, 5):
        fed.run(rounds - fed.snapshot.broadcast.round + 1)
        expected = sklearn.mixture.GaussianMixture(
            3,
            covariance_type="diag",
            weights_init=np.full(3, 1 / 3),
            means_init=start,
            precisions_init=np.ones((3, 2)),
            reg_covar=1e-6,
            tol=0.0,
            max_iter=rounds,
        )
        with warnings.catch_warnings():  # that it has not converged
            warnings.simplefilter("ignore")
            expected.fit(POOLED)
        np.testing.assert_allclose(fed.weights["shares"], expected.weights_, rtol=0, atol=1e-10)
        np.testing.assert_allclose(fed.weights["means"], expected.means_, rtol=0, atol=1e-10)
        np.testing.assert_allclose(
            fed.weights["variances"], expected.covariances_, rtol=0, atol=1e-10
        )
    loss = fed.host._model.module
    loss.load_state_dict(dict(fed.weights.items()))
    log_likelihood = -loss(torch.from_numpy(POOLED.astype(np.float32))).mean()
    assert log_likelihood.item() == pytest.approx(expected.score(POOLED), abs=1e-10)


@STACKS
def test_em_in_float32_finds_small_variances_far_from_0(stack: int) -> None:
    """The squares of inputs are 10^6, and their variances 10^-2: less than float32 tells apart."""
    far = [((x / 20 + 1000).astype(np.float32), y) for x, y in CLIENTS]
    with torch.random.fork_rng(devices=[]):
        module: Any = GaussianMixture(clusters=1).build(SHAPE)
    module.means.data += 1000.0
    options: Any = {"loss": "output", "stack": stack, "dtype": "float32"}
    fed = Federation(ExpectationMaximization(), far, module, **options).run()
    expected = np.concatenate([x for x, _ in far]).astype(np.float64).var(axis=0)
    np.testing.assert_allclose(fed.weights["variances"][0], expected, rtol=1e-3)


@STACKS
def test_histograms_are_numpys_on_the_pooled_examples(stack: int) -> None:
    module = in_float64(Histogram(bins=7, low=-4.0, high=4.0))
    fed = federation(Histograms(), module, stack).run()
    inside = np.clip(POOLED, -4.0, 4.0 - 1e-9)
    for feature in (0, 1):
        counts, _ = np.histogram(inside[:, feature], bins=7, range=(-4.0, 4.0))
        found = fed.weights["bin_shares"][feature]
        np.testing.assert_allclose(found, counts / len(POOLED), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("algorithm", "model"),
    [
        (KMeans(), "centers"),
        (ExpectationMaximization(), "gaussian-mixture"),
        (Histograms(), "histogram"),
    ],
    ids=repr,
)
def test_another_model_is_refused(algorithm: Any, model: str) -> None:
    fed = Federation(algorithm, least_squares(), Linear64(3))
    with pytest.raises(Exception, match=f"is for model.kind: {model}; choose this model"):
        fed.run()
