"""Shapes of outputs and targets, and weighted sums, for losses and metrics.

Shapes: B examples, ... the axes of one target (none, or the positions of a sequence), V classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from simfl.errors import ConfigError
from simfl.models.model import MetricSums

IGNORED: Final = -100
"""The target of positions that do not count, as in ``torch.nn.functional.cross_entropy``."""


def mean_over_axes(values: Tensor) -> Tensor:
    """Average over all axes but the first: [B, ...] to [B]."""
    return values if values.dim() == 1 else values.flatten(1).mean(dim=1)


def counted_positions(targets: Tensor) -> Tensor:
    """Return how many targets of each example count, those that are not -100: [B, ...] to [B]."""
    return (targets != IGNORED).reshape(len(targets), -1).sum(dim=1)


def mean_over_counted(values: Tensor, targets: Tensor) -> Tensor:
    """Average over the positions whose targets count; 0 if none does: [B, ...] to [B].

    Args:
        values: 0 at positions that do not count.
        targets: of the same shape.
    """
    if targets.dim() == 1:
        return values
    counts_B = counted_positions(targets).clamp(min=1)
    # A factor of 1 leaves the bits of a mean over all positions.
    return mean_over_axes(values) * (targets[0].numel() / counts_B).to(values.dtype)


def require_one_each(what: str, values: Any, targets: Tensor) -> Tensor:
    """Return the values if their shape is [B], for targets [B, ...].

    Raises:
        ConfigError: if it is not.
    """
    if not isinstance(values, Tensor) or values.shape != targets.shape[:1]:
        returned = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
        num = len(targets)
        is_mixed = isinstance(values, Tensor) and num > 1 and values.shape[:2] == (num, num)
        remedy = (
            "it broadcasts a column of outputs against a row of targets; squeeze(-1) the outputs"
            if is_mixed
            else "remove its mean or sum"
        )
        raise ConfigError(
            f"{what} returned {returned} for targets of shape {list(targets.shape)}; it must "
            f"return one number per example, shape [{num}]: {remedy}"
        )
    return values


def require_tensor(name: str, outputs: Any) -> Tensor:
    """Return the tensor that the module returned, or the ``logits`` of what it returned.

    Raises:
        ConfigError: if there is neither, with the type that it returned.
    """
    outputs = getattr(outputs, "logits", outputs)  # of a ModelOutput of transformers
    if not isinstance(outputs, Tensor):
        names = f" of {', '.join(map(repr, outputs))}" if isinstance(outputs, Mapping) else ""
        raise ConfigError(
            f"{name}: the model returned a {type(outputs).__name__}{names}, but one tensor is "
            "needed; wrap it in a module that returns its logits, or use a loss of kind python, "
            "which receives whatever the model returns"
        )
    return outputs


def is_elementwise(outputs: Tensor, targets: Tensor) -> bool:
    """Return whether there is one output per target; a last axis of length 1 is allowed."""
    return outputs.shape in (targets.shape, (*targets.shape, 1))


def match_shapes(name: str, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return outputs [B, ...] and targets [B, ...] of one shape and dtype.

    A last axis of length 1 that only the outputs have is dropped, since [B, 1] and [B] would
    broadcast to [B, B].

    Raises:
        ConfigError: unless the shapes match and the outputs are a tensor.
    """
    outputs = require_tensor(name, outputs)
    if not is_elementwise(outputs, targets):
        raise ConfigError(
            f"{name}: outputs of shape {list(outputs.shape)} do not fit targets of shape "
            f"{list(targets.shape)}; it needs one output per target, as from a model with "
            "outputs: 1"
        )
    return outputs.reshape(targets.shape), targets.to(outputs.dtype)


def match_classes(name: str, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return outputs [B, ..., V] and targets [B, ...] as int64.

    Raises:
        ConfigError: unless targets are integers, shapes match, and the outputs are a tensor.
    """
    outputs = require_tensor(name, outputs)
    if targets.is_floating_point():
        raise ConfigError(f"{name}: targets are {targets.dtype}, but classes must be integers")
    if outputs.shape[:-1] != targets.shape:
        raise ConfigError(
            f"{name}: outputs of shape {list(outputs.shape)} do not fit targets of shape "
            f"{list(targets.shape)}; it needs the targets' axes, then one of the classes"
        )
    return outputs, targets.long()


def weighted_mean(values_B: Tensor, sample_weights_B: Tensor | None) -> Tensor:
    """Return the mean over B of weight_i times value i, without normalising the weights."""
    return (values_B if sample_weights_B is None else values_B * sample_weights_B).mean()


def join_weights(sample_weights_B: Tensor | None, own_B: Tensor) -> Tensor:
    """Return the products of examples' weights: those of the batch, and those of their own."""
    return own_B if sample_weights_B is None else own_B * sample_weights_B.to(own_B.dtype)


def weighted_sums(values_B: Tensor, sample_weights_B: Tensor | None) -> tuple[float, float]:
    """Return the weighted sum of the values, and the sum of the weights."""
    # float64: sums over batches should not depend on where batches begin and end.
    values_B = values_B.double()
    if sample_weights_B is None:
        return values_B.sum().item(), float(len(values_B))
    weights_B = sample_weights_B.double()
    return (values_B * weights_B).sum().item(), weights_B.sum().item()


def sums_of_parts(
    values: Mapping[str, Tensor],
    sample_weights_B: Tensor | None,
    sizes: Sequence[int],
    own: Mapping[str, Tensor] | None = None,
) -> list[MetricSums]:
    """Return the weighted sums of the values [B] over each part of the examples.

    Args:
        values: by name, one number per example.
        sample_weights_B: [B]; None is 1 for all.
        sizes: the number of examples of each part, at least 1; their sum is B.
        own: by name, further weights of the examples, [B], of some of the values.
    """
    assert min(sizes) > 0, "an empty part has no sum here"
    # M values of an example, P parts. One transfer for all, if they are on a GPU.
    values_MB = torch.stack([value.double() for value in values.values()]).cpu()
    weights_B = torch.ones(values_MB.shape[1]) if sample_weights_B is None else sample_weights_B
    weights_B = weights_B.double().cpu()
    weights_MB = weights_B.repeat(len(values_MB), 1)
    for name, own_B in (own or {}).items():
        weights_MB[list(values).index(name)] *= own_B.double().cpu()
    begins = np.cumsum([0, *sizes[:-1]])
    sums_PM = np.add.reduceat((values_MB * weights_MB).numpy(), begins, axis=1).T.tolist()
    weights_PM = np.add.reduceat(weights_MB.numpy(), begins, axis=1).T.tolist()
    return [
        dict(zip(values, zip(sums_M, weights_M, strict=True), strict=True))
        for sums_M, weights_M in zip(sums_PM, weights_PM, strict=True)
    ]
