"""Trainings that begin with parameters that read the given weights in place."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from simfl.models import Batch, TorchModel
from simfl.vector import Vector

BATCH = Batch(torch.linspace(-1.0, 1.0, 24).reshape(6, 4), torch.tensor([0, 1, 2, 0, 1, 2]))


class OfUsers(nn.Sequential):
    """A class that simfl does not know, and that might do anything to its parameters."""


def layers(kind: type[nn.Sequential] = nn.Sequential) -> nn.Sequential:
    """Return a small network, always with the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


def frozen(weights: Vector) -> Vector:
    """Return a copy of weights on memory that is only to be read, as the object store's."""
    layout, memory = weights.clone().to_memory()
    for array in memory:
        array.flags.writeable = False
    return Vector.from_memory(layout, memory)


def train(model: TorchModel, start: Vector, num_steps: int, *, take: bool) -> None:
    """Take steps of plain SGD from some weights."""
    model.start_from(start)
    for _ in range(num_steps):
        gradients = model.compute_batch_gradients(BATCH)
        (model.take_scaled_updates if take else model.apply_scaled_updates)(gradients, -0.1)


def reads_in_place(model: TorchModel, start: Vector) -> set[str]:
    """Return the names of the parameters that are where the given weights are."""
    return {n for n, p in model.trainable.items() if p.data_ptr() == start[n].data_ptr()}


@pytest.mark.parametrize("take", [False, True])
@pytest.mark.parametrize("num_steps", [0, 1, 3])
def test_steps_are_those_of_torchs_sgd_and_leave_the_given_weights_alone(
    num_steps: int, take: bool
) -> None:
    theirs = layers()
    model, start = TorchModel(layers()), frozen(TorchModel(layers()).get_weights())
    kept = start.clone()
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1, foreach=True)
    for _ in range(num_steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(theirs(BATCH.inputs), BATCH.targets).backward()
        optimizer.step()
    end = TorchModel(theirs).get_weights()

    for _ in range(2):  # the second training finds what the first one has left
        train(model, start, num_steps, take=take)
        assert model.get_weights() == end
        delta = model.compute_delta(start)
        assert all(torch.equal(delta[n], kept[n] - end[n]) for n in model.trainable)
        assert start == kept


def test_only_the_first_forward_and_backward_read_the_given_weights() -> None:
    model, start = TorchModel(layers()), frozen(TorchModel(layers()).get_weights())
    model.start_from(start)
    assert reads_in_place(model, start) == model.trainable.keys()
    assert model.module[1].running_mean.data_ptr() != start["1.running_mean"].data_ptr()
    model.apply_scaled_updates(model.compute_batch_gradients(BATCH), -0.1)
    assert not reads_in_place(model, start)


def renormalized() -> nn.Module:
    return nn.Sequential(nn.EmbeddingBag(8, 4, max_norm=1.0), nn.Linear(4, 3))


def hooked() -> nn.Module:
    module = layers()
    module[0].register_forward_pre_hook(
        lambda layer, _: layer.weight.data.clamp_(-0.1, 0.1) and None
    )
    return module


def tied() -> nn.Module:
    module = layers()
    module.append(nn.Linear(3, 3))
    module[4].weight = nn.Parameter(module[3].weight.data[:, :3].T)
    return module


@pytest.mark.parametrize("build", [lambda: layers(OfUsers), renormalized, hooked, tied])
def test_modules_that_might_write_to_parameters_get_copies(build: Callable[[], nn.Module]) -> None:
    model = TorchModel(build())
    start = frozen(model.get_weights())
    model.start_from(start)
    assert not reads_in_place(model, start)
    assert model.get_weights() == start


def test_weights_that_lie_otherwise_in_memory_are_copied_one_by_one() -> None:
    model = TorchModel(layers())
    start = model.get_weights()
    turned = start | Vector({"0.weight": start["0.weight"].T.contiguous().T})
    model.start_from(turned)
    assert reads_in_place(model, turned) == model.trainable.keys() - {"0.weight"}
    assert model.get_weights() == start


@pytest.mark.parametrize("end", ["compute_delta", "end_training", "set_weights"])
def test_after_a_training_nothing_refers_to_the_given_weights(end: str) -> None:
    model, start = TorchModel(layers()), TorchModel(layers()).get_weights()
    train(model, start, 1, take=True)
    model.end_training()
    own = {name: parameter.data_ptr() for name, parameter in model.trainable.items()}
    train(model, start, 1, take=True)
    getattr(model, end)(*() if end == "end_training" else (start,))
    assert {name: p.data_ptr() for name, p in model.trainable.items()} == own
