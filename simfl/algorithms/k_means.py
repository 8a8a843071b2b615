"""Federated k-means: Lloyd's iterations over all clients' examples.

Client:  assign each example to the nearest of the server's centres
Sum:     by centre, the sum of its examples and their number
Server:  each centre becomes the mean of its examples; one without any stays

With all clients in each round, the centres are those of Lloyd's algorithm on the pooled examples.

Source: Lloyd, 1982, https://doi.org/10.1109/TIT.1982.1056489
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from simfl.algorithms.algorithm import NO_STEPS, Algorithm, Local, ServerSide, State, Total, Update
from simfl.algorithms.counting import one_hot, require_weights
from simfl.models import Batch, ModelFunction
from simfl.models.unsupervised import flat, squared_distances
from simfl.vector import Vector


@dataclass(frozen=True)
class KMeans(Algorithm):
    """Move each centre of ``model.kind: centers`` to the mean of its examples, over all clients."""

    name: ClassVar[str] = "k-means"
    weighted_by: ClassVar[str] = "examples"
    uses_optimizer: ClassVar[bool] = False
    ignores: ClassVar[tuple[str, ...]] = (*NO_STEPS, "client.precision")
    sends_delta: ClassVar[bool] = False

    def client(self, local: Local) -> tuple[Update, State]:
        """Count and add up the examples next to each centre."""
        require_weights(local.weights, "centers", algorithm=self.name, model="centers")
        return Update(sums=local.total(self.assign, local.weights)), {}

    def assign(self, model: ModelFunction, batch: Batch, weights: Any) -> dict[str, Tensor]:
        """Return the sum of the examples next to each centre, and their number."""
        centers_KD = weights["centers"]
        nearest_B = squared_distances(batch.inputs, centers_KD).argmin(dim=1)  # type: ignore[arg-type]
        by_BK = one_hot(nearest_B, len(centers_KD), batch.sample_weights).to(centers_KD.dtype)
        inputs_BD = flat(batch.inputs, centers_KD)  # type: ignore[arg-type]
        return {"sum": by_BK.T @ inputs_BD, "count": by_BK.sum(dim=0)}

    def server(self, total: Total, state: State, here: ServerSide) -> tuple[Vector, State]:
        """Return how far each centre moves."""
        count_K1 = total.sums["count"][:, None]
        centers = here.weights["centers"]
        means = torch.where(count_K1 > 0, total.sums["sum"] / count_K1.clamp(min=1), centers)
        return Vector({"centers": centers - means}), state
