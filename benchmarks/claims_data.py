"""The data of ``claims.py`` that no source of simfl has, and an optimum to compare with."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from simfl.data import Examples, FederatedDataset, SourceData

Array = np.ndarray[Any, Any]


def planted(draw: int, clients: int = 20) -> SourceData:
    """Return digits in random order; half of the clients call class y by 9 - y."""
    inputs, targets = load_digits(return_X_y=True)
    order = np.random.default_rng(draw).permutation(len(inputs))
    owner = np.arange(len(inputs)) % clients
    targets = np.where(owner % 2 == 0, targets[order], 9 - targets[order])
    return _source(inputs[order] / 16, targets, owner)


def lookalikes(draw: int, size: int = 600, features: int = 20) -> SourceData:
    """Return three normal classes, a client each, of which class 1 lies between the others.

    So it is the hardest, as the shirts are among Fashion MNIST's T-shirts, pullovers and shirts.
    """
    rng = np.random.default_rng(draw)
    targets = np.arange(3 * size) % 3
    centres = np.zeros((3, features))
    centres[:, :2] = [-1.5, 0.0], [0.0, 0.5], [1.5, 0.0]
    return _source(centres[targets] + rng.normal(size=(3 * size, features)), targets, targets)


def two_domains(draw: int, sizes: tuple[int, int] = (2000, 200), features: int = 10) -> SourceData:
    """Return a large client and a small one: classes are the sign of x_0 there, of x_1 here.

    The scores have noise. No linear model is right for both, nor is one for Adult's two domains.
    """
    rng = np.random.default_rng(draw)
    owner = np.repeat([0, 1], sizes)
    inputs = rng.normal(size=(len(owner), features))
    scores = inputs[np.arange(len(owner)), owner] + 0.5 * rng.normal(size=len(owner))
    return _source(inputs, scores > 0, owner)


def _source(inputs: Array, targets: Array, owner: Array) -> SourceData:
    examples = Examples(inputs.astype(np.float32), targets.astype(np.int64))
    return SourceData(examples, columns={"client": owner})


def optimum(data: FederatedDataset, by: Array, *, ridge: float) -> Array:
    """Return logistic regression's optimum for the mean of the clients' losses, from scikit-learn.

    Args:
        data: the clients' examples.
        by: [clients] what the mean is weighted by.
        ridge: the strength of the squared norm of weights and biases, as in ``ridge``.

    Returns:
        [classes, features + 1]: weights and biases.
    """
    inputs, targets = np.asarray(data.train.inputs), np.asarray(data.train.targets)
    columns = np.hstack([inputs.reshape(len(inputs), -1), np.ones((len(inputs), 1))])
    weights = np.zeros(len(inputs))
    for client in range(data.num_clients):
        rows = data.train_rows(client)
        weights[rows] = by[client] / by.sum() / len(rows)
    model = LogisticRegression(C=0.5 / ridge, fit_intercept=False, tol=1e-8, max_iter=10_000)
    found: Array = model.fit(columns.astype(np.float64), targets, sample_weight=weights).coef_
    return found
