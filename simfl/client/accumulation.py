"""Gradient accumulation: the gradients of a step's micro-batches, added up to the batch's.

Shapes: A clients of a stack, B examples of a batch, M of a micro-batch. Without a stack, there is
no axis A.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from simfl.algorithms import Algorithm
from simfl.errors import ConfigError
from simfl.models import Batch, Loss
from simfl.models.model import take_examples
from simfl.models.per_example import join_weights
from simfl.vector import Scalar, Vector


class MicroBatch(NamedTuple):
    """Some of the examples of a step."""

    batch: Batch
    """[M, ...] or [A, M, ...]."""
    before: int
    """How many of the step's examples come before."""
    size: int
    """M."""
    share: Scalar
    """What its mean counts for in the whole batch's; [A] if clients differ."""


def micro_batches(batch: Batch, size: int, loss: Loss, *, stacked: bool) -> Iterator[MicroBatch]:
    """Cut a batch into micro-batches.

    Args:
        batch: [B, ...], or [A, B, ...] for a stack.
        size: M; the last one may have fewer.
        loss: gives the weights of the examples in a mean.
        stacked: whether there is an axis A.
    """
    num_examples = batch.targets.shape[1 if stacked else 0]
    weights = _weights(batch, loss, stacked=stacked)
    for before in range(0, num_examples, size):
        which = slice(before, before + size)
        part = take_examples(batch, (slice(None), which) if stacked else which)
        own = min(size, num_examples - before)
        share: Scalar = own / num_examples
        if weights is not None:
            total = weights.sum(dim=-1)
            share = weights[..., which].sum(dim=-1) / torch.where(total > 0, total, 1.0)
        yield MicroBatch(part, before, own, share)


def accumulated(
    parts: Iterator[MicroBatch], differentiate: Callable[[MicroBatch], tuple[Tensor, Vector]]
) -> tuple[Tensor, Vector]:
    """Return the loss of a whole batch, and its gradients.

    Args:
        parts: of the batch.
        differentiate: returns the loss of a micro-batch, and its gradients.
    """

    def scaled(part: MicroBatch) -> tuple[Tensor, Vector]:
        loss, gradients = differentiate(part)
        share = part.share.to(loss.dtype) if isinstance(part.share, Tensor) else part.share
        return loss * share, gradients * share

    def add(so_far: tuple[Tensor, Vector], own: tuple[Tensor, Vector]) -> tuple[Tensor, Vector]:
        return so_far[0] + own[0], so_far[1].add_(own[1])

    return reduce(add, map(scaled, parts))


def require_mean_objective(algorithm: Algorithm, loss: Loss) -> None:
    """Check that an algorithm's objective can be computed in micro-batches.

    Raises:
        ConfigError: if it may be no mean over the batch, or is one of two means.
    """
    what = f"client.accumulate cuts batches, but the objective of algorithm {algorithm.name!r}"
    if algorithm.objective_over is None:
        raise ConfigError(
            f"{what} may depend on a batch as a whole; remove accumulate, or say with "
            "objective_over in its class that it is a mean over the examples"
        )
    if algorithm.objective_over == "examples" and loss.mixes_weights:
        raise ConfigError(
            f"{what} is a mean over examples, and model.loss {loss.name!r} weighs them; remove "
            "accumulate, or set over: examples"
        )


def _weights(batch: Batch, loss: Loss, *, stacked: bool) -> Tensor | None:
    """Return the examples' weights in a mean, [B] or [A, B]; None if all weigh the same."""
    targets = batch.targets
    own = loss.example_weights(targets.flatten(0, 1) if stacked else targets)
    if own is None:
        return None
    own = own.reshape(targets.shape[: 2 if stacked else 1]).double()
    return join_weights(batch.sample_weights, own)
