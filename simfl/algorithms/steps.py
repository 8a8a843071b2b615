"""Steps of gradient descent, for algorithms that take their own (``Local.scan``)."""

from __future__ import annotations

from simfl.algorithms.algorithm import Number
from simfl.vector import Vector


def descend(weights: Vector, gradients: Vector, rate: Number) -> Vector:
    """Return weights - rate * gradients; buffers, which have no gradients, stay as they are."""
    return weights | (weights.select(gradients.names) - gradients * rate)
