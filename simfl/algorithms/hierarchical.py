"""Hierarchical averaging: edge servers average their clients, the cloud every so often the edges.

Start:    every edge has the cloud's model
Send:     the edges' models
Client:   train its edge's model; in the round after a step of the cloud, the cloud's
Sum:      by edge, the updates of its clients, weighted by their examples
Server:   each edge's model less the mean of its updates; in each period-th round the cloud takes
          the edges' mean, weighted by the examples since its last one   (Algorithm 1, HierFAVG)
Personal: the model of the client's edge

Source: Liu, Zhang, Song and Letaief, 2020, https://arxiv.org/abs/1905.06641
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from simfl.algorithms.algorithm import Algorithm, Local, ServerSide, Total, Update
from simfl.algorithms.several import moved, pick, scatter, shares, weighted_average
from simfl.component import Count
from simfl.states import State
from simfl.vector import Vector


@dataclass(frozen=True)
class Hierarchical(Algorithm):
    """Average clients at their edge server, and every so often edges at the cloud.

    Client k belongs to edge k mod ``edges``. The server's Optimizer takes the cloud's steps.

    Source: Liu et al., 2020, Algorithm 1, https://arxiv.org/abs/1905.06641
    """

    name: ClassVar[str] = "hierarchical"
    sends_delta: ClassVar[bool] = False
    edges: Count = 2
    """The number of edge servers."""
    period: Count = 2
    """The rounds from one average of the cloud to the next: kappa_2 in the paper."""

    def start(self, weights: Vector, fresh: Callable[[int], Vector]) -> State:
        """Start all edges from the cloud's weights."""
        zeros = torch.zeros(self.edges, dtype=torch.float64)
        return {"models": Vector.stack([weights] * self.edges), "examples": zeros}

    def send(self, state: State) -> State:
        """Send what edges have of their own: after the cloud's step nothing but buffers."""
        return {"models": state["models"]}

    def client(self, local: Local) -> tuple[Update, State]:
        """Train the edge's model."""
        by = shares(local.clients % self.edges, self.edges, local.weight)
        delta = local.train_delta(self.personal(local))
        return Update(sums={"moved": scatter(delta, by), "by": by}), {}

    def server(self, total: Total, state: State, here: ServerSide) -> tuple[Vector, State]:
        """Move the edges' models, and in some rounds the cloud's weights to their mean."""
        by, examples = total.sums["by"], state["examples"] + total.sums["by"]
        models = here.weights.expand(self.edges) | state["models"]
        models = moved(models, total.sums["moved"], by)
        if here.round % self.period:
            return Vector({}), {"models": models, "examples": examples}
        mean = weighted_average(models, examples)
        buffers = mean.select(n for n in mean if n not in here.weights).expand(self.edges)
        zeros = torch.zeros_like(examples)
        return here.weights - mean.select(here.weights), {"models": buffers, "examples": zeros}

    def personal(self, local: Local) -> Vector:
        """Return the edge's model."""
        return local.weights | pick(local.received["models"], local.clients % self.edges)
