"""Terms of the loss that depend on the weights alone, added as gradients.

In this file g are gradients and w the trainable weights before the step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from simfl.component import NonNegative
from simfl.optimizer.plugin import Context, Regularizer, State
from simfl.vector import Vector


@dataclass(frozen=True)
class FedProx(Regularizer):
    """Pull the weights towards those that the round began with.

    Step: out g + alpha (w - ref), ref being w at the first step since ``start_round``. It is the
    gradient of alpha/2 ‖w - ref‖².

    Source: Li et al., 2020, equation 2, with mu = alpha, https://arxiv.org/abs/1812.06127
    """

    name: ClassVar[str] = "fedprox"
    takes_read_only: ClassVar[bool] = True
    keeps_nothing: ClassVar[bool] = True

    alpha: NonNegative = 0.01
    """The strength, mu in the paper."""

    def update(
        self, gradients: Vector, weights: Vector, state: State, context: Context
    ) -> tuple[Vector, State]:
        """Return the gradients with the proximal term, and keep ref."""
        reference = state.get("reference", weights)
        return gradients + (weights - reference).mul_(self.alpha), {"reference": reference}

    def start_round(self, state: State) -> State:
        """Forget ref: the next step's weights are the new one."""
        return {}

    def between_rounds(self, state: State) -> State:
        """Keep nothing."""
        return {}


@dataclass(frozen=True)
class Lasso(Regularizer):
    """Add the gradient of the L1 norm.

    Step: out g + alpha sign(w), with sign(0) = 0. It is the gradient of alpha ‖w‖₁.
    """

    name: ClassVar[str] = "lasso"
    takes_read_only: ClassVar[bool] = True
    keeps_nothing: ClassVar[bool] = True

    alpha: NonNegative = 0.01
    """The strength."""

    def update(
        self, gradients: Vector, weights: Vector, state: State, context: Context
    ) -> tuple[Vector, State]:
        """Return the gradients with the L1 term; there is no state."""
        return gradients + weights.sign().mul_(self.alpha), state


@dataclass(frozen=True)
class Ridge(Regularizer):
    """Add the gradient of the squared L2 norm.

    Step: out g + 2 alpha w. It is the gradient of alpha ‖w‖².
    """

    name: ClassVar[str] = "ridge"
    takes_read_only: ClassVar[bool] = True
    keeps_nothing: ClassVar[bool] = True

    alpha: NonNegative = 0.01
    """The strength; half of what ``torch.optim`` calls weight decay."""

    def update(
        self, gradients: Vector, weights: Vector, state: State, context: Context
    ) -> tuple[Vector, State]:
        """Return the gradients with the L2 term; there is no state."""
        return gradients + weights * (2.0 * self.alpha), state
