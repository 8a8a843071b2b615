"""Per-FedAvg: a start from which one step on a client's own examples leads far (MAML).

Client: w_k = w; in each step, with batches D, D' and D'' one after the other, u = w_k - alpha
grad f(w_k; D); g = grad f(u; D'); w_k -= beta (g - alpha h) (Algorithm 1), with beta the ``lrate``.
First order: h = 0. Hessian-free: h = (grad f(w_k + delta g; D'') - grad f(w_k - delta g; D'')) /
(2 delta) (section 5). Send: w - w_k. Server: the mean. Personal: u at w.

Source: Fallah, Mokhtari and Ozdaglar, 2020, https://arxiv.org/abs/2002.07948
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle
from typing import ClassVar, Literal

from simfl.algorithms.algorithm import Algorithm, Local, Number, State, Update
from simfl.algorithms.steps import descend
from simfl.component import Count, Positive
from simfl.models import Batch
from simfl.optimizer import Optimizer
from simfl.vector import Vector


@dataclass(frozen=True)
class PerFedAvg(Algorithm):
    """Train weights for the step that a client then takes from them."""

    name: ClassVar[str] = "per-fedavg"
    uses_optimizer: ClassVar[bool] = False
    ignores: ClassVar[tuple[str, ...]] = ("client.epochs", "client.steps")
    alpha: Positive = 0.01
    """The rate of the step that personalises."""
    steps: Count = 10
    """tau: the steps of a round, on two or three batches each; they replace the clients' work."""
    hessian: Literal["none", "differences"] = "none"
    """none: the first-order method (FO); differences: the Hessian-free one (HF)."""
    delta: Positive = 0.001
    """How far from w gradients are taken for their difference, in gradients."""

    def client(self, local: Local) -> tuple[Update, State]:
        """Take the steps, in turns of one batch."""
        num_batches = 2 if self.hessian == "none" else 3
        w, turns = local.weights, cycle(range(num_batches))

        def step(carry: State, batch: Batch, beta: Number) -> State:
            turn, w, u, g = next(turns), carry["w"], carry["u"], carry["g"]
            if turn == 0:
                return carry | {"u": descend(w, local.gradients(w, batch), self.alpha)}
            if turn == 1:
                g = local.gradients(u, batch)
                return {"w": descend(w, g, beta), "u": w, "g": g}
            beside = [descend(u, g, by) for by in (-self.delta, self.delta)]
            ahead, behind = (local.gradients(at, batch) for at in beside)
            h = (ahead - behind) / (2 * self.delta)
            return carry | {"w": descend(w, h * -self.alpha, beta)}

        start = {"w": w, "u": w, "g": w.zeros_like()}
        end = local.scan(step, start, given=(local.lrate,), steps=num_batches * self.steps)
        return Update(w - end["w"]), {}

    def personal(self, local: Local) -> Vector:
        """Return the weights after one step on the client's examples."""
        sgd = Optimizer(self.alpha)
        return local.train(local.weights, phase="personal", steps=1, optimizer=sgd)
