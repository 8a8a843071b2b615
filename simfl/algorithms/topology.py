"""Graphs of clients that exchange models without a server, and how they average along them."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from simfl.errors import ConfigError, import_extra

Topology: TypeAlias = Literal["ring", "complete", "star", "torus", "random-regular"]


def require_nodes(nodes: int, *, clients: int) -> None:
    """Raise an error unless each node is a client.

    Raises:
        ConfigError: with both numbers.
    """
    if clients != nodes:
        raise ConfigError(f"nodes is {nodes}, but there are {clients} clients; set it so")


def mixing_matrix(topology: Topology, num_nodes: int, *, degree: int, seed: int = 0) -> Tensor:
    """Return the Metropolis weights [N, N] of a graph; errors are ``build_graph``'s."""
    return metropolis_weights(build_graph(topology, num_nodes, degree=degree, seed=seed))


def build_graph(topology: Topology, num_nodes: int, *, degree: int = 3, seed: int = 0) -> Any:
    """Return a connected networkx graph of the nodes 0 to num_nodes - 1.

    Args:
        topology: which; a torus is a square grid whose sides are joined.
        num_nodes: how many.
        degree: of a random regular graph.
        seed: of a random graph.

    Raises:
        MissingExtraError: without networkx.
        ConfigError: if there is no such graph.
    """
    nx = import_extra("networkx", what="the algorithm 'gossip'", extra="topology")
    side = round(num_nodes**0.5)
    try:
        if topology == "ring":
            graph = nx.cycle_graph(num_nodes)
        elif topology == "complete":
            graph = nx.complete_graph(num_nodes)
        elif topology == "star":
            graph = nx.star_graph(num_nodes - 1)
        elif topology == "torus" and side * side == num_nodes:
            grid = nx.grid_2d_graph(side, side, periodic=True)
            graph = nx.convert_node_labels_to_integers(grid, ordering="sorted")
        elif topology == "torus":
            raise ConfigError(f"a torus has {side**2} or {(side + 1) ** 2} nodes, not {num_nodes}")
        else:
            graph = nx.random_regular_graph(degree, num_nodes, seed=seed)
    except nx.NetworkXError as error:
        raise ConfigError(f"there is no {topology} graph of {num_nodes} nodes: {error}") from error
    if not nx.is_connected(graph):
        raise ConfigError(f"this {topology} graph is not connected; give it a larger degree")
    return graph


def metropolis_weights(graph: Any) -> Tensor:
    """Return W [N, N] of a graph: symmetric, with rows that sum to 1, so that averages are kept.

    W_ij = 1 / (1 + max(degree_i, degree_j)) for neighbours, and the rest of each row is W_ii.

    Source: Xiao, Boyd and Kim, 2007, equation 4, https://doi.org/10.1016/j.jpdc.2006.08.010
    """
    weights = torch.zeros(len(graph), len(graph), dtype=torch.float64)
    for i, j in graph.edges:
        if i != j:
            weights[i, j] = weights[j, i] = 1.0 / (1 + max(graph.degree[i], graph.degree[j]))
    return weights + torch.diag(1.0 - weights.sum(dim=1))
