"""FedRep: a common representation, and a head of its own for each client.

Init:    h_k = the initial head
Client:  train h with the body as received, for head_epochs; then the body with that h   (section 4)
Send:    the body's part of w minus its end
Server:  the mean

Source: Collins et al., 2021, Algorithm 1, https://arxiv.org/abs/2102.07078
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import MinLen

from simfl.algorithms.algorithm import Algorithm, Local, State, Update
from simfl.algorithms.layers import in_layers
from simfl.component import Positive
from simfl.vector import Vector


@dataclass(frozen=True)
class FedRep(Algorithm):
    """Train one's own head, then the common body with it.

    ``client.epochs`` and ``client.steps`` are the body's.
    """

    name: ClassVar[str] = "fedrep"
    head: Annotated[tuple[str, ...], MinLen(1)] = ("output",)
    """The layers that each client keeps."""
    head_epochs: Positive = 10.0
    """How often the head's training goes through the examples."""

    def init(self, weights: Vector) -> State:
        """Start at the initial head."""
        return {"head": in_layers(weights, self.head)}

    def client(self, local: Local) -> tuple[Update, State]:
        """Train the head, then the body."""
        start = self.personal(local)
        head = local.kept["head"].names
        body = [name for name in start if name not in head]
        half = local.train(start, only=head, phase="head", epochs=self.head_epochs)
        delta = local.train_delta(half, only=body)
        return Update(delta.select(body)), {"head": half.select(head)}

    def personal(self, local: Local) -> Vector:
        """Return the common body with the own head."""
        head: Vector = local.kept["head"]
        return local.weights | head
