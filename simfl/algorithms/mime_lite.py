"""MimeLite with momentum: every local step uses the server's momentum, which stays as it is.

Init: m = 0. Client: v -= lrate ((1 - beta) grad f_i(v; b) + beta m) for each batch b. Send: w - v,
grad f_i(w) over all examples. Server: w = mean of the v_i; m = (1 - beta) (mean of the
grad f_i(w)) + beta m (U and V of SGDm).

Source: Karimireddy et al., 2021, Algorithm 1, https://arxiv.org/abs/2008.03606
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from simfl.algorithms.algorithm import Algorithm, Local, ServerSide, Total, Update
from simfl.algorithms.full_gradient import full_gradient
from simfl.component import Fraction
from simfl.models import Batch
from simfl.states import State
from simfl.vector import Vector


@dataclass(frozen=True)
class MimeLite(Algorithm):
    """Take local steps with the momentum of the server."""

    name: ClassVar[str] = "mime-lite"
    weighted_by: ClassVar[str] = "uniform"

    beta: Fraction = 0.9
    """The weight of the momentum; 0 is FedAvg for MimeLite, and SVRG's steps for Mime."""

    def client(self, local: Local) -> tuple[Update, State]:
        """Train with m, and take the gradient at w."""
        w = local.weights
        g = full_gradient(local, w)
        given = (local.received["m"],)
        delta = local.train_delta(w, add=self._momentum, objective=self._loss, given=given)
        return Update(delta, weight=1.0, sums={"g": g}), {}

    def _momentum(self, v: Vector, m: Vector, *_: Any) -> Vector:
        return m * self.beta

    def _loss(self, model: Any, v: Mapping[str, Tensor], batch: Batch, *_: Any) -> Tensor:
        return self._reported(model.loss(v, batch), 0.0)

    def _reported(self, loss: Tensor, more: Tensor | float) -> Tensor:
        """Return the loss, with (1 - beta) times the gradient of the loss and more."""
        step = (loss + more) * (1 - self.beta)
        return step + (loss - step).detach()

    def start(self, weights: Vector, fresh: Callable[[int], Vector]) -> State:
        """Return m = 0."""
        return {"m": weights.zeros_like()}

    def send(self, state: State) -> State:
        """Return m."""
        return state

    def server(self, total: Total, state: State, here: ServerSide) -> tuple[Vector, State]:
        """Return the mean delta, and the next m."""
        return total.delta, {"m": self._next(state["m"], total.sums["g"] / total.clients)}

    def _next(self, m: Vector, g: Vector) -> Vector:
        return m | (g * (1 - self.beta) + m.select(g) * self.beta)
