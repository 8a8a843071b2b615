"""Ditto: a model of its own for each client, held near the common one.

Init:    v_k = w
Client:  train w as FedAvg does; from v_k, minimise f_k(v) + strength/2 |v - w|²   (equation 1)
Send:    w minus the end of the first training
Server:  the mean

Source: Li et al., 2021, Algorithm 1, https://arxiv.org/abs/2012.04221
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from simfl.algorithms.algorithm import Algorithm, Local, State, Update
from simfl.component import NonNegative, Positive
from simfl.vector import Vector


@dataclass(frozen=True)
class Ditto(Algorithm):
    """Train the common model, and one's own model near it, with which clients are evaluated."""

    name: ClassVar[str] = "ditto"
    strength: NonNegative = 0.1
    """lambda: how strongly a client's own model is held near the common one."""
    own_epochs: Positive | None = None
    """The epochs of the own model in a round; null: as for the common one."""

    def init(self, weights: Vector) -> State:
        """Start at the initial weights."""
        return {"v": weights}

    def client(self, local: Local) -> tuple[Update, State]:
        """Train both models."""
        w, v = local.weights, local.kept["v"]
        delta = local.train_delta(w)
        v = local.train(v, add=self.pull, given=(w,), phase="own", epochs=self.own_epochs)
        return Update(delta), {"v": v}

    def pull(self, v: Vector, w: Vector) -> Vector:
        """Return the gradient of strength/2 |v - w|²."""
        return (v - w.select(v)) * self.strength

    def personal(self, local: Local) -> Vector:
        """Return the own model."""
        v: Vector = local.kept["v"]
        return v
