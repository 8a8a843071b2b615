"""pFedMe: personal models are the proximal points of the common one (Moreau envelopes).

Client:  w_k = w; in each step, with a batch:
             theta ~ argmin f_k(theta) + strength/2 |theta - w_k|², by inner_steps of gradient
                     descent at client.optimizer.lrate from the last theta   (equations 3 and 7)
             w_k -= eta · strength · (w_k - theta)
Send:    w - w_k; keep theta
Server:  w -= beta · mean of what was sent; beta is server.optimizer.lrate

Source: T. Dinh, Tran and Nguyen, 2020, Algorithm 1, https://arxiv.org/abs/2006.08848
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from simfl.algorithms.algorithm import Algorithm, Local, Number, State, Update
from simfl.algorithms.steps import descend
from simfl.component import Count, Positive
from simfl.models import Batch
from simfl.vector import Vector


@dataclass(frozen=True)
class PFedMe(Algorithm):
    """Follow the gradient of the clients' Moreau envelopes; the personal models come with it."""

    name: ClassVar[str] = "pfedme"
    uses_optimizer: ClassVar[bool] = False
    strength: Positive = 15.0
    """lambda: how strongly the personal model is held near the client's common one."""
    inner_steps: Count = 5
    """K: the steps towards each personal model."""
    eta: Positive = 0.005
    """The learning rate of the client's common model."""

    def init(self, weights: Vector) -> State:
        """Start at the initial weights."""
        return {"theta": weights}

    def client(self, local: Local) -> tuple[Update, State]:
        """Alternate steps of the personal and of the common model."""

        def step(carry: State, batch: Batch, rate: Number) -> State:
            w, theta = carry["w"], carry["theta"]
            for _ in range(self.inner_steps):
                gradients = local.gradients(theta, batch)
                pull = (theta - w).select(gradients.names) * self.strength
                theta = descend(theta, gradients + pull, rate)
            return {"w": w - (w - theta) * (self.eta * self.strength), "theta": theta}

        w = local.weights
        end = local.scan(step, {"w": w, "theta": w}, given=(local.lrate,))
        return Update(w - end["w"]), {"theta": end["theta"]}

    def personal(self, local: Local) -> Vector:
        """Return the personal model."""
        theta: Vector = local.kept["theta"]
        return theta
