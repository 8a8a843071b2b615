"""Transforms that bound an update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from simfl.component import Positive
from simfl.states import State
from simfl.transforms.transform import UpdateContext, UpdateTransform
from simfl.vector import Vector


@dataclass(frozen=True)
class Clip(UpdateTransform):
    """Scale a client's update to an L2 norm of at most ``max_norm``.

    out u · min(max_norm / ‖u‖, 1), by the norm over all tensors together; an update of zeros stays
    as it is.

    Source: McMahan et al., 2018, FlatClip in Algorithm 1, https://arxiv.org/abs/1710.06963
    """

    name: ClassVar[str] = "clip"
    takes_read_only: ClassVar[bool] = True

    max_norm: Positive = 1.0
    """The largest norm that an update may have."""

    def apply(self, update: Vector, state: State, context: UpdateContext) -> tuple[Vector, State]:
        """Return the clipped update; there is no state."""
        # In float64, in which the squares of large numbers do not overflow. A norm of zero gives
        # infinity, hence 1.
        norm = update.map(torch.Tensor.double).norm()
        return update * (self.max_norm / norm).clamp(max=1.0), state
