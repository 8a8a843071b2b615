"""FedProx with the paper's heuristic for mu: more of it when the loss rises, less when it falls.

Init: mu. Client: F_k = the loss at w; minimise F_k(v) + mu/2 |v - w|² from v = w (equation 2).
Send: w - v, F_k. Server: the mean; mu += step if the loss is larger than a round before, mu -= step
after ``patience`` rounds in a row in which it was smaller (section 5.3.2).

The loss is the mean over the examples of the cohort; the paper's is that of all clients. With a
fixed mu, FedProx is the regularizer ``fedprox``.

Source: Li et al., 2020, https://arxiv.org/abs/1812.06127
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from simfl.algorithms.algorithm import Algorithm, Fresh, Local, ServerSide, State, Total, Update
from simfl.component import Count, NonNegative
from simfl.vector import Vector


@dataclass(frozen=True)
class AdaptiveFedProx(Algorithm):
    """Pull clients towards the server's weights as hard as the loss suggests."""

    name: ClassVar[str] = "adaptive-fedprox"
    mu: NonNegative = 0.0
    """How strongly clients are pulled at first."""
    step: NonNegative = 0.1
    """By how much mu changes."""
    patience: Count = 5
    """After how many rounds in a row with a smaller loss mu shrinks."""

    def client(self, local: Local) -> tuple[Update, State]:
        """Train with the pull, and send the loss before."""
        w, n = local.weights, local.num_examples
        loss = local.loss(w)
        given = (w, local.received["mu"])
        delta = local.train_delta(w, add=lambda v, w, mu: (v - w) * mu, given=given)
        return Update(delta, sums={"loss": loss * n, "n": n}), {}

    def start(self, weights: Vector, fresh: Fresh) -> State:
        """Return mu, the previous loss, and for how many rounds it has been falling."""
        numbers = {"mu": self.mu, "loss": float("nan"), "falling": 0.0}
        return {key: torch.tensor(value, dtype=torch.float64) for key, value in numbers.items()}

    def send(self, state: State) -> State:
        """Return mu."""
        return {"mu": state["mu"]}

    def server(self, total: Total, state: State, here: ServerSide) -> tuple[Vector, State]:
        """Return the mean delta, and the next mu."""
        loss = torch.tensor(total.sums["loss"] / total.sums["n"], dtype=torch.float64)
        falling = torch.where(loss < state["loss"], state["falling"] + 1, 0.0)
        rises, falls = loss > state["loss"], falling == self.patience
        mu = (state["mu"] + self.step * (rises.double() - falls.double())).clamp(min=0)
        return total.delta, {"mu": mu, "loss": loss, "falling": falling * ~falls}
