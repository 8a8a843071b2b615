"""FedBABU: only the body is trained; the head stays as it was drawn, for all clients alike.

Client:  train the body with the head as it is   (section 4.2)
Send:    the body's part of w minus its end
Server:  the mean; to personalise, a client fine-tunes the whole model

Source: Oh et al., 2022, Algorithm 1, https://arxiv.org/abs/2106.06042
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
class FedBABU(Algorithm):
    """Train the body alone; for evaluation, a client fine-tunes body and head."""

    name: ClassVar[str] = "fedbabu"
    head: Annotated[tuple[str, ...], MinLen(1)] = ("output",)
    """The layers that are not trained."""
    tuning_epochs: Positive | None = 5.0
    """The epochs of fine-tuning before an evaluation; nothing of it is kept. null: none."""

    def client(self, local: Local) -> tuple[Update, State]:
        """Train the body."""
        head = in_layers(local.weights, self.head)
        body = [name for name in local.weights if name not in head]
        return Update(local.train_delta(local.weights, only=body).select(body)), {}

    def personal(self, local: Local) -> Vector:
        """Return the fine-tuned weights."""
        if self.tuning_epochs is None:
            return local.weights
        return local.train(local.weights, phase="tuning", epochs=self.tuning_epochs)
