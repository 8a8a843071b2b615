"""An exponential moving average of the server's weights, which is evaluated instead of them.

Init:      nothing
Client:    train w_k from w
Send:      w - w_k; the server sends the average, for the evaluation
Server:    the mean; a_t = beta a_(t-1) + (1 - beta) w_t, from a_0 = w_0
Evaluate:  a_t

Source: Polyak and Juditsky, 1992, https://doi.org/10.1137/0330046; weighted as by Tarvainen and
Valpola, 2017, section 2, https://arxiv.org/abs/1703.01780
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from simfl.algorithms.algorithm import Algorithm, Fresh, ServerSide, State, Total
from simfl.component import Fraction
from simfl.vector import Vector


@dataclass(frozen=True)
class ServerEMA(Algorithm):
    """Train as FedAvg does, and evaluate a moving average of the server's weights.

    Clients start from the weights themselves, and the final weights are not the average. Running
    statistics of BatchNorm are those of the last round.
    """

    name: ClassVar[str] = "server-ema"
    beta: Fraction = 0.9
    """How much of the average is left after a round."""

    def start(self, weights: Vector, fresh: Fresh) -> State:
        """Begin with the initial weights."""
        return {"average": weights}

    def send(self, state: State) -> State:
        """Send the average, for the evaluation."""
        return state

    def server(self, total: Total, state: State, here: ServerSide) -> tuple[Vector, State]:
        """Average the weights that this round has started from: its own step comes afterwards."""
        return total.delta, {"average": self.evaluated(here.weights, state)}

    def evaluated(self, weights: Vector, received: State) -> Vector:
        """Return the average, the newest weights included."""
        average: Vector = received["average"]
        names = [name for name in average if name in weights]
        return average.select(names) * self.beta + weights.select(names) * (1 - self.beta)
