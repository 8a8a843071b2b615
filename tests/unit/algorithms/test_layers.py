"""FedRep and FedBABU, MOON and FedProto against plain torch on the same batches, in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from simfl.algorithms import FedBABU, FedProto, FedRep, Moon
from simfl.errors import ConfigError
from tests.unit.algorithms.federation import Federation, Net64, three_classes

CLIENTS = three_classes()
SIZES = [len(x) for x, _ in CLIENTS]
LRATE = 0.2
Loss = Callable[[Net64, Tensor, Tensor], Tensor]
STACKS = pytest.mark.parametrize("stack", [1, 4])


def cross_entropy(net: Net64, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(net(x), y)


def trained(
    net: Net64,
    batches: list[tuple[Tensor, Tensor]],
    loss: Loss = cross_entropy,
    only: str = "",
) -> Net64:
    """Train a copy by plain SGD: all of it, or one of its layers."""
    net = copy.deepcopy(net)
    optimizer = torch.optim.SGD(net.get_submodule(only).parameters(), lr=LRATE)
    for x, y in batches:
        optimizer.zero_grad()
        loss(net, x, y).backward()
        optimizer.step()
    return net


def average(nets: list[Net64]) -> Net64:
    """Return the mean of networks, weighted by the clients' examples."""
    mean = copy.deepcopy(nets[0])
    states = [net.state_dict() for net in nets]
    mean.load_state_dict(
        {
            name: sum(n * s[name] for n, s in zip(SIZES, states, strict=True)) / sum(SIZES)
            for name in states[0]
        }
    )
    return mean


def joined(body: Net64, head: Net64) -> Net64:
    net = copy.deepcopy(body)
    net.head.load_state_dict(head.head.state_dict())
    return net


def assert_same(found: object, net: Net64) -> None:
    for name, value in net.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-10)  # type: ignore[index]


@STACKS
def test_fedrep_trains_the_head_then_the_body_and_keeps_the_head(stack: int) -> None:
    algorithm = FedRep(head=("head",), head_epochs=2)
    fed = Federation(
        algorithm, CLIENTS, Net64(), loss="cross-entropy", lrate=LRATE, stack=stack, batch_size=4
    )
    net, heads = Net64(), [Net64()] * 3
    for round in (1, 2, 3):
        bodies = []
        for k in range(3):
            own = joined(net, heads[k])
            twice = fed.batches(k, round=round, phase="head", epochs=2)
            heads[k] = trained(own, twice, only="head")
            bodies.append(trained(heads[k], fed.batches(k, round=round), only="body"))
        net = joined(average(bodies), Net64())
        fed.run()
        assert_same(fed.weights, net)
    for k in range(3):
        assert_same(fed.personal(k), joined(net, heads[k]))


@STACKS
def test_fedbabu_trains_the_body_and_tunes_all_for_evaluation(stack: int) -> None:
    algorithm = FedBABU(head=("head",), tuning_epochs=1)
    fed = Federation(
        algorithm, CLIENTS, Net64(), loss="cross-entropy", lrate=LRATE, stack=stack, batch_size=4
    )
    net = Net64()
    for round in (1, 2):
        net = average([trained(net, fed.batches(k, round=round), only="body") for k in range(3)])
    fed.run(2)
    assert_same(fed.weights, net)
    assert torch.equal(fed.weights["head.weight"], Net64().head.weight.detach())
    tuned = trained(net, fed.batches(1, round=3, phase="tuning"))
    assert_same(fed.personal(1), tuned)


def moon_loss(net: Net64, x: Tensor, y: Tensor, w: Net64, former: Net64) -> Tensor:
    """Equations 3 and 4 of the paper, as they stand."""
    z, z_w, z_v = net.features(x), w.features(x).detach(), former.features(x).detach()
    near = torch.exp(F.cosine_similarity(z, z_w) / 0.5)
    far = torch.exp(F.cosine_similarity(z, z_v) / 0.5)
    return F.cross_entropy(net(x), y) - 2.0 * torch.log(near / (near + far)).mean()


@STACKS
def test_moon_is_the_papers_objective_on_the_same_batches(stack: int) -> None:
    algorithm = Moon(mu=2.0, tau=0.5, layer="head")
    fed = Federation(
        algorithm, CLIENTS, Net64(), loss="cross-entropy", lrate=LRATE, stack=stack, batch_size=4
    )
    net, former = Net64(), [Net64()] * 3
    for round in (1, 2, 3):
        ends = []
        for k in range(3):
            contrast = partial(moon_loss, w=net, former=former[k])
            ends.append(trained(net, fed.batches(k, round=round), contrast))
        former, net = ends, average(ends)
        fed.run()
        assert_same(fed.weights, net)


def proto_loss(net: Net64, x: Tensor, y: Tensor, prototypes: dict[int, Tensor]) -> Tensor:
    """The loss, and 0.8 times the distances to the prototypes that are known."""
    pull = [
        ((z - prototypes[c]) ** 2).mean() if c in prototypes else torch.tensor(0.0)
        for z, c in zip(net.features(x), y.tolist(), strict=True)
    ]
    return F.cross_entropy(net(x), y) + 0.8 * torch.stack(pull).mean()


@STACKS
def test_fedproto_exchanges_the_mean_features_of_classes(stack: int) -> None:
    algorithm = FedProto(strength=0.8, layer="head")
    fed = Federation(
        algorithm, CLIENTS, Net64(), loss="cross-entropy", lrate=LRATE, stack=stack, batch_size=4
    )
    nets, prototypes = [Net64()] * 3, {}
    for round, cohort in ((1, (0,)), (2, (0, 1, 2)), (3, (1, 2))):
        loss = partial(proto_loss, prototypes=prototypes)
        nets = [
            trained(net, fed.batches(k, round=round), loss) if k in cohort else net
            for k, net in enumerate(nets)
        ]
        found: dict[int, list[Tensor]] = {}
        for k in cohort:
            x, y = CLIENTS[k]
            z = nets[k].features(torch.tensor(x, dtype=torch.float32)).detach()
            for c in np.unique(y).tolist():
                found.setdefault(c, []).append(z[torch.tensor(y) == c].mean(dim=0))
        prototypes = {**prototypes, **{c: sum(z) / len(z) for c, z in found.items()}}
        fed.run(cohort=cohort)
        for c, prototype in prototypes.items():
            close = {"rtol": 0, "atol": 1e-10}
            torch.testing.assert_close(fed.state["known"]["means"][c], prototype, **close)
    assert_same(fed.weights, Net64())
    for k in range(3):
        assert_same(fed.personal(k), nets[k])


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (("output",), "no weights in layer 'output'; the layers are 'body', 'head'"),
        (("body", "head"), "body, head is the whole model; name a part of it"),
        (("*",), r"\* is the whole model; name a part of it"),
    ],
)
def test_a_head_is_a_part_of_the_model(head: tuple[str, ...], message: str) -> None:
    weights = Federation(FedRep(), CLIENTS, Net64(), loss="cross-entropy").weights
    with pytest.raises(ConfigError, match=message):
        FedRep(head=head).init(weights)


def test_fedproto_needs_the_layer_that_gives_classes() -> None:
    fed = Federation(FedProto(layer="body"), CLIENTS, Net64(), loss="cross-entropy")
    with pytest.raises(Exception, match="needs the layer that gives classes, not 'body'"):
        fed.run()
    with pytest.raises(ConfigError, match="needs a linear layer, not 'output'"):
        Federation(FedProto(), CLIENTS, Net64(), loss="cross-entropy")
