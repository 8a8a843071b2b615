"""BatchNorm's running statistics: they are in no norm, and servers of several models have them."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from simfl.algorithms import IFCA, Algorithm, FedAvg, FedExP, Gossip, Hierarchical, QFedAvg
from tests.unit.algorithms.federation import Federation, least_squares

CLIENTS = [(10 * x + 5, y) for x, y in least_squares()]
"""Far from mean 0 and variance 1, so that running statistics move by much more than weights."""
LRATE, STEPS = 0.05, 3


class Normed64(nn.Module):
    """Batch normalization, and a linear layer without a bias, in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3).double()
        self.linear = nn.Linear(3, 1, bias=False).double()
        nn.init.constant_(self.linear.weight, 0.5)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.linear(self.norm(inputs.double()))
        return outputs.squeeze(-1)


def loss(net: nn.Module, k: int) -> Tensor:
    x, y = (torch.from_numpy(part.astype(np.float32)) for part in CLIENTS[k])
    return ((net(x) - y) ** 2).mean()


def updates() -> list[dict[str, Tensor]]:
    """Return the updates of all clients by torch's SGD."""
    found = []
    for k in range(len(CLIENTS)):
        net = Normed64()
        start = copy.deepcopy(net)
        optimizer = torch.optim.SGD(net.parameters(), lr=LRATE)
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss(net, k).backward()
            optimizer.step()
        ends = dict(net.named_parameters())
        found.append({n: (w - ends[n]).detach() for n, w in start.named_parameters()})
    return found


def square(update: dict[str, Tensor]) -> float:
    return sum(float((tensor**2).sum()) for tensor in update.values())


def run(algorithm: Algorithm) -> Any:
    return Federation(algorithm, CLIENTS, Normed64(), lrate=LRATE, steps=STEPS).run().weights


def test_fedexp_steps_as_far_as_trained_weights_disagree() -> None:
    """Jhunjhunwala et al., 2023, equation 4."""
    deltas = updates()
    mean = {n: torch.stack([d[n] for d in deltas]).mean(dim=0) for n in deltas[0]}
    rate = sum(map(square, deltas)) / (2 * len(deltas) * (square(mean) + 1e-3))
    found = run(FedExP(epsilon=1e-3))
    for name, start in Normed64().named_parameters():
        expected = start.detach() - max(1.0, rate) * mean[name]
        torch.testing.assert_close(found[name], expected, rtol=0, atol=1e-10)
    assert rate > 1.0


@pytest.mark.parametrize("q", [0.5, 1.0])
def test_q_fedavgs_h_has_the_norm_of_trained_weights(q: float) -> None:
    """Li et al., 2020, Algorithm 2; F_k is the loss in evaluation mode."""
    deltas, start = updates(), Normed64().eval()
    losses = [loss(start, k).item() for k in range(len(CLIENTS))]
    h = sum(
        q * F ** (q - 1) * square(delta) / LRATE**2 + F**q / LRATE
        for F, delta in zip(losses, deltas, strict=True)
    )
    found = run(QFedAvg(q=q))
    for name, before in start.named_parameters():
        step = sum(F**q * d[name] / LRATE for F, d in zip(losses, deltas, strict=True)) / h
        torch.testing.assert_close(found[name], before.detach() - step, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "algorithm",
    [IFCA(models=1), Hierarchical(edges=1, period=2), Gossip(nodes=4, topology="complete")],
    ids=repr,
)
def test_the_server_of_several_models_has_the_mean_of_their_statistics(algorithm: Any) -> None:
    """Where that is FedAvg's; FedAvg's is that of torch."""
    options: dict[str, Any] = {"lrate": LRATE, "steps": STEPS, "weighting": "uniform"}
    found, expected = (
        Federation(one, CLIENTS, Normed64(), **options).run(2).weights
        for one in (algorithm, FedAvg())
    )
    for name in ("norm.running_mean", "norm.running_var", "linear.weight"):
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-10)
    assert found["norm.num_batches_tracked"] == 2 * STEPS
    assert found["norm.running_mean"].abs().min() > 0.5
