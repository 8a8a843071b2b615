"""Gossip, or decentralized SGD: every client has a model, and averages it with its neighbours'.

Start: every node has the same model. Client: train its node's model. Send: the update, at the place
of its node. Server, which stands for the nodes, also for those that are away: x_i = sum over j of
W_ij (x_j - update_j), with Metropolis weights W along the graph (Lian et al., equation 1; Koloskova
et al., Algorithm 1). Personal: the node's model; w, for the test split, is the mean of all.

Source: Lian et al., 2017, https://arxiv.org/abs/1705.09056; with local steps, Koloskova et al.,
2020, https://arxiv.org/abs/2003.10422
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from simfl.algorithms.algorithm import Algorithm, Fresh, Local, ServerSide, State, Total, Update
from simfl.algorithms.several import by_model, mixed, moved, pick, weighted_average
from simfl.algorithms.topology import Topology, mixing_matrix, require_nodes
from simfl.component import Count
from simfl.vector import Vector


@dataclass(frozen=True)
class Gossip(Algorithm):
    """Average each client's model with its neighbours'; all are sent to each of some dozens."""

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
        require_nodes(self.nodes, clients=size)

    def start(self, weights: Vector, fresh: Fresh) -> State:
        """Start all nodes from the same model."""
        mixing_matrix(self.topology, self.nodes, degree=self.degree)  # or it is refused
        return {"models": Vector.stack([weights] * self.nodes)}

    def send(self, state: State) -> State:
        """Send all models, of which a client takes its own."""
        return state

    def client(self, local: Local) -> tuple[Update, State]:
        """Train the node's model."""
        delta = local.train_delta(self.personal(local))
        return Update(sums=by_model(delta, local.clients, num_models=self.nodes)), {}

    def server(self, total: Total, state: State, here: ServerSide) -> tuple[Vector, State]:
        """Average along the graph."""
        W = mixing_matrix(self.topology, self.nodes, degree=self.degree, seed=here.seed)
        models = moved(state["models"], total.sums["moved"], total.sums["by"])
        models = mixed(models, W)
        mean = weighted_average(models)
        return (here.weights | here.buffers) - mean, {"models": models}

    def personal(self, local: Local) -> Vector:
        """Return the node's model."""
        return pick(local.received["models"], local.clients)
