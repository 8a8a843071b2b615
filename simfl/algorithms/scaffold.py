"""SCAFFOLD with option I: a client's control variate is its gradient at the server's weights.

Init: c_i = c = 0. Client: steps with g_i(v) - c_i + c; c_i⁺ = g_i(w), over all examples (option I).
Send: w - v, c_i⁺ - c_i. Server: w -= mean of the w - v; c += sum of the c_i⁺ - c_i / N, with N
the population.

Option II, whose c_i⁺ is the mean gradient of the steps and costs no pass over the examples, are the
modules ``scaffold-client`` and ``scaffold-server``.

Source: Karimireddy et al., 2020, Algorithm 1, https://arxiv.org/abs/1910.06378
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from simfl.algorithms.algorithm import Algorithm, Fresh, Local, ServerSide, State, Total, Update
from simfl.algorithms.full_gradient import full_gradient
from simfl.vector import Vector


@dataclass(frozen=True)
class Scaffold(Algorithm):
    """Correct each step by how the client's gradient differs from all clients'."""

    name: ClassVar[str] = "scaffold"
    weighted_by: ClassVar[str] = "uniform"
    sends_gradients: ClassVar[bool] = True

    def init(self, weights: Vector) -> State:
        """Return c_i = 0."""
        return {"c": weights.zeros_like()}

    def client(self, local: Local) -> tuple[Update, State]:
        """Train with the correction, and take the gradient at w."""
        w, c = local.weights, local.received["c"]
        new = full_gradient(local, w)
        own = local.kept["c"].select(new)
        correction = c.select(new) - own
        delta = local.train_delta(w, add=lambda _, more: more, given=(correction,))
        return Update(delta, weight=1.0, sums={"c": new - own}), {"c": local.kept["c"] | new}

    def start(self, weights: Vector, fresh: Fresh) -> State:
        """Return c = 0."""
        return {"c": weights.zeros_like()}

    def send(self, state: State) -> State:
        """Return c."""
        return state

    def server(self, total: Total, state: State, here: ServerSide) -> tuple[Vector, State]:
        """Return the mean delta, and the next c."""
        change = total.sums["c"] / here.population
        return total.delta, {"c": state["c"] | (state["c"].select(change) + change)}
