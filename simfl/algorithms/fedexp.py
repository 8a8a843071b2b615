"""FedExP: the server's step is the longer, the less the clients' updates agree.

Client:    train
Send:      d_i = w - v_i and |d_i|²; the server sends the last round's w, for the evaluation
Server:    w -= rate · mean of the d_i, with rate = max(1, sum of |d_i|² / (2 M (|mean of the
           d_i|² + epsilon))) over the M clients of the cohort   (equation 4)
Evaluate:  the mean of the last two rounds' w   (section 3)

Source: Jhunjhunwala et al., 2023, Algorithm 1, https://arxiv.org/abs/2301.09604
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from simfl.algorithms.algorithm import Algorithm, Fresh, Local, ServerSide, State, Total, Update
from simfl.component import NonNegative
from simfl.vector import Vector


@dataclass(frozen=True)
class FedExP(Algorithm):
    """Extrapolate the mean of the updates."""

    name: ClassVar[str] = "fedexp"
    weighted_by: ClassVar[str] = "uniform"
    epsilon: NonNegative = 1e-3
    """Keeps the rate bounded where updates cancel out."""

    def client(self, local: Local) -> tuple[Update, State]:
        """Train, and send the square of the update's norm besides."""
        delta = local.train_delta(local.weights)
        return Update(
            delta, weight=1.0, sums={"square": delta.select(local.trainable).norm() ** 2}
        ), {}

    def start(self, weights: Vector, fresh: Fresh) -> State:
        """Return the initial w."""
        return {"last": weights}

    def send(self, state: State) -> State:
        """Return the last w."""
        return state

    def server(self, total: Total, state: State, here: ServerSide) -> tuple[Vector, State]:
        """Return the mean delta times the rate."""
        of_mean = float(total.delta.norm()) ** 2
        mean_of = total.sums["square"] / total.clients
        rate = max(1.0, mean_of / (2 * (of_mean + self.epsilon)))
        return total.delta * rate, {"last": here.weights}

    def evaluated(self, weights: Vector, received: State) -> Vector:
        """Return the mean of the last two w."""
        last: Vector = received["last"]
        return (weights.select(last) + last) / 2
