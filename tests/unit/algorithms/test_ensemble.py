"""The ensemble's outputs against the mean of models that plain torch trains on the same batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.func import functional_call
from torch.nn.functional import cross_entropy, nll_loss

from simfl.algorithms import Ensemble
from simfl.messages import EvaluationChunk
from tests.unit.algorithms.federation import Federation, Net64, three_classes


@pytest.mark.parametrize("stack", [1, 4])
def test_the_mean_of_the_clients_predictions_is_evaluated(stack: int) -> None:
    clients = three_classes()
    made = Federation(
        Ensemble(), clients, Net64(), loss="cross-entropy", stack=stack, epochs=2, batch_size=4
    ).run()
    models = [_trained(made, client) for client in range(len(clients))]
    chunk = EvaluationChunk("clients", tuple((client,) for client in range(len(clients))))
    for (x, y), sums in zip(clients, made.engine.evaluate(chunk, made.snapshot), strict=True):
        inputs, targets = torch.from_numpy(x).float(), torch.from_numpy(y)
        net = Net64()
        logits = torch.stack([functional_call(net, model, (inputs,)) for model in models])
        mean = logits.softmax(dim=-1).mean(dim=0)
        expected = float(nll_loss(mean.log(), targets, reduction="sum"))
        assert sums["loss"] == (pytest.approx(expected, rel=1e-10), len(targets))
        assert sums["accuracy"][0] == int((mean.argmax(dim=1) == targets).sum())


def test_the_servers_weights_stay() -> None:
    made = Federation(Ensemble(), three_classes(), Net64(), loss="cross-entropy", epochs=1)
    before = made.weights
    assert made.run().weights == before
    assert made.state["models"].num_clients == 3


def _trained(made: Federation, client: int) -> Any:
    net = Net64()
    weights = {name: tensor.detach().clone() for name, tensor in net.named_parameters()}
    for inputs, targets in made.batches(client, round=1, epochs=2):
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in weights.items()}
        loss = cross_entropy(functional_call(net, leaves, (inputs,)), targets)
        grads = torch.autograd.grad(loss, list(leaves.values()))
        weights = {n: weights[n] - 0.1 * g for n, g in zip(leaves, grads, strict=True)}
    return weights
