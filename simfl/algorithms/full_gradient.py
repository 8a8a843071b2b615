"""The gradient over all of a client's examples, which several algorithms send or keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from simfl.algorithms.algorithm import Local
from simfl.models import Batch, ModelFunction
from simfl.vector import Vector


def full_gradient(local: Local, weights: Vector) -> Vector:
    """Return the gradient of the mean loss over all of a client's examples, at some weights.

    It has the names of the trained weights, and in a stack the client axis. It costs one pass over
    the examples; a client without examples gets zeros.
    """
    sums = local.total(_summed_gradients, weights)
    is_stack = local.clients.dim() > 0
    return Vector(sums, stacked=is_stack) / local.num_examples.clamp(min=1)


def gradients_at(
    weights: Mapping[str, Tensor], *, model: ModelFunction, batch: Batch
) -> dict[str, Tensor]:
    """Return the gradients of the scenario's loss of a batch, of one client, for objectives.

    Args:
        weights: where; those of them that are trained have gradients.
        model: the client's.
        batch: some of its examples.
    """
    trained = {name: weights[name].detach() for name in model.model.trainable if name in weights}
    others = {name: weights[name].clone() for name in weights if name not in trained}
    beside = replace(model, constant={**model.constant, **others})
    if not model.is_mapped:
        trained = {name: tensor.requires_grad_() for name, tensor in trained.items()}
    with torch.enable_grad():
        found = model.gradients(lambda own: beside.loss(own, batch), trained)
    return {name: gradient.detach() for name, gradient in found.items()}


def _summed_gradients(
    model: ModelFunction, batch: Batch, weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the sum over a batch's examples of the gradients of their losses."""
    size = len(batch.targets)
    found = gradients_at(weights, model=model, batch=batch)
    return {name: gradient * size for name, gradient in found.items()}
