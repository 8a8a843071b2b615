"""Modules that average gradients over time.

In this file g are the gradients a module is given, and t = 1, 2, ... counts steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from simfl.component import Fraction
from simfl.optimizer.plugin import Context, OptiModule, State
from simfl.vector import Vector


@dataclass(frozen=True)
class Momentum(OptiModule):
    """Momentum, optionally Nesterov's.

    Init: v = 0. Step: v = beta v + g; out v, or with ``nesterov`` beta v + g.

    Source: Sutskever et al., 2013, equations 1 to 4, in the form of ``torch.optim.SGD``,
    https://proceedings.mlr.press/v28/sutskever13.html
    """

    name: ClassVar[str] = "momentum"
    takes_read_only: ClassVar[bool] = True

    beta: Fraction = 0.9
    """How much of the previous velocity stays."""
    nesterov: bool = False
    """Look one step ahead."""

    def init(self, like: Vector) -> State:
        """Return a velocity of zero."""
        return {"velocity": like.zeros_like()}

    def update(self, gradients: Vector, state: State, context: Context) -> tuple[Vector, State]:
        """Return the velocity, and keep it."""
        velocity = (state["velocity"] * self.beta).add_(gradients)
        out = (velocity * self.beta).add_(gradients) if self.nesterov else velocity
        return out, {"velocity": velocity}


@dataclass(frozen=True)
class Ewma(OptiModule):
    """Exponentially weighted moving average of the gradients.

    Init: s = 0. Step: s = beta s + (1 - beta) g; out s.
    """

    name: ClassVar[str] = "ewma"
    takes_read_only: ClassVar[bool] = True

    beta: Fraction = 0.9
    """The weight of the previous average."""

    def init(self, like: Vector) -> State:
        """Return an average of zero."""
        return {"average": like.zeros_like()}

    def update(self, gradients: Vector, state: State, context: Context) -> tuple[Vector, State]:
        """Return the average, and keep it."""
        average = moving_average(state["average"], gradients, self.beta)
        return average, {"average": average}


@dataclass(frozen=True)
class YogiMomentum(OptiModule):
    """Moving average whose changes are as large as the gradients, whatever the average is.

    Init: s = 0. Step: s = s - sign(s - g) (1 - beta) g; out s.

    Source: the additive rule of Zaheer et al., 2018, applied to g instead of g²,
    https://papers.nips.cc/paper/8186-adaptive-methods-for-nonconvex-optimization
    """

    name: ClassVar[str] = "yogi-momentum"
    takes_read_only: ClassVar[bool] = True

    beta: Fraction = 0.9
    """The weight of the previous average."""

    def init(self, like: Vector) -> State:
        """Return an average of zero."""
        return {"average": like.zeros_like()}

    def update(self, gradients: Vector, state: State, context: Context) -> tuple[Vector, State]:
        """Return the average, and keep it."""
        average = yogi_average(state["average"], gradients, self.beta)
        return average, {"average": average}


def moving_average(
    average: Vector, value: Vector, beta: float, *, in_place: bool = False
) -> Vector:
    """Return beta average + (1 - beta) value, in the memory of the average or in its own."""
    scaled = average.mul_(beta) if in_place else average * beta
    return scaled.add_(value * (1.0 - beta))


def yogi_average(average: Vector, value: Vector, beta: float) -> Vector:
    """Return average - sign(average - value) (1 - beta) value."""
    change = (average - value).sign_().mul_(value * (1.0 - beta))
    return average - change
