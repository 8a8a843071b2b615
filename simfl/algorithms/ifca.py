"""IFCA: several models, of which each client trains the one that suits it best.

Start:    K models from different initial weights
Send:     all of them
Client:   j = argmin f_k(w_j) over all of its examples; train w_j             (lines 6 to 8)
Sum:      by model, the updates of its clients, weighted by their examples
Server:   each model less the mean of its updates (option II, model averaging)
Personal: the best of the models

Source: Ghosh, Chung, Yin and Ramchandran, 2020, Algorithm 1, https://arxiv.org/abs/2006.04088
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from simfl.algorithms.algorithm import Algorithm, Local, ServerSide, Total, Update
from simfl.algorithms.several import moved, pick, scatter, shares, weighted_average
from simfl.component import Count
from simfl.states import State
from simfl.vector import Vector


@dataclass(frozen=True)
class IFCA(Algorithm):
    """Cluster clients by the model that has the least loss on their examples.

    Which clusters are found depends on the initial weights: as in the paper, restart with other
    seeds, and choose the run with the least training loss. The server's weights, with which the
    test split is evaluated, are the mean of the models.

    Source: Ghosh et al., 2020, Algorithm 1, https://arxiv.org/abs/2006.04088
    """

    name: ClassVar[str] = "ifca"
    sends_delta: ClassVar[bool] = False
    models: Count = 2
    """The number of clusters."""

    def start(self, weights: Vector, fresh: Callable[[int], Vector]) -> State:
        """Draw the models."""
        others = [fresh(draw) for draw in range(1, self.models)]
        return {"models": Vector.stack([weights, *others])}

    def send(self, state: State) -> State:
        """Send all models."""
        return state

    def best(self, local: Local) -> tuple[Tensor, Vector]:
        """Return which model has the least loss, and that model."""
        models = local.received["models"]
        which = torch.stack([local.loss(model) for model in models.unstack()]).argmin(dim=0)
        return which, pick(models, which)

    def client(self, local: Local) -> tuple[Update, State]:
        """Train the best model."""
        which, w = self.best(local)
        by = shares(which, self.models, local.weight)
        return Update(sums={"moved": scatter(local.train_delta(w), by), "by": by}), {}

    def server(self, total: Total, state: State, here: ServerSide) -> tuple[Vector, State]:
        """Move each model, and the server's weights to their mean."""
        models = moved(state["models"], total.sums["moved"], total.sums["by"])
        mean = weighted_average(models, total.sums["by"]).select(here.weights)
        return here.weights - mean, {"models": models}

    def personal(self, local: Local) -> Vector:
        """Return the best model."""
        return self.best(local)[1]
