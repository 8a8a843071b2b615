"""IFCA, hierarchical averaging and gossip: several models in the server's state."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest
import torch

from simfl.algorithms import IFCA, FedAvg, Gossip, Hierarchical
from simfl.algorithms.topology import Topology, build_graph, metropolis_weights
from simfl.errors import ConfigError, MissingExtraError
from tests.unit.algorithms.federation import (
    Federation,
    Linear64,
    least_squares,
    normal_equations,
)

CLIENTS = least_squares((6, 9, 5, 12, 7, 8))
PARTS = [normal_equations(client) for client in CLIENTS]
SIZES = np.array([len(x) for x, _ in CLIENTS])
LRATE = 0.3
STACKS = pytest.mark.parametrize("stack", [1, 4])
ATOL = 1e-10


def trained(k: int, w: np.ndarray, steps: int) -> np.ndarray:
    A, b = PARTS[k]
    for _ in range(steps):
        w = w - LRATE * (A @ w - b)
    return w


def fedavg(rounds: int, **options: Any) -> Any:
    return Federation(FedAvg(), CLIENTS, Linear64(3), lrate=LRATE, **options).run(rounds).weights


@STACKS
@pytest.mark.parametrize(
    "algorithm",
    [IFCA(models=1), Hierarchical(edges=1, period=2), Hierarchical(edges=3, period=1)],
    ids=repr,
)
@pytest.mark.parametrize("weighting", ["examples", "uniform"])
def test_one_model_or_one_edge_or_a_cloud_in_each_round_is_fedavg(
    algorithm: Any, stack: int, weighting: str
) -> None:
    options: dict[str, Any] = {"weighting": weighting, "lrate": LRATE, "steps": 2}
    fed = Federation(algorithm, CLIENTS, Linear64(3), stack=stack, **options).run(4)
    average = Federation(FedAvg(), CLIENTS, Linear64(3), **options).run(4)
    torch.testing.assert_close(fed.weights["w"], average.weights["w"], rtol=0, atol=ATOL)


def test_uniform_weights_are_those_of_numpy() -> None:
    options: dict[str, Any] = {"weighting": "uniform", "lrate": LRATE, "steps": 2}
    fed = Federation(IFCA(models=1), CLIENTS, Linear64(3), **options).run()
    expected = np.mean([trained(k, np.zeros(3), 2) for k in range(6)], axis=0)
    np.testing.assert_allclose(fed.weights["w"], expected, rtol=0, atol=1e-10)


@STACKS
def test_edges_average_their_clients_and_every_third_round_the_cloud_averages_edges(
    stack: int,
) -> None:
    """Liu et al., 2020, Algorithm 1, where client 0 is away in the second round."""
    algorithm = Hierarchical(edges=2, period=3)
    fed = Federation(algorithm, CLIENTS, Linear64(3), lrate=LRATE, stack=stack, steps=2)
    edges, cloud, examples = [np.zeros(3)] * 2, np.zeros(3), np.zeros(2)
    for round in range(1, 7):
        cohort = [k for k in range(6) if (k, round) != (0, 2)]
        for e in (0, 1):
            own = [k for k in cohort if k % 2 == e]
            ends = [trained(k, edges[e], 2) for k in own]
            edges[e] = np.average(ends, axis=0, weights=SIZES[own])
            examples[e] += SIZES[own].sum()
        if round % 3 == 0:
            cloud = np.average(edges, axis=0, weights=examples)
            edges, examples = [cloud, cloud], np.zeros(2)
        fed.run(cohort=cohort)
        np.testing.assert_allclose(fed.weights["w"], cloud, rtol=0, atol=ATOL)
        for k in (2, 3):
            np.testing.assert_allclose(fed.personal(k)["w"], edges[k % 2], rtol=0, atol=ATOL)


def test_the_clouds_step_is_that_of_the_servers_optimizer() -> None:
    options: dict[str, Any] = {"lrate": LRATE, "server_lrate": 0.5}
    fed = Federation(Hierarchical(edges=3, period=1), CLIENTS, Linear64(3), **options).run(3)
    expected = fedavg(3, server_lrate=0.5)
    torch.testing.assert_close(fed.weights["w"], expected["w"], rtol=0, atol=1e-10)


@STACKS
def test_ifca_finds_two_planted_clusters_and_their_optima(stack: int) -> None:
    clients = least_squares((8, 9, 10, 8, 9, 10), groups=2)
    parts = [normal_equations(client) for client in clients]
    sizes = [len(x) for x, _ in clients]
    # As in the paper, the start with the least loss is chosen from several.
    starts = [
        Federation(
            IFCA(models=2), clients, DrawnLinear, lrate=0.5, stack=stack, steps=1, seed=seed
        ).run(25)
        for seed in range(3)
    ]
    fed = min(starts, key=lambda fed: fed.report.train_loss)
    found = {}
    for group in (0, 1):
        own = [k for k in range(6) if k % 2 == group]
        left = sum(sizes[k] * parts[k][0] for k in own)
        right = sum(sizes[k] * parts[k][1] for k in own)
        found[group] = np.linalg.solve(left, right)
    for k in range(6):
        np.testing.assert_allclose(fed.personal(k)["w"], found[k % 2], rtol=0, atol=ATOL)


class DrawnLinear(Linear64):
    """A linear model whose weights are drawn."""

    def __init__(self) -> None:
        super().__init__(3, torch.randn(3).tolist())


@STACKS
@pytest.mark.parametrize("topology", ["ring", "complete", "star"])
def test_gossip_without_training_multiplies_by_the_mixing_matrix(
    topology: Topology, stack: int
) -> None:
    """One round of training, then rounds in which only client 0, with a rate of 0, takes part."""
    fed = Federation(
        Gossip(nodes=6, topology=topology), CLIENTS, Linear64(3), lrate=LRATE, stack=stack
    )
    fed.run()
    W = metropolis_weights(build_graph(topology, 6)).numpy()
    ends = np.array([trained(k, np.zeros(3), 1) for k in range(6)])
    np.testing.assert_allclose(fed.state["models"]["w"], W @ ends, rtol=0, atol=ATOL)
    mean = ends.mean(axis=0)
    np.testing.assert_allclose(fed.weights["w"], mean, rtol=0, atol=ATOL)
    rest = Federation(Gossip(nodes=6, topology=topology), CLIENTS, Linear64(3), lrate=0.0)
    rest.snapshot = fed.snapshot
    rest.engine._server.restore(fed.snapshot)
    rest.run(4, cohort=[0])
    expected = np.linalg.matrix_power(W, 5) @ ends
    np.testing.assert_allclose(rest.state["models"]["w"], expected, rtol=0, atol=ATOL)


@STACKS
def test_gossip_trains_each_nodes_model_and_averages_it_with_its_neighbours(stack: int) -> None:
    """Koloskova et al., 2020, Algorithm 1; nodes 1 and 4 are away in the second round."""
    fed = Federation(
        Gossip(nodes=6, topology="ring"), CLIENTS, Linear64(3), lrate=LRATE, stack=stack, steps=2
    )
    W = np.zeros((6, 6))
    for i in range(6):
        for j in (i - 1, i, i + 1):
            W[i, j % 6] = 1 / 3
    x = np.zeros((6, 3))
    for cohort in (range(6), (0, 2, 3, 5), range(6)):
        x = W @ np.array([trained(k, x[k], 2) if k in cohort else x[k] for k in range(6)])
        fed.run(cohort=cohort)
    for k in range(6):
        np.testing.assert_allclose(fed.personal(k)["w"], x[k], rtol=0, atol=ATOL)


@pytest.mark.parametrize(
    ("topology", "nodes"),
    [("ring", 7), ("complete", 5), ("star", 6), ("torus", 9), ("random-regular", 10)],
)
def test_metropolis_weights_keep_averages_and_follow_the_edges(
    topology: Topology, nodes: int
) -> None:
    graph = build_graph(topology, nodes)
    W = metropolis_weights(graph).numpy()
    np.testing.assert_allclose(W, W.T, rtol=0, atol=0)
    np.testing.assert_allclose(W.sum(axis=1), 1.0, rtol=0, atol=1e-15)
    assert (W >= 0).all()
    neighbours = {(i, j) for i, j in zip(*np.nonzero(W), strict=True) if i != j}
    assert neighbours == {(i, j) for edge in graph.edges for i, j in (edge, edge[::-1])}
    # All converge to the average: the second largest eigenvalue is below 1.
    assert np.sort(np.abs(np.linalg.eigvalsh(W)))[-2] < 1 - 1e-3


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"topology": "torus", "nodes": 10}, "a torus has 9 or 16 nodes, not 10"),
        ({"topology": "random-regular", "nodes": 5}, "no random-regular graph of 5 nodes: n * d"),
        (
            {"topology": "random-regular", "nodes": 6, "degree": 1},
            "is not connected; give it a larger degree",
        ),
    ],
)
def test_a_graph_that_does_not_exist_is_refused(keys: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("*", r"\*")):
        Federation(Gossip(**keys), CLIENTS, Linear64(3))


def test_gossip_refuses_another_number_of_clients() -> None:
    with pytest.raises(ConfigError, match="nodes is 4, but there are 6 clients; set it so"):
        Gossip(nodes=4).check_population(6)
    Gossip(nodes=6).check_population(6)


def test_without_networkx_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "networkx":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setitem(__import__("sys").modules, "networkx", None)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=r"pip install 'simfl\[topology\]'"):
        build_graph("ring", 4)
