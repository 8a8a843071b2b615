"""Local-only training and one-shot averaging: the baselines that clients learn alone.

Init: v = the initial weights. Client: train on from v, in each round in which it takes part.
Send: nothing (local-only), or w - v (one-shot). Server: nothing, or w = mean of the v_k. Evaluate:
v on each client (local-only), or w (one-shot).

Clients never start from the server's weights. So after each round the w of one-shot averaging is
what a single exchange would give after that much training: one run shows all lengths. The
mean is over the cohort; in the paper it is over all clients.

Source: one-shot averaging is algorithm SimuParallelSGD of Zinkevich et al., 2010,
https://papers.nips.cc/paper/2010/hash/abea47ba24142ed16b7d8fbf2c740e0d-Abstract.html
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from simfl.algorithms.algorithm import NO_GRADIENT, Algorithm, Local, State, Update
from simfl.vector import Vector


@dataclass(frozen=True)
class LocalOnly(Algorithm):
    """Train each client alone, and evaluate it with its own weights."""

    name: ClassVar[str] = "local-only"
    weighted_by: ClassVar[str] = "nothing"
    sends_delta: ClassVar[bool] = False
    trains_server: ClassVar[bool] = False
    ignores: ClassVar[tuple[str, ...]] = NO_GRADIENT

    def init(self, weights: Vector) -> State:
        """Return v."""
        return {"v": weights}

    def client(self, local: Local) -> tuple[Update, State]:
        """Train on from v."""
        return Update(), {"v": local.train(local.kept["v"])}

    def personal(self, local: Local) -> Vector:
        """Return v."""
        v: Vector = local.kept["v"]
        return v


@dataclass(frozen=True)
class OneShot(Algorithm):
    """Train each client alone, and average their weights, which no client receives."""

    name: ClassVar[str] = "one-shot"

    def init(self, weights: Vector) -> State:
        """Return v."""
        return {"v": weights}

    def client(self, local: Local) -> tuple[Update, State]:
        """Train on from v, and send how far that is from w."""
        v = local.train(local.kept["v"])
        return Update(local.weights - v), {"v": v}
