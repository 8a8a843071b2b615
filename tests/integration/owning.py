"""A third-party algorithm whose clients keep, and are evaluated with, the weights they end with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from simfl.algorithms import Algorithm, Local, Update
from simfl.states import State
from simfl.vector import Vector


@dataclass(frozen=True)
class Owning(Algorithm):
    """FedAvg, whose clients keep their last weights."""

    name: ClassVar[str] = "owning"

    def init(self, weights: Vector) -> State:
        """Return the weights that the client starts from."""
        return {"own": weights}

    def client(self, local: Local) -> tuple[Update, State]:
        """Train, and keep where that ends."""
        end = local.train(local.weights)
        return Update(local.weights - end), {"own": end}

    def personal(self, local: Local) -> Vector:
        """Return what the client keeps."""
        own: Vector = local.kept["own"]
        return own
