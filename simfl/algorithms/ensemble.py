"""A one-shot ensemble: the predictions of the clients' models are averaged, not the weights.

Client:   train w_k from w
Send:     w_k
Server:   keep all w_k of the round; w stays, and a further round starts from it again
Outputs:  log of the mean over k of softmax(the logits of w_k), or the mean of their outputs

Source: Guha, Talwalkar and Smith, 2019, section 2, https://arxiv.org/abs/1902.11175
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.func import vmap

from simfl.algorithms.algorithm import NO_GRADIENT, Algorithm, Local, ServerSide, Total, Update
from simfl.models import Inputs, ModelFunction
from simfl.states import State
from simfl.vector import Keyed, Vector


@dataclass(frozen=True)
class Ensemble(Algorithm):
    """Evaluate the mean prediction of the last round's models; it is meant for a single round."""

    name: ClassVar[str] = "ensemble"
    weighted_by: ClassVar[str] = "uniform"
    sends_delta: ClassVar[bool] = False
    ignores: ClassVar[tuple[str, ...]] = NO_GRADIENT
    average: Literal["probabilities", "outputs"] = "probabilities"
    """What is averaged: the probabilities of classes, of which the outputs are logits, or the
    outputs, as for regression."""

    @property
    def needs_classes(self) -> bool:
        """Whether probabilities are averaged."""
        return self.average == "probabilities"

    def client(self, local: Local) -> tuple[Update, State]:
        """Train, and send the model."""
        return Update(sums={"models": Keyed(local.clients, local.train(local.weights))}), {}

    def start(self, weights: Vector, fresh: Callable[[int], Vector]) -> State:
        """Begin with the initial model alone."""
        return {"models": Vector.stack([weights])}

    def send(self, state: State) -> State:
        """Send all models, for the evaluation."""
        return state

    def server(self, total: Total, state: State, here: ServerSide) -> tuple[Vector, State]:
        """Keep the models of this round."""
        return total.delta, {"models": total.sums["models"].values}

    def outputs(
        self, model: ModelFunction, weights: Vector, received: State, inputs: Inputs
    ) -> Tensor:
        """Return the mean of the models' predictions: [B, ..., classes]."""
        models = dict(received["models"].items())
        outputs_KB: Tensor = vmap(lambda one: model(one, inputs))(models)
        if self.average == "outputs":
            return outputs_KB.mean(dim=0)
        return outputs_KB.log_softmax(dim=-1).logsumexp(dim=0) - torch.tensor(len(outputs_KB)).log()
