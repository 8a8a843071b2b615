"""Agnostic federated learning (AFL): minimise the worst mixture of the clients' losses.

Init: lambda = 1/N for each of the N clients. Client: F_k = the loss at w; train. Send: w - v_k,
weighted by lambda_k, and F_k. Server: w -= sum of lambda_k (w - v_k); lambda = the point of the
simplex that is closest to lambda + lambda_lrate (F_1, ..., F_N). All clients take part in the
paper. Of a cohort of M, sums are scaled by N/M, so that their mean over cohorts is the sum over all
clients; the lambda of clients that have not taken part yet stays 1/N. The state has N lambda.

Source: Mohri et al., 2019, algorithm Stochastic-AFL, https://arxiv.org/abs/1902.00146
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from simfl.algorithms.algorithm import Algorithm, Fresh, Local, ServerSide, State, Total, Update
from simfl.algorithms.steps import onto_simplex
from simfl.component import NonNegative
from simfl.vector import Keyed, Vector


@dataclass(frozen=True)
class AFL(Algorithm):
    """Descend on the weights, and ascend on the mixture of clients."""

    name: ClassVar[str] = "afl"
    weighted_by: ClassVar[str] = "lambda_k"
    lambda_lrate: NonNegative = 0.1
    """The step of the ascent; 0 leaves all clients the same weight."""

    def client(self, local: Local) -> tuple[Update, State]:
        """Train; send the update with the weight N lambda_k, not quite 0, and the loss."""
        mixture, k, loss = local.received["mixture"], local.clients, local.loss(local.weights)
        own = torch.where(k < len(mixture), mixture[k.clamp(max=len(mixture) - 1)], 1.0)
        losses = Keyed(k, Vector({"loss": loss.double()}, stacked=k.dim() > 0))
        delta = local.train_delta(local.weights)
        return Update(delta, weight=own + 1e-15, sums={"losses": losses}), {}

    def start(self, weights: Vector, fresh: Fresh) -> State:
        """Return N lambda by client id, as far as ids are known, and who has taken part."""
        return {"mixture": torch.ones(1).double(), "seen": torch.zeros(1).double()}

    def send(self, state: State) -> State:
        """Return N lambda."""
        return {"mixture": state["mixture"]}

    def server(self, total: Total, state: State, here: ServerSide) -> tuple[Vector, State]:
        """Return the sum of lambda_k (w - v_k), and the next lambda."""
        losses: Keyed = total.sums["losses"]
        ids = torch.tensor(losses.keys)
        new = torch.ones(max(0, max(losses.keys) + 1 - len(state["seen"])), dtype=torch.float64)
        mixture = torch.cat([state["mixture"], new])
        seen = torch.cat([state["seen"], torch.zeros_like(new)]).index_fill(0, ids, 1.0)
        scale = here.population / total.clients
        mixture[ids] += losses.values["loss"] * (self.lambda_lrate * scale * here.population)
        mixture[seen > 0] = onto_simplex(mixture[seen > 0])
        return total.delta * (total.weight / total.clients), {"mixture": mixture, "seen": seen}
