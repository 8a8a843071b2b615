"""FedLin: clients' steps follow all clients' gradient at the server's weights, and theirs beyond.

Client: steps with grad f_i(v) - grad f_i(w) + g, where g is the mean of all clients' gradients at
w. Send: w - v. Server: w = mean of the v_i (Algorithm 1, without the compression of gradients).

A round of the paper takes two exchanges, so it is two rounds here: in odd ones clients send their
gradients at w, and w stays; in even ones they train. All clients take part, as in the paper;
from a cohort's gradients g is an estimate. The paper's steps are longer for clients that take
fewer of them (lrate/t_i); here all have the scenario's rate, with the same fixed point.

Source: Mitra et al., 2021, https://arxiv.org/abs/2102.07053
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from simfl.algorithms.algorithm import Algorithm, Fresh, Local, ServerSide, State, Total, Update
from simfl.algorithms.full_gradient import full_gradient
from simfl.vector import Vector


@dataclass(frozen=True)
class FedLin(Algorithm):
    """Correct each step by the mean of all clients' gradients at the server's weights."""

    name: ClassVar[str] = "fedlin"
    weighted_by: ClassVar[str] = "uniform"
    sends_gradients: ClassVar[bool] = True

    def client(self, local: Local) -> tuple[Update, State]:
        """Send the gradient in odd rounds, and train in even ones."""
        own = full_gradient(local, local.weights)
        if local.round % 2:
            return Update(sums={"g": own}), {}
        correction = local.received["g"].select(own) - own
        delta = local.train_delta(local.weights, add=lambda _, more: more, given=(correction,))
        return Update(delta, weight=1.0), {}

    def start(self, weights: Vector, fresh: Fresh) -> State:
        """Return g = 0; round 1 replaces it."""
        return {"g": weights.zeros_like()}

    def send(self, state: State) -> State:
        """Return g."""
        return state

    def server(self, total: Total, state: State, here: ServerSide) -> tuple[Vector, State]:
        """Return nothing and g in odd rounds, the mean delta in even ones."""
        if here.round % 2:
            return total.delta, {"g": state["g"] | total.sums["g"] / total.clients}
        return total.delta, state
