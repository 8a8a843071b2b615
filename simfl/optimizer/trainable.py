"""The part of a model that an Optimizer works on."""

from __future__ import annotations

from typing import Any, Protocol

from simfl.vector import Vector


class TrainableModel(Protocol):
    """What an Optimizer needs of a model.

    One that also has ``apply_scaled_updates(updates, scale)``, which adds scale times the updates,
    is updated in one pass over its weights.
    """

    def get_weights(self, trainable: bool = False) -> Vector:
        """Return a copy of the weights."""

    def compute_batch_gradients(self, batch: Any, max_norm: float | None = None) -> Vector:
        """Return the gradients of the trainable weights."""

    def apply_updates(self, updates: Vector) -> None:
        """Add the updates to the trainable weights."""
