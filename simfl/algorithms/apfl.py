"""APFL: each client is served by a mixture of a common model and of one of its own.

Init:    v_k = w, alpha_k = alpha
Client:  in each step, with m = alpha v + (1 - alpha) w:
             w -= lrate · grad f(w)
             v -= lrate · alpha · grad f(m)                                      (Algorithm 1)
             alpha -= lrate · <v - w, grad f(m)>, within 0 and 1, if adaptive    (section 4.2)
Send:    w minus its end, for the mean; keep v and alpha

Source: Deng, Kamani and Mahdavi, 2020, https://arxiv.org/abs/2003.13461
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from simfl.algorithms.algorithm import Algorithm, Local, Number, State, Update
from simfl.algorithms.steps import descend, mix
from simfl.component import Fraction
from simfl.models import Batch
from simfl.vector import Vector


@dataclass(frozen=True)
class APFL(Algorithm):
    """Train a common model, and one's own for their mixture, in steps of the clients' ``lrate``."""

    name: ClassVar[str] = "apfl"
    uses_optimizer: ClassVar[bool] = False
    alpha: Fraction = 0.5
    """The own model's share of the mixture, at first."""
    adaptive: bool = True
    """Whether each client's share follows its gradient."""

    def init(self, weights: Vector) -> State:
        """Start at the initial weights."""
        return {"v": weights, "alpha": torch.tensor(self.alpha, dtype=torch.float64)}

    def client(self, local: Local) -> tuple[Update, State]:
        """Take the steps of both models, and of their shares."""

        def step(carry: State, batch: Batch, rate: Number) -> State:
            w, v, alpha = carry["w"], carry["v"], carry["alpha"]
            common = local.gradients(w, batch)
            mixed = local.gradients(mix(v, w, alpha), batch)
            apart = (v - w).select(mixed.names)
            slope = (apart * mixed).sum() if self.adaptive else torch.zeros_like(alpha)
            w, v = descend(w, common, rate), descend(v, mixed * alpha, rate)
            return {"w": w, "v": v, "alpha": (alpha - slope * rate).clamp(0.0, 1.0)}

        end = local.scan(step, {"w": local.weights} | local.kept, given=(local.lrate,))
        return Update(local.weights - end["w"]), {"v": end["v"], "alpha": end["alpha"]}

    def personal(self, local: Local) -> Vector:
        """Return the mixture."""
        return mix(local.kept["v"], local.weights, local.kept["alpha"])
