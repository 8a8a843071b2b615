"""MimeLite with momentum: every local step uses the server's momentum, which stays as it is.

Init: m = 0. Client: v -= lrate ((1 - beta) grad f_i(v; b) + beta m) for each batch b. Send: w - v
and g_i = grad f_i(w). Server: w = mean of the v_i; m = (1 - beta) mean of the g_i + beta m (SGDm).

Source: Karimireddy et al., 2021, Algorithm 1, https://arxiv.org/abs/2008.03606
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from simfl.algorithms.algorithm import Algorithm, Fresh, Local, ServerSide, State, Total, Update
from simfl.algorithms.full_gradient import full_gradient
from simfl.component import Fraction
from simfl.models import Batch
from simfl.vector import Vector


@dataclass(frozen=True)
class MimeLite(Algorithm):
    """Take local steps with the momentum of the server."""

    name: ClassVar[str] = "mime-lite"
    objective_over: ClassVar[str | None] = "loss"
    weighted_by: ClassVar[str] = "uniform"
    beta: Fraction = 0.9
    """The weight of the momentum; 0 is FedAvg for MimeLite, and SVRG's steps for Mime."""

    def client(self, local: Local) -> tuple[Update, State]:
        """Train with m, and take the gradient at w."""
        w, m, g = local.weights, local.received["m"], full_gradient(local, local.weights)
        delta = local.train_delta(w, add=self._momentum, objective=self._loss, given=(m,))
        return Update(delta, weight=1.0, sums={"g": g}), {}

    def _momentum(self, v: Vector, m: Vector, *_: Any) -> Vector:
        return m * self.beta

    def _loss(self, model: Any, v: Any, batch: Batch, *_: Any, more: Any = 0.0) -> Tensor:
        """Return the loss, with (1 - beta) times the gradient of the loss and more."""
        loss: Tensor = model.loss(v, batch)
        step: Tensor = (loss + more) * (1 - self.beta)
        return step + (loss - step).detach()

    def start(self, weights: Vector, fresh: Fresh) -> State:
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
