"""Agnostic federated learning (AFL): minimise the worst mixture of the clients' losses.

Init: lambda = 1/N for each of the N clients. Client: F_k = the loss at w; train. Send: w - v_k,
weighted by lambda_k, and F_k. Server: w -= sum of lambda_k (w - v_k);
lambda = the point of the simplex that is closest to lambda + lambda_lrate (F_1, ..., F_N).

All clients take part in the paper. Of a cohort of M, sums are scaled by N/M, so that their mean
over cohorts is the sum over all clients. lambda is first changed in round 2: in round 1 clients
do not know N yet.

Source: Mohri et al., 2019, algorithm Stochastic-AFL, https://arxiv.org/abs/1902.00146
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from simfl.algorithms.algorithm import Algorithm, Local, ServerSide, Total, Update
from simfl.component import NonNegative
from simfl.states import State
from simfl.vector import Vector


@dataclass(frozen=True)
class AFL(Algorithm):
    """Descend on the weights, and ascend on the mixture of clients."""

    name: ClassVar[str] = "afl"

    lambda_lrate: NonNegative = 0.1
    """The step of the ascent; 0 leaves all clients the same weight."""

    def client(self, local: Local) -> tuple[Update, State]:
        """Train; send the update with the weight lambda_k, and the loss in the client's place."""
        mixture = local.received["lambda"]
        delta = local.train_delta(local.weights)
        if not mixture.dim():
            return Update(delta, weight=1.0), {}
        places = F.one_hot(local.clients, len(mixture)).double()
        losses = places * local.loss(local.weights).double()[..., None]
        # Weights that are all 0 would have no mean.
        return Update(delta, weight=mixture[local.clients] + 1e-15, sums={"losses": losses}), {}

    def start(self, weights: Vector, fresh: Callable[[int], Vector]) -> State:
        """Return one number in the place of lambda, which needs to know N."""
        return {"lambda": torch.zeros((), dtype=torch.float64)}

    def send(self, state: State) -> State:
        """Return lambda."""
        return state

    def server(self, total: Total, state: State, here: ServerSide) -> tuple[Vector, State]:
        """Return the sum of lambda_k (w - v_k), and the next lambda."""
        size = here.population
        if not state["lambda"].dim():
            return total.delta, {"lambda": torch.full((size,), 1 / size, dtype=torch.float64)}
        scale = size / total.clients
        ahead = state["lambda"] + total.sums["losses"] * (self.lambda_lrate * scale)
        return total.delta * (total.weight * scale), {"lambda": _onto_simplex(ahead)}


def _onto_simplex(point: Tensor) -> Tensor:
    """Return the closest point whose numbers are at least 0 and add up to 1."""
    falling = point.sort(descending=True).values
    levels = (falling.cumsum(0) - 1) / torch.arange(1, len(point) + 1)
    return (point - levels[(falling > levels).sum() - 1]).clamp(min=0)
