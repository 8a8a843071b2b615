"""FedNova: updates are normalised by their steps, so that those with more do not pull harder.

Client: train for t_i steps; a_i = t_i, or with momentum rho the sum of what gradients count for,
(t_i - rho (1 - rho^t_i) / (1 - rho)) / (1 - rho). Send: d_i = (w - v_i) / a_i, and a_i. Server:
w -= (sum of p_i a_i) (sum of p_i d_i), with p_i the client's share of the cohort's examples
(equation 6, and section 4.2 for momentum).

What is sent is w - v_i with the weight n_i / a_i, which is the same, and averages buffers.

Source: Wang et al., 2020, https://arxiv.org/abs/2007.07481
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Interval

from simfl.algorithms.algorithm import Algorithm, Local, ServerSide, State, Total, Update
from simfl.vector import Vector


@dataclass(frozen=True)
class FedNova(Algorithm):
    """Average the directions of the updates, and go as far as clients do in the mean."""

    name: ClassVar[str] = "fednova"
    weighted_by: ClassVar[str] = "examples / a_i"
    rho: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    """The momentum of the clients' Optimizer (its module ``momentum``, with ``keep_state: false``
    or velocities would last, which a_i does not count)."""

    def client(self, local: Local) -> tuple[Update, State]:
        """Train, and send a_i besides."""
        n, t, rho = local.num_examples, local.num_steps, self.rho
        a = ((t - rho * (1 - rho**t) / (1 - rho)) / (1 - rho)).clamp(min=1)
        delta = local.train_delta(local.weights)
        return Update(delta, weight=n / a, sums={"n": n, "na": n * a}), {}

    def server(self, total: Total, state: State, here: ServerSide) -> tuple[Vector, State]:
        """Return the sum of p_i a_i, times that of p_i d_i."""
        n = total.sums["n"]
        return total.delta * (total.sums["na"] / n * total.weight / n), state
