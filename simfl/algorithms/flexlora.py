"""FlexLoRA: the server averages the products of low-rank adapters, and factors the mean anew.

Client:  train B_k, A_k, of which it has the first r_k columns and rows, and what else is trained
Send:    B_k, A_k and the rest
Server:  for each adapter the mean P of the B_k A_k, and of its singular value decomposition
         P = U S V^T the r largest: B = U_r S_r, A = V_r^T; the mean of the rest   (section 3.2)

The mean of the B_k times that of the A_k, as FedAvg has it, is not the mean of the products. As
singular values are in descending order, the first r_k columns and rows that a client takes in the
next round are the best approximation to P that its rank allows.

Source: Bai et al., 2024, https://arxiv.org/abs/2402.11505
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from simfl.algorithms.algorithm import Local, ServerSide, State, Total, Update
from simfl.algorithms.low_rank import (
    OfAdapters,
    adapter_sums,
    best_of_rank,
    factors,
    mean_of_rest,
    mean_product,
    require_adapters,
    train_adapters,
)
from simfl.vector import Vector


@dataclass(frozen=True)
class FlexLoRA(OfAdapters):
    """Average adapters as the matrices that they stand for, and factor the mean anew."""

    name: ClassVar[str] = "flexlora"

    def for_model(self, module: nn.Module, shared: Collection[str]) -> FlexLoRA:
        """Refuse models without adapters."""
        require_adapters(self.name, module, shared, self.ranks)
        return self

    def client(self, local: Local) -> tuple[Update, State]:
        """Train, and send the adapters."""
        end = train_adapters(local, local.weights, self.ranks)
        return Update(sums=adapter_sums(local, end)), {}

    def server(self, total: Total, state: State, here: ServerSide) -> tuple[Vector, State]:
        """Factor the mean products, and average the rest."""
        gradient = dict(mean_of_rest(total))
        for a, b in factors(here.weights).items():
            now_a, now_b = here.weights[a], here.weights[b]
            B, A = best_of_rank(*mean_product(total, a, b), rank=len(now_a))
            gradient |= {a: now_a - A.to(now_a.dtype), b: now_b - B.to(now_b.dtype)}
        return Vector(gradient), state
