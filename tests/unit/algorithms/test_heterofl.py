"""HeteroFL against networks that really are smaller, in plain torch and float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from simfl.algorithms import FedAvg, HeteroFL
from simfl.algorithms.widths import narrowed
from simfl.errors import ConfigError
from simfl.models import TorchModel
from simfl.vector import Vector
from tests.unit.algorithms.federation import Federation, three_classes

CLIENTS = three_classes()
LRATE = 0.2
STACKS = pytest.mark.parametrize("stack", [1, 4])


class Deep(nn.Module):
    """Two hidden layers, with sigmoids, which are not 0 at 0."""

    def __init__(self, first: int = 8, second: int = 6, *, scale: float = 1.0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.a = nn.Linear(4, first).double()
            self.b = nn.Linear(first, second).double()
            self.c = nn.Linear(second, 3).double()
        self.scale = scale

    def forward(self, inputs: Tensor) -> Tensor:
        first = torch.sigmoid(self.a(inputs.double()) * self.scale)
        outputs: Tensor = self.c(torch.sigmoid(self.b(first) * self.scale))
        return outputs


def part_of(weights: dict[str, Tensor], small: Deep) -> Deep:
    """Cut the leading block of each weight."""
    own = {
        name: weights[name][tuple(slice(size) for size in tensor.shape)].clone()
        for name, tensor in small.state_dict().items()
    }
    small.load_state_dict(own)
    return small


@STACKS
@pytest.mark.parametrize("scaled", [True, False])
def test_each_client_trains_a_smaller_network_and_weights_average_over_those_that_have_them(
    scaled: bool, stack: int
) -> None:
    widths = (1.0, 0.5, 0.3)
    units = ((8, 6), (4, 3), (3, 2))  # rounded up
    fed = Federation(
        HeteroFL(widths=widths, scaled=scaled),
        CLIENTS,
        Deep(),
        loss="cross-entropy",
        lrate=LRATE,
        stack=stack,
        batch_size=4,
    )
    weights = {name: tensor.detach() for name, tensor in Deep().state_dict().items()}
    for round in (1, 2):
        total = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
        count = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
        for k in range(3):
            net = part_of(weights, Deep(*units[k], scale=1 / widths[k] if scaled else 1.0))
            optimizer = torch.optim.SGD(net.parameters(), lr=LRATE)
            for x, y in fed.batches(k, round=round):
                optimizer.zero_grad()
                F.cross_entropy(net(x), y).backward()
                optimizer.step()
            for name, tensor in net.state_dict().items():
                block = tuple(slice(size) for size in tensor.shape)
                total[name][block] += tensor
                count[name][block] += 1
        weights = {
            name: torch.where(count[name] > 0, total[name] / count[name], weights[name])
            for name in weights
        }
        fed.run()
        for name, tensor in weights.items():
            close = {"rtol": 0, "atol": 1e-10}
            torch.testing.assert_close(fed.weights[name], tensor, **close)


def test_whole_widths_are_fedavg_with_equal_weights() -> None:
    clients = [CLIENTS[0]] * 3
    options: dict[str, Any] = {"loss": "cross-entropy", "lrate": LRATE, "steps": 2}
    fed = Federation(HeteroFL(widths=(1.0,)), clients, Deep(), **options).run(2)
    expected = Federation(FedAvg(), clients, Deep(), **options).run(2).weights
    for name, tensor in expected.items():
        torch.testing.assert_close(fed.weights[name], tensor, rtol=0, atol=1e-10)


def test_kernels_norms_and_what_follows_a_flattening_are_cut_by_channels() -> None:
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(4 * 9, 5), nn.Linear(5, 3)
    )
    weights = TorchModel(net).get_weights()
    by = narrowed(weights, 0.5, scaled=False)
    assert [int(by[f"0.{name}"].sum()) for name in ("weight", "bias")] == [2 * 2 * 9, 2]
    assert by["1.weight"].tolist() == by["1.bias"].tolist() == [1.0, 1.0, 0.0, 0.0]
    assert by["3.weight"][:3, : 2 * 9].all()
    assert int(by["3.weight"].sum()) == 3 * 2 * 9
    assert by["4.weight"].tolist() == [[1.0, 1.0, 1.0, 0.0, 0.0]] * 3
    assert by["4.bias"].all()


@pytest.mark.parametrize("layer", ["lstm", "shortcut"])
def test_what_is_no_chain_is_refused(layer: str) -> None:
    """A LSTM has four gates a unit; a block's shortcut takes the inputs of what precedes it."""
    lstm = nn.LSTM(4, 6)
    block = nn.ModuleDict({"conv1": nn.Conv2d(2, 4, 3), "shortcut": nn.Conv2d(2, 4, 1)})
    weights = Vector(dict((lstm if layer == "lstm" else block).state_dict()))
    with pytest.raises(ConfigError, match=r"is for chains of layers, but '.*' has \d inputs"):
        narrowed(weights, 0.5, scaled=True)
