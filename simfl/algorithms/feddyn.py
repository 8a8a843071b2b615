"""FedDyn: each client's stationary point becomes one of the whole (dynamic regularization).

Init: g_k = 0, h = 0. Client: minimise L_k(v) - <g_k, v> + alpha/2 |v - w|² from v = w (equation
1); g_k -= alpha (v - w) (equation 2). Send: w - v. Server: h -= alpha/m sum of the (v_k - w), with
m the population; w = mean of the v_k - h/alpha.

Source: Acar et al., 2021, Algorithm 1, https://arxiv.org/abs/2111.04263
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from simfl.algorithms.algorithm import Algorithm, Fresh, Local, ServerSide, State, Total, Update
from simfl.component import Positive
from simfl.vector import Vector


@dataclass(frozen=True)
class FedDyn(Algorithm):
    """Pull each client towards the server's weights, and correct for where that pull ends."""

    name: ClassVar[str] = "feddyn"
    weighted_by: ClassVar[str] = "uniform"
    alpha: Positive = 0.01
    """How strongly clients are pulled; 0.1, 0.01 or 0.001 in the paper."""

    def init(self, weights: Vector) -> State:
        """Return g_k = 0, the gradient of a client's own loss at the end of its last round."""
        return {"g": weights.zeros_like()}

    def client(self, local: Local) -> tuple[Update, State]:
        """Train with the pull, and with the gradient that is known."""
        w, g = local.weights, local.kept["g"]
        centre = w * self.alpha + g  # alpha (v - w) - g = alpha v - centre, in one step less
        delta = local.train_delta(w, add=self._pull, given=(centre,))
        return Update(delta, weight=1.0), {"g": g + delta * self.alpha}

    def _pull(self, v: Vector, centre: Vector) -> Vector:
        return v * self.alpha - centre

    def start(self, weights: Vector, fresh: Fresh) -> State:
        """Return h = 0, minus the mean of all clients' g_k."""
        return {"h": weights.zeros_like()}

    def server(self, total: Total, state: State, here: ServerSide) -> tuple[Vector, State]:
        """Return w - w⁺ = the mean delta + h/alpha."""
        share = total.clients / here.population
        h = state["h"].select(total.delta) + total.delta * (self.alpha * share)
        return total.delta + h / self.alpha, {"h": h}
