"""The gradient over all of a client's examples, which several algorithms send or keep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.func import grad

from simfl.algorithms.algorithm import Local
from simfl.models import Batch
from simfl.vector import Vector


def full_gradient(local: Local, weights: Vector) -> Vector:
    """Return the gradient of the mean loss over all of a client's examples, at some weights.

    It has the names of the trained weights, and in a stack the client axis. It costs one pass over
    the examples; a client without examples gets zeros.
    """
    sums = local.total(_summed_gradients, weights)
    is_stack = local.clients.dim() > 0
    return Vector(sums, stacked=is_stack) / local.num_examples.clamp(min=1)


def _summed_gradients(model: Any, batch: Batch, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the sum over a batch's examples of the gradients of their losses."""
    trained = {name: weights[name] for name in model.model.trainable if name in weights}

    def loss(trained: dict[str, Tensor]) -> Tensor:
        total: Tensor = model.loss({**weights, **trained}, batch) * len(batch.targets)
        return total

    gradients: dict[str, Tensor] = grad(loss)(trained)
    return gradients
