"""Modules that bound the norm of the gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from simfl.component import Positive
from simfl.optimizer.plugin import Context, OptiModule, State
from simfl.vector import Vector


@dataclass(frozen=True)
class L2Clipping(OptiModule):
    """Scale each tensor to an L2 norm of at most ``max_norm``.

    Step: per tensor, out g · min(max_norm / ‖g‖, 1); a null gradient stays null.
    """

    name: ClassVar[str] = "l2-clipping"
    takes_read_only: ClassVar[bool] = True
    keeps_nothing: ClassVar[bool] = True

    max_norm: Positive = 1.0
    """The largest norm a tensor may have."""

    def update(self, gradients: Vector, state: State, context: Context) -> tuple[Vector, State]:
        """Return the clipped gradients; there is no state."""
        norms = gradients.norms()
        clipped = {
            name: tensor * _beside(_factor(norms[name], self.max_norm), tensor)
            for name, tensor in gradients.items()
        }
        return Vector(clipped, stacked=gradients.stacked), state


@dataclass(frozen=True)
class L2GlobalClipping(OptiModule):
    """Scale all tensors by one factor, to an L2 norm of at most ``max_norm`` over all of them.

    Step: out g · min(max_norm / ‖g‖, 1); null gradients stay null.

    Source: Pascanu et al., 2013, Algorithm 1, https://arxiv.org/abs/1211.5063
    """

    name: ClassVar[str] = "l2-global-clipping"
    takes_read_only: ClassVar[bool] = True
    keeps_nothing: ClassVar[bool] = True

    max_norm: Positive = 1.0
    """The largest norm that all tensors together may have."""

    def update(self, gradients: Vector, state: State, context: Context) -> tuple[Vector, State]:
        """Return the clipped gradients; there is no state."""
        return gradients * _factor(gradients.norm(), self.max_norm), state


def _factor(norm: Tensor, max_norm: float) -> Tensor:
    # A norm of zero gives infinity, hence 1: null gradients need no case of their own.
    return (max_norm / norm).clamp(max=1.0)


def _beside(factor: Tensor, tensor: Tensor) -> Tensor:
    return factor.reshape(factor.shape + (1,) * (tensor.dim() - factor.dim()))
