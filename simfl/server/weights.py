"""The server's weights, and how they take a step."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from simfl.models import TorchModel
from simfl.vector import Vector, widened


class ServerWeights:
    """The server's weights, behind the Model interface that its Optimizer updates.

    They are immutable: a step creates new ones, so that snapshots need no copy.

    Args:
        model: with the initial weights, which are not copied: it must not be trained.
        without: the names of those that the server lacks.
    """

    def __init__(self, model: TorchModel, *, without: Collection[str]) -> None:
        self.all = model.live_weights().without(without)
        self.trainable = tuple(name for name in model.trainable if name not in without)
        self.stepped = self.trainable
        """The trainable weights of the next step."""
        shared = [n for n in model.shared_names if n in self.all and n not in self.trainable]
        self._buffers = tuple(shared)
        self.counts = frozenset(n for n, t in self.all.items() if not t.is_floating_point())

    @property
    def like(self) -> Vector:
        """Numbers of the names, shapes and dtypes of trained weights in a delta."""
        return self.trained.map(widened)

    @property
    def trained(self) -> Vector:
        """The trainable weights; not a copy."""
        return self.all.select(self.trainable)

    @property
    def buffers(self) -> Vector:
        """The buffers that training changes; not a copy."""
        return self.all.select(self._buffers)

    def get_weights(self, trainable: bool = False) -> Vector:
        """Return a copy, since plug-ins receive it."""
        return self.all.select(self.stepped if trainable else self.all).clone()

    def compute_batch_gradients(self, batch: Any, max_norm: float | None = None) -> Vector:
        """Refuse: the server has no examples to train on."""
        raise AssertionError("the server has no examples to train on")

    def apply_updates(self, updates: Vector) -> None:
        """Add updates to the trainable weights."""
        self.apply_scaled_updates(updates, 1.0)

    def apply_scaled_updates(self, updates: Vector, scale: float) -> None:
        """Add scale times the updates to the trainable weights."""
        self.all = self.all | self._rounded(
            self.all.select(self.stepped).add_scaled(updates, scale)
        )

    def subtract_from_buffers(self, delta: Vector) -> None:
        """Subtract the mean delta of buffers, which are averaged without the optimizer."""
        averaged = {name: _averaged(self.all[name], value) for name, value in delta.items()}
        self.all = self.all | Vector(averaged)

    def _rounded(self, wide: Vector) -> Vector:
        """Convert the weights, which were updated in float32, back to their own dtypes."""
        return Vector({name: value.to(self.all[name].dtype) for name, value in wide.items()})


def _averaged(buffer: Tensor, delta: Tensor) -> Tensor:
    """Return the buffer minus the mean delta, in the buffer's dtype.

    Averaged counts, such as num_batches_tracked, are floats with a rounding error; from 2^52 on,
    float64 cannot represent the rounded count.
    """
    if buffer.is_floating_point():
        return (buffer - delta).to(buffer.dtype)
    counts = buffer.long()
    nearby = (counts - delta).round().long()
    exact = counts - delta.round().long()
    return torch.where(counts.abs() < 2**52, nearby, exact).to(buffer.dtype)
