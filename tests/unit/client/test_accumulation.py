"""Accumulated gradients against those of the whole batch: torch's own, and an undivided step's.

Everything is in float64; sums are in another order, so numbers agree to 1e-12.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from simfl.aggregation import Mean
from simfl.algorithms import Algorithm, FedAvg, FedProto, Local, Mime, Moon, PFedMe, Update
from simfl.client import ClientHost, ClientRecipe, LocalWork
from simfl.data import Examples, FederatedDataset
from simfl.errors import ConfigError
from simfl.messages import Broadcast, Chunk
from simfl.models import Batch, Dropout, ModelFunction, PythonModel, as_loss, data_shape
from simfl.optimizer import Optimizer
from simfl.vector import Vector
from tests.unit.client.client_cases import client_section

SIZES = (11, 6, 5, 3)
"""The clients' examples."""
LRATE = 0.05
EVERYONE = (0, 1, 2, 3)
WORDS, LENGTH = 7, 6
TOKENS = ["cross-entropy", {"over": "tokens"}]
EXACT = {"rtol": 0, "atol": 1e-12}


def speaker(share: float = 0.0) -> nn.Module:
    """Return a network that predicts a word from the one before."""
    return nn.Sequential(nn.Embedding(WORDS, 5), Dropout(share), nn.Linear(5, WORDS)).double()


def dense(share: float = 0.0) -> nn.Module:
    """Return a chain that is stacked by hand, and clipped by norms."""
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), Dropout(share), nn.Linear(5, WORDS)).double()


def layered() -> nn.Module:
    """Return a network that torch.func differentiates."""
    return nn.Sequential(dense(0.3), nn.LayerNorm(WORDS)).double()


def dataset(*, text: bool) -> FederatedDataset:
    rng = np.random.default_rng(0)
    num = sum(SIZES)
    if text:
        inputs = rng.integers(WORDS, size=(num, LENGTH))
        targets = rng.integers(WORDS, size=(num, LENGTH))
        targets[np.arange(LENGTH) >= rng.integers(1, LENGTH + 1, size=(num, 1))] = -100
    else:
        inputs, targets = rng.normal(size=(num, 6)), rng.integers(WORDS, size=num)
    offsets = np.concatenate([[0], np.cumsum(SIZES)])
    return FederatedDataset(Examples(inputs, targets), np.arange(num), offsets, offsets[1:])


def recipe(data: FederatedDataset, model: str, loss: Any = "cross-entropy", **keys: Any) -> Any:
    share, stack = keys.pop("share", None), keys.pop("stack", 1)
    algorithm, work = keys.pop("algorithm", FedAvg()), keys.pop("work", {"batch_size": 5})
    return ClientRecipe(
        spec=PythonModel(f"{__name__}:{model}", {} if share is None else {"share": share}),
        shape=data_shape(data.train.inputs, data.train.targets),
        loss=as_loss(tuple(loss) if isinstance(loss, list) else loss),
        metrics=(),
        optimizer=Optimizer(lrate=LRATE),
        aggregator=Mean(),
        work=client_section(LocalWork(**work), **keys),
        seed=3,
        algorithm=algorithm,
        stack=stack,
    )


def train(
    made: ClientRecipe, data: FederatedDataset, clients: tuple[int, ...], round: int = 1
) -> Any:
    """Train a round; return the sum of weighted deltas, what else is sent, and the losses."""
    weights = made.build_model().get_weights()
    weights = weights + weights.map(lambda t: torch.arange(t.numel()).sin().reshape(t.shape) * 0.1)
    state = made.algorithm.start(weights, lambda draw: weights * draw)
    broadcast = Broadcast(round, weights, {}, made.algorithm.send(state))
    chunk = Chunk(round, 0, clients, len(clients))
    result = ClientHost(made, data).train_chunk(chunk, broadcast, [None] * len(clients))
    (node,) = result.partial.nodes.values()
    losses = torch.from_numpy(result.report.clients.train_loss)
    return node.total, node.update_sums, losses


def assert_same(one: Any, other: Any) -> None:
    torch.testing.assert_close(_plain(one), _plain(other), **EXACT)


def _plain(value: Any) -> Any:
    if isinstance(value, Vector):
        return dict(value.items())
    if isinstance(value, dict):
        return {name: _plain(own) for name, own in value.items()}
    return [_plain(own) for own in value] if isinstance(value, tuple) else value


@pytest.mark.parametrize("accumulate", [2, 11])
@pytest.mark.parametrize("over", ["examples", "tokens"])
def test_a_step_has_the_gradient_that_torch_finds_for_the_whole_batch(
    over: str, accumulate: int
) -> None:
    data = dataset(text=True)
    loss, work = ["cross-entropy", {"over": over}], {"batch_size": None, "steps": 1}
    made = recipe(data, "speaker", loss, work=work, accumulate=accumulate)
    delta, _, losses = train(made, data, (0,))

    module = made.build_model().module
    with torch.no_grad():
        for weight in module.parameters():
            weight += torch.arange(weight.numel()).sin().reshape(weight.shape) * 0.1
    own = slice(SIZES[0])
    logits = module(torch.from_numpy(data.train.inputs[own]))
    targets = torch.from_numpy(data.train.targets[own])
    if over == "tokens":
        expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    else:
        each = [F.cross_entropy(*pair) for pair in zip(logits, targets, strict=True)]
        expected = torch.stack(each).mean()
    expected.backward()
    assert losses[0] == pytest.approx(expected.item(), abs=1e-12)
    scale = LRATE * SIZES[0]  # the client's weight in the mean
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(delta[name] / scale, parameter.grad, **EXACT)


@pytest.mark.parametrize("stack", [1, 4])
@pytest.mark.parametrize(
    ("model", "loss", "keys"),
    [
        ("speaker", "cross-entropy", {"share": 0.3}),
        ("speaker", TOKENS, {"share": 0.3}),
        ("dense", "cross-entropy", {"share": 0.3}),
        ("dense", "fedlc", {}),
        ("dense", ["distillation", {"of": "fedrs"}], {"share": 0.3}),
        ("layered", "cross-entropy", {}),
        ("dense", "cross-entropy", {"share": 0.3, "work": {"batch_size": 5, "sclip": 0.5}}),
    ],
)
def test_training_in_micro_batches_is_that_in_batches(
    model: str, loss: Any, keys: dict[str, Any], stack: int
) -> None:
    """Also with dropout, which drops the same, clipping by norms, and short batches in stacks."""
    data = dataset(text=model == "speaker")
    whole, parts = (
        train(recipe(data, model, loss, stack=stack, **keys, accumulate=number), data, EVERYONE)
        for number in (1, 3)
    )
    assert_same(parts, whole)


def test_so_is_clipping_by_gradients() -> None:
    data, work = dataset(text=False), {"batch_size": 5, "sclip": 0.5}
    whole, parts = (
        train(recipe(data, "layered", work=work, accumulate=number), data, EVERYONE)
        for number in (1, 2)
    )
    assert_same(parts, whole)


@pytest.mark.parametrize("stack", [1, 4])
@pytest.mark.parametrize(
    ("algorithm", "round"),
    [(Moon(layer="3"), 1), (FedProto(layer="3"), 1), (Mime(), 2), (PFedMe(eta=0.1), 1)],
)
def test_so_are_the_objectives_and_passes_of_algorithms(
    algorithm: Algorithm, round: int, stack: int
) -> None:
    data = dataset(text=False)
    keys: dict[str, Any] = {"share": 0.3, "stack": stack, "algorithm": algorithm}
    whole, parts = (
        train(recipe(data, "dense", **keys, accumulate=number), data, EVERYONE, round)
        for number in (1, 3)
    )
    assert_same(parts, whole)


@dataclass(frozen=True)
class Spread(Algorithm):
    """Its objective is no mean: the variance of a batch's losses."""

    name: ClassVar[str] = "spread"

    def client(self, local: Local) -> tuple[Update, dict[str, Any]]:
        return Update(local.train_delta(local.weights, objective=self.variance)), {}

    def variance(self, model: ModelFunction, v: Any, batch: Batch) -> Tensor:
        return model.per_example(v, batch).var()


@pytest.mark.parametrize(
    ("algorithm", "text", "why"),
    [
        (Spread(), False, "objective of algorithm 'spread' may depend on a batch as a whole"),
        (Moon(layer="2"), True, "'moon' is a mean over examples, and model.loss 'cross-entropy'"),
    ],
)
def test_objectives_that_are_no_mean_of_one_kind_are_refused(
    algorithm: Algorithm, text: bool, why: str
) -> None:
    data = dataset(text=text)
    loss = TOKENS if text else "cross-entropy"
    made = recipe(data, "speaker" if text else "dense", loss, algorithm=algorithm, accumulate=2)
    with pytest.raises(ConfigError, match=why):
        train(made, data, (0,))


def test_what_is_kept_for_the_backward_pass_falls_with_the_micro_batch() -> None:
    """In micro-batches of 4, 2 and 1: the numbers that torch saves, besides weights."""
    data, peaks = dataset(text=True), []
    for accumulate in (1, 2, 4):
        made = recipe(data, "speaker", work={"batch_size": 4, "steps": 1}, accumulate=accumulate)
        peaks.append(_peak_of_saved(lambda made=made: train(made, data, (0,))))
    assert peaks[0] == 2 * peaks[1] == 4 * peaks[2] > 0


def _peak_of_saved(run: Callable[[], Any]) -> int:
    """Return the most numbers of activations that autograd held at once."""
    held, most = 0, 0

    class Saved:
        def __init__(self, tensor: Tensor) -> None:
            nonlocal held, most
            self.tensor = tensor
            base = tensor if tensor._base is None else tensor._base
            self.size = 0 if isinstance(base, nn.Parameter) or not base.dim() else tensor.numel()
            held += self.size
            most = max(most, held)

        def __del__(self) -> None:
            nonlocal held
            held -= self.size

    with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
        run()
    return most
