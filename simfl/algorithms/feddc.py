"""FedDC: each client keeps its drift from the server's weights, and takes it into account.

Init: h_i = c_i = c = 0. Client: minimise L_i(v) + alpha/2 |v + h_i - w|² + <c - c_i, v> from v = w
(equations 3 to 5); c_i⁺ = c_i - c + (w - v) / (K lrate), the mean gradient of the K steps;
h_i += v - w (equation 7). Send: w - v, c_i⁺ - c_i. Server: c += sum of the c_i⁺ - c_i / N;
w = mean of the v_i + mean of all clients' h_i, with N the population (equation 8).
The correction's -c_i is the paper's g_i / (K lrate), without the last correction in it, and all
clients weigh the same, as in the authors' code, https://github.com/gaoliang13/FedDC.

Source: Gao et al., 2022, https://arxiv.org/abs/2203.11751
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from simfl.algorithms.algorithm import Algorithm, Fresh, Local, ServerSide, State, Total, Update
from simfl.algorithms.steps import divisor
from simfl.component import Positive
from simfl.vector import Vector


@dataclass(frozen=True)
class FedDC(Algorithm):
    """Decouple local drift from the weights, and correct it."""

    name: ClassVar[str] = "feddc"
    weighted_by: ClassVar[str] = "uniform"
    alpha: Positive = 0.1
    """How strongly clients are pulled to w - h_i."""

    def init(self, weights: Vector) -> State:
        """Return h_i = c_i = 0."""
        return {"h": weights.zeros_like(), "c": weights.zeros_like()}

    def client(self, local: Local) -> tuple[Update, State]:
        """Train with pull and correction, and add the update to the drift."""
        w, h, own = local.weights, local.kept["h"], local.kept["c"]
        correction = local.received["c"] - own
        delta = local.train_delta(w, add=self._pull, given=(w, h, correction))
        steps = local.num_steps.clamp(min=1)
        change = delta / (steps * divisor(local, self.name)) - local.received["c"]
        return Update(delta, weight=1.0, sums={"c": change}), {"h": h - delta, "c": own + change}

    def _pull(self, v: Vector, w: Vector, h: Vector, correction: Vector) -> Vector:
        return (v + h - w) * self.alpha + correction

    def start(self, weights: Vector, fresh: Fresh) -> State:
        """Return h = 0, the mean of all clients' drifts, and c = 0, that of their c_i."""
        return {"h": weights.zeros_like(), "c": weights.zeros_like()}

    def send(self, state: State) -> State:
        """Return c."""
        return {"c": state["c"]}

    def server(self, total: Total, state: State, here: ServerSide) -> tuple[Vector, State]:
        """Return w - w⁺ = the mean delta - h, and the next h and c."""
        h = state["h"].select(total.delta) - total.delta * (total.clients / here.population)
        return total.delta - h, {"h": h, "c": state["c"] + total.sums["c"] / here.population}
