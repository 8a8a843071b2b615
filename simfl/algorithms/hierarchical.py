"""Hierarchical averaging: edge servers average their clients, the cloud every so often the edges.

Start: every edge has the cloud's model. Client: train the model of its edge. Send: the update, by
edge. Server: each edge's model less the mean of its updates; in each period-th round the cloud has
the edges' mean, weighted by the examples since its last one, and they go on from it (Algorithm 1,
HierFAVG). Personal: the model of the client's edge.

Source: Liu, Zhang, Song and Letaief, 2020, https://arxiv.org/abs/1905.06641
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
class Hierarchical(Algorithm):
    """Average clients at their edge server, and every so often edges at the cloud."""

    name: ClassVar[str] = "hierarchical"
    sends_delta: ClassVar[bool] = False
    edges: Count = 2
    """The number of edge servers; client k belongs to edge k mod ``edges``."""
    period: Count = 2
    """The rounds from one average of the cloud to the next: kappa_2 in the paper."""

    def start(self, weights: Vector, fresh: Fresh) -> State:
        """Start all edges from the cloud's weights."""
        zeros = torch.zeros(self.edges).double()
        return {"models": Vector.stack([weights] * self.edges), "examples": zeros}

    def send(self, state: State) -> State:
        """Send what edges have of their own: after the cloud's step nothing but buffers."""
        return {"models": state["models"]}

    def client(self, local: Local) -> tuple[Update, State]:
        """Train the edge's model."""
        edge, delta = local.clients % self.edges, local.train_delta(self.personal(local))
        return Update(sums=by_model(delta, edge, num_models=self.edges, weight=local.weight)), {}

    def server(self, total: Total, state: State, here: ServerSide) -> tuple[Vector, State]:
        """Move the edges' models, and in some rounds the cloud's weights to their mean."""
        by, examples = total.sums["by"], state["examples"] + total.sums["by"]
        models = moved(here.weights.expand(self.edges) | state["models"], total.sums["moved"], by)
        if here.round % self.period:
            return Vector({}), {"models": models, "examples": examples}
        mean = weighted_average(models, examples)
        state = {"models": mean.select(here.buffers).expand(self.edges), "examples": examples * 0}
        return (here.weights | here.buffers) - mean, state

    def personal(self, local: Local) -> Vector:
        """Return the edge's model."""
        return local.weights | pick(local.received["models"], local.clients % self.edges)
