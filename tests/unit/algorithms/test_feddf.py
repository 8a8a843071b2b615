"""FedDF: the server's distillation against plain torch on the same batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from simfl.algorithms import FedDF
from simfl.client import LocalWork
from simfl.data import Examples
from tests.unit.algorithms.federation import Federation, Net64, three_classes

STEPS, RATE = 7, 0.01


def public_examples() -> Examples:
    rng = np.random.default_rng(3)
    return Examples(rng.normal(size=(10, 4)), np.zeros(10, np.int64))


def federation(stack: int, module: Any = None, batch_size: int | None = 4) -> Federation:
    """Return a federation whose server has public examples."""
    return Federation(
        FedDF(steps=STEPS, lrate=RATE),
        three_classes(),
        module or Net64(),
        loss="cross-entropy",
        stack=stack,
        public=public_examples(),
        epochs=2,
        batch_size=batch_size,
    )


@pytest.mark.parametrize("stack", [1, 4])
def test_the_server_distils_the_mean_of_the_clients_predictions(stack: int) -> None:
    made = federation(stack)
    net = Net64()
    start = {name: tensor.detach().clone() for name, tensor in net.named_parameters()}
    expected: dict[str, torch.Tensor] = start
    for round in (1, 2):
        models = [_trained(made, net, expected, client, round=round) for client in range(3)]
        expected = _distilled(net, models, _mean(models, (6, 9, 4)), round=round)
        made.run()
        for name, tensor in expected.items():
            torch.testing.assert_close(made.weights[name], tensor, rtol=1e-10, atol=1e-12)


def test_running_statistics_are_the_mean_of_the_clients() -> None:
    """Distillation does not move them."""
    net = nn.Sequential(nn.BatchNorm1d(4, momentum=1.0), nn.Linear(4, 3)).double()
    made = federation(1, net, batch_size=None).run()
    expected = np.concatenate([x for x, _ in three_classes()]).mean(axis=0)
    np.testing.assert_allclose(made.weights["0.running_mean"], expected, rtol=1e-5)


def _trained(made: Federation, net: Any, start: Any, client: int, *, round: int) -> Any:
    weights = dict(start)
    for inputs, targets in made.batches(client, round=round, epochs=2):
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in weights.items()}
        loss = cross_entropy(functional_call(net, leaves, (inputs,)), targets)
        grads = torch.autograd.grad(loss, list(leaves.values()))
        weights = {n: weights[n] - 0.1 * g for n, g in zip(leaves, grads, strict=True)}
    return weights


def _mean(models: Any, sizes: Any) -> Any:
    total = sum(sizes)
    return {n: sum(s * m[n] for s, m in zip(sizes, models, strict=True)) / total for n in models[0]}


def _distilled(net: Any, models: Any, start: Any, *, round: int) -> Any:
    """Take torch's Adam's steps on KL(teacher, student), by its definition."""
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}
    adam = torch.optim.Adam(list(leaves.values()), lr=RATE, betas=(0.9, 0.99), eps=1e-7)
    work = LocalWork(steps=STEPS, batch_size=4)
    examples = public_examples()
    inputs: Any = examples.inputs
    for rows in work.draw_batches(np.arange(10), seed=0, round=round, client=0):
        x = torch.from_numpy(inputs[rows])
        with torch.no_grad():
            logits = torch.stack([functional_call(net, model, (x,)) for model in models])
            teacher = logits.mean(dim=0).softmax(dim=1)
        student = functional_call(net, leaves, (x,)).softmax(dim=1)
        loss = (teacher * (teacher / student).log()).sum(dim=1).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    return {name: tensor.detach() for name, tensor in leaves.items()}
