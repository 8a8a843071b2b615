"""q-FedAvg: clients with a larger loss count for more, so that losses become more alike.

Client: F_k = the loss at w; train; D_k = L (w - v_k), with L = 1/lrate. Send: F_k^q D_k and
h_k = q F_k^(q-1) |D_k|² + L F_k^q. Server: w -= sum of the F_k^q D_k / sum of the h_k. With a
schedule by steps, L is each client's own.

With one step on all examples (``steps: 1``, no ``batch_size``) D_k is the gradient, and this is
q-FedSGD, Algorithm 1. With q = 0 it is the unweighted FedAvg. The paper draws clients by their
examples (sampler ``proportional``).

Source: Li et al., 2020, Algorithm 2, https://arxiv.org/abs/1905.10497
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from simfl.algorithms.algorithm import Algorithm, Local, ServerSide, State, Total, Update
from simfl.algorithms.steps import divisor
from simfl.component import NonNegative
from simfl.vector import Vector


@dataclass(frozen=True)
class QFedAvg(Algorithm):
    """Minimise the sum of F_k^(q+1) / (q+1), which is the fairer the larger q."""

    name: ClassVar[str] = "q-fedavg"
    weighted_by: ClassVar[str] = "F_k^q"
    q: NonNegative = 1.0
    """How much fairness counts; 0.001 to 5 in the paper."""

    def client(self, local: Local) -> tuple[Update, State]:
        """Train; send the update with the weight L F_k^q, and h_k."""
        w, lipschitz = local.weights, 1 / divisor(local, self.name)
        loss = local.loss(w).clamp(min=1e-10)  # 0 has no power q - 1
        delta = local.train_delta(w)
        square = (delta.select(local.trainable).norm() * lipschitz) ** 2
        h = self.q * loss ** (self.q - 1) * square + lipschitz * loss**self.q
        return Update(delta, weight=lipschitz * loss**self.q, sums={"h": h}), {}

    def server(self, total: Total, state: State, here: ServerSide) -> tuple[Vector, State]:
        """Return the sum of the F_k^q D_k over that of the h_k."""
        return total.delta * (total.weight / total.sums["h"]), state
