"""Models small enough to follow by hand."""

from collections.abc import Mapping

import torch

from simfl.vector import Vector


class Quadratic:
    """A model whose loss is curvature / 2 · ‖w - optimum‖², whatever the batch is."""

    def __init__(
        self, weights: Mapping[str, list[float]], *, curvature: float = 1.0, optimum: float = 0.0
    ) -> None:
        self.weights = Vector({name: torch.tensor(value) for name, value in weights.items()})
        self.curvature = curvature
        self.optimum = optimum
        self.num_reads = 0
        self.max_norms: list[float | None] = []

    def get_weights(self, trainable: bool = False) -> Vector:
        assert trainable, "frozen weights and buffers take no part in a step"
        self.num_reads += 1
        return self.weights.clone()

    def compute_batch_gradients(self, batch: object, max_norm: float | None = None) -> Vector:
        self.max_norms.append(max_norm)
        return (self.weights - self.optimum) * self.curvature

    def apply_updates(self, updates: Vector) -> None:
        self.weights = self.weights + updates


def vector(**tensors: list[float] | float) -> Vector:
    return Vector({name: torch.tensor(value) for name, value in tensors.items()})
