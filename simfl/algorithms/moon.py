"""MOON: features near those of the server's model, and far from those of one's own former one.

Init:    v_k = w
Client:  minimise f_k(v) + mu · contrast, where for the features z, z_w, z_v of an example by the
         model in training, the server's and the former one, with s for the cosine similarity,
         contrast = -log(exp(s(z, z_w)/tau) / (exp(s(z, z_w)/tau) + exp(s(z, z_v)/tau)))
                                                                           (equations 3 and 4)
Send:    w minus the end, which is the next round's v_k
Server:  the mean

Source: Li, He and Song, 2021, Algorithm 1, https://arxiv.org/abs/2103.16257
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from simfl.algorithms.algorithm import Algorithm, Local, State, Update
from simfl.component import NonNegative, Positive
from simfl.models import Batch, ModelFunction
from simfl.models.per_example import weighted_mean
from simfl.vector import Vector


@dataclass(frozen=True)
class Moon(Algorithm):
    """Add a contrast to the loss: features near the server's model's, far from one's own."""

    name: ClassVar[str] = "moon"
    objective_over: ClassVar[str | None] = "examples"
    mu: NonNegative = 1.0
    """The strength of the contrast."""
    tau: Positive = 0.5
    """Its temperature."""
    layer: str = "output"
    """The layer whose input is the features, usually the last one."""

    def init(self, weights: Vector) -> State:
        """Have the initial weights for the former ones: there the contrast has no gradient."""
        return {"former": weights}

    def client(self, local: Local) -> tuple[Update, State]:
        """Train, and keep where it ended."""
        w, former = local.weights, local.kept["former"]
        end = local.train(w, objective=self.objective, given=(w, former))
        return Update(w - end), {"former": end}

    def objective(self, model: ModelFunction, v: Any, batch: Batch, w: Any, former: Any) -> Tensor:
        """Return the loss and mu times the contrast."""
        outputs, z = model.features(v, batch.inputs, self.layer)
        others = [model.features(other, batch.inputs, self.layer)[1] for other in (w, former)]
        similar = [cosine_similarity(z.flatten(1), other.flatten(1)) for other in others]
        contrast = -(torch.stack(similar, dim=1) / self.tau).log_softmax(dim=1)[:, 0]
        loss: Tensor = model.loss_of(outputs, batch)
        return loss + self.mu * weighted_mean(contrast, batch.sample_weights)
