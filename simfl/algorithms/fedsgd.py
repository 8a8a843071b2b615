"""FedSGD: clients send gradients, and the server takes the step: centralised gradient descent.

Client: the gradient at w over all of its examples. Send: that. Server: one step of its
Optimizer with the mean, weighted by examples. With all clients in each round this is gradient
descent on the union of their examples, or what ``server.optimizer`` makes of it: Adam, momentum.
``server.optimizer.lrate`` is the learning rate; ``client.optimizer`` is not used.

Source: McMahan et al., 2017, section 2, https://arxiv.org/abs/1602.05629
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from simfl.algorithms.algorithm import NO_STEPS, Algorithm, Local, State, Update
from simfl.algorithms.full_gradient import full_gradient


@dataclass(frozen=True)
class FedSGD(Algorithm):
    """Send the gradient over all of a client's examples."""

    name: ClassVar[str] = "fedsgd"
    weighted_by: ClassVar[str] = "examples"
    uses_optimizer: ClassVar[bool] = False
    ignores: ClassVar[tuple[str, ...]] = NO_STEPS

    def client(self, local: Local) -> tuple[Update, State]:
        """Return the gradient at w."""
        gradient = full_gradient(local, local.weights)
        return Update(gradient, weight=local.num_examples), {}
