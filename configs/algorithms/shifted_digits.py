"""The data and the network of fedbn.yaml: digits as other scanners see them, and BatchNorm."""

from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from torch import nn


def scanned(clients: int, seed: int) -> dict[str, Any]:
    """Return the arrays of an npz source: each client's images have a contrast and a brightness."""
    rng = np.random.default_rng(seed)
    digits = load_digits()
    client = rng.permutation(np.arange(len(digits.target)) % clients)
    contrast = rng.uniform(0.3, 3.0, clients)
    brightness = rng.uniform(-2.0, 2.0, clients)
    images = digits.data / 16 * contrast[client, None] + brightness[client, None]
    return {"inputs": images.astype(np.float32), "targets": digits.target, "client": client}


def network(hidden: int) -> nn.Module:
    """Return a network whose hidden units are normalised over the batch."""
    return nn.Sequential(
        nn.Linear(64, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, 10)
    )
