"""IFCA: several models, of which each client trains the one that suits it best.

Start: K models from different initial weights. Client: j = argmin f_k(w_j) over all of its
examples; train w_j (lines 6 to 8). Send: the update, at the place of model j. Server: each model
less the mean of its updates (option II, model averaging). Personal: the best of the models.
Restart with other seeds, as the paper does, and keep the run with the least training loss.

Source: Ghosh, Chung, Yin and Ramchandran, 2020, Algorithm 1, https://arxiv.org/abs/2006.04088
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from simfl.algorithms.algorithm import Algorithm, Fresh, Local, ServerSide, State, Total, Update
from simfl.algorithms.several import by_model, moved, pick, weighted_average
from simfl.component import Count
from simfl.vector import Vector


@dataclass(frozen=True)
class IFCA(Algorithm):
    """Cluster clients by the model that has the least loss on their examples."""

    name: ClassVar[str] = "ifca"
    sends_delta: ClassVar[bool] = False
    models: Count = 2
    """The number of clusters."""

    def start(self, weights: Vector, fresh: Fresh) -> State:
        """Draw the models."""
        return {"models": Vector.stack([weights, *map(fresh, range(1, self.models))])}

    def send(self, state: State) -> State:
        """Send all models."""
        return state

    def best(self, local: Local) -> torch.Tensor:
        """Return which model has the least loss."""
        models = local.received["models"].unstack()
        return torch.stack([local.loss(w) for w in models]).argmin(dim=0)

    def client(self, local: Local) -> tuple[Update, State]:
        """Train the best model."""
        which = self.best(local)
        delta = local.train_delta(pick(local.received["models"], which))
        return Update(sums=by_model(delta, which, num_models=self.models, weight=local.weight)), {}

    def server(self, total: Total, state: State, here: ServerSide) -> tuple[Vector, State]:
        """Move each model, and the server's weights, which the test split sees, to their mean."""
        models = moved(state["models"], total.sums["moved"], total.sums["by"])
        mean = weighted_average(models, total.sums["by"])
        return (here.weights | here.buffers) - mean, {"models": models}

    def personal(self, local: Local) -> Vector:
        """Return the best model."""
        return pick(local.received["models"], self.best(local))
