"""Gossip, or decentralized SGD: every client has a model, and averages it with its neighbours'.

Start:    every node has the same model
Client:   train its node's model
Sum:      by node, the update
Server:   stands for the nodes: x_i = sum over j of W_ij (x_j - update_j), with Metropolis weights
          W along the graph   (Lian et al., equation 1; Koloskova et al., Algorithm 1)
Personal: the node's model

Sources: Lian et al., 2017, https://arxiv.org/abs/1705.09056; with local steps, Koloskova et al.,
2020, https://arxiv.org/abs/2003.10422
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from simfl.algorithms.algorithm import Algorithm, Local, ServerSide, Total, Update
from simfl.algorithms.several import mixed, moved, pick, scatter, shares, weighted_average
from simfl.algorithms.topology import Topology, build_graph, metropolis_weights
from simfl.component import Count
from simfl.errors import ConfigError
from simfl.states import State
from simfl.vector import Vector


@dataclass(frozen=True)
class Gossip(Algorithm):
    """Train the models of the nodes of a graph, and average each with its neighbours'.

    Clients that do not take part in a round still average. The server's weights, with which the
    test split is evaluated, are the mean of all models. All models are in the server's state and
    are sent to each client, so this is for some dozens of clients.

    Sources: Lian et al., 2017, https://arxiv.org/abs/1705.09056; Koloskova et al., 2020,
    Algorithm 1, https://arxiv.org/abs/2003.10422
    """

    name: ClassVar[str] = "gossip"
    weighted_by: ClassVar[str] = "uniform"
    sends_delta: ClassVar[bool] = False
    nodes: Count
    """The number of clients in the federation."""
    topology: Topology = "ring"
    """Who is whose neighbour. A torus is a square grid whose sides are joined."""
    degree: Count = 3
    """The number of neighbours in a random regular graph."""

    def check_population(self, size: int) -> None:
        """Refuse another number of clients."""
        if size != self.nodes:
            raise ConfigError(f"nodes is {self.nodes}, but there are {size} clients; set it so")

    def start(self, weights: Vector, fresh: Callable[[int], Vector]) -> State:
        """Start all nodes from the same model."""
        build_graph(self.topology, self.nodes, degree=self.degree)
        return {"models": Vector.stack([weights] * self.nodes)}

    def send(self, state: State) -> State:
        """Send all models, of which a client takes its own."""
        return state

    def client(self, local: Local) -> tuple[Update, State]:
        """Train the node's model."""
        delta = local.train_delta(self.personal(local))
        by = shares(local.clients, self.nodes, torch.ones_like(local.num_examples))
        return Update(sums={"moved": scatter(delta, by)}), {}

    def server(self, total: Total, state: State, here: ServerSide) -> tuple[Vector, State]:
        """Average along the graph."""
        graph = build_graph(self.topology, self.nodes, degree=self.degree, seed=here.seed)
        models = moved(state["models"], total.sums["moved"], torch.ones(self.nodes))
        models = mixed(models, metropolis_weights(graph))
        mean = weighted_average(models, torch.ones(self.nodes))
        return here.weights - mean.select(here.weights), {"models": models}

    def personal(self, local: Local) -> Vector:
        """Return the node's model."""
        return pick(local.received["models"], local.clients)
