"""Mime with momentum: MimeLite, whose local steps are corrected as those of SVRG.

Init: m = 0. Client: v -= lrate ((1 - beta) g + beta m) for each batch b, where g is
grad f_i(v; b) - grad f_i(w; b) + c, with c the mean of the cohort's gradients at w. Send: w - v,
grad f_i(w). Server: w = mean of the v_i; m = (1 - beta) c + beta m (U and V of SGDm).

For c a round of the paper takes two exchanges, so it is two rounds here: in odd ones clients send
grad f_i(w) over all of their examples, and w stays; in even ones, whose cohort may be another,
they train.

Source: Karimireddy et al., 2021, Algorithm 1, https://arxiv.org/abs/2008.03606
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from torch import Tensor

from simfl.algorithms.algorithm import Fresh, Local, ServerSide, State, Total, Update
from simfl.algorithms.full_gradient import full_gradient, gradients_at
from simfl.algorithms.mime_lite import MimeLite
from simfl.models import Batch
from simfl.vector import Vector


@dataclass(frozen=True)
class Mime(MimeLite):
    """Also correct each local step by the gradients at the server's weights, as SVRG does."""

    name: ClassVar[str] = "mime"

    def client(self, local: Local) -> tuple[Update, State]:
        """Send the gradient in odd rounds, and train in even ones."""
        w, m, c = local.weights, local.received["m"], local.received["c"]
        if local.round % 2:
            return Update(sums={"g": full_gradient(local, w)}), {}
        objective = partial(self._corrected, frozenset(w))
        delta = local.train_delta(w, add=self._momentum, objective=objective, given=(m, w, c))
        return Update(delta, weight=1.0), {}

    def _corrected(self, names: Any, model: Any, v: Any, batch: Batch, *given: Any) -> Tensor:
        _, w, c = given
        shared = [name for name in v if name in names]  # personal weights are not corrected
        at_w = gradients_at(w, model=model, batch=batch)
        linear = sum(((c[name] - at_w[name]) * v[name]).sum() for name in shared)
        return self._loss(model, v, batch, more=linear)

    def start(self, weights: Vector, fresh: Fresh) -> State:
        """Return m = 0 and c = 0; round 1 replaces c."""
        return {"m": weights.zeros_like(), "c": weights.zeros_like()}

    def server(self, total: Total, state: State, here: ServerSide) -> tuple[Vector, State]:
        """Return nothing and c in odd rounds, the mean delta and m in even ones."""
        if here.round % 2:
            return total.delta, {**state, "c": state["c"] | total.sums["g"] / total.clients}
        return total.delta, {**state, "m": self._next(state["m"], state["c"].select(total.delta))}
