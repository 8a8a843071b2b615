"""The noise of a step of DP-SGD, compared with the most that one example can change.

Every example's gradient here is clipped from about -2000 to -1, so that what a step hands the
optimizer counts the step's examples: numbers by hand.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import simfl
from simfl.aggregation import Mean
from simfl.client import ClientHost, ClientRecipe, LocalWork
from simfl.data import Examples, FederatedDataset
from simfl.messages import Broadcast, Chunk
from simfl.models import PythonModel, data_shape
from simfl.models.losses import as_loss
from simfl.optimizer import LocalOptimizer, Optimizer
from simfl.scenario import find_scenario
from simfl.vector import Vector
from tests.unit.client.client_cases import client_section


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> list[Vector]:
    """Return the gradients that optimizers are handed, in order."""
    seen: list[Vector] = []

    def note(self: Any, model: Any, gradients: Vector) -> None:
        seen.append(gradients)

    monkeypatch.setattr(LocalOptimizer, "apply_gradients", note)
    return seen


def train_all(data: FederatedDataset, work: LocalWork, *, stack: int) -> None:
    """Train every client for a round."""
    recipe = ClientRecipe(
        spec=PythonModel("torch.nn:Linear", {"in_features": 1, "out_features": 1, "bias": False}),
        shape=data_shape(data.train.inputs, data.train.targets),
        loss=as_loss("mse"),
        metrics=None,
        optimizer=Optimizer(1.0),
        aggregator=Mean(),
        work=client_section(work),
        seed=0,
        stack=stack,
    )
    sizes = data.num_train_examples()
    clients = tuple(np.argsort(-sizes, kind="stable").tolist())
    weights = Vector({"weight": torch.zeros(1, 1)})
    chunk = Chunk(1, 0, clients, len(clients))
    ClientHost(recipe, data).train_chunk(chunk, Broadcast(1, weights, {}), [None] * len(clients))


def alike(rows: Any, offsets: Any) -> FederatedDataset:
    """Return a data set of examples that all have the gradient -2000 at 0."""
    inputs = np.ones((len(rows), 1), np.float32)
    return FederatedDataset(Examples(inputs, inputs[:, 0] * 1000), rows, offsets, offsets[1:])


@pytest.mark.parametrize("stack", [1, 8])
def test_every_step_of_the_shipped_config_has_the_noise_multiplier_it_names(
    stack: int, handed: list[Vector]
) -> None:
    """std * batch_size / sclip = .05 * 20 / 1 = 1, also where a batch has 3 of 20 examples.

    What one example adds to a step is 1 / 20; divided by the batch as it is, 3 would add 1 / 3
    each, of which the noise is .15.
    """
    scenario = simfl.load_scenario(find_scenario("dp-sgd"))
    client, noise = scenario.client, scenario.client.optimizer.modules[0]
    drawn = scenario.build_dataset()
    data = alike(np.arange(len(drawn.rows)), drawn.offsets)
    work = LocalWork(epochs=client.epochs, batch_size=client.batch_size, sclip=client.sclip)
    train_all(data, work, stack=stack)

    batches = [
        min(20, size - start) for size in np.diff(drawn.offsets) for start in range(0, size, 20)
    ]
    assert min(batches) < 4  # or nothing would be shown
    found = torch.cat([step["weight"].flatten() for step in handed]).numpy()
    assert sorted(-found) == pytest.approx(sorted(np.array(batches) / 20))
    multipliers = noise.std / (np.sort(-found) / np.sort(batches))
    np.testing.assert_allclose(multipliers, 1.0, rtol=1e-6)


@pytest.mark.parametrize("stack", [1, 2])
def test_without_a_batch_size_clipped_gradients_are_averaged_over_the_client(
    stack: int, handed: list[Vector]
) -> None:
    train_all(alike(np.arange(12), np.array([0, 7, 12])), LocalWork(sclip=1.0), stack=stack)
    assert torch.cat([step["weight"].flatten() for step in handed]).tolist() == [-1.0, -1.0]


def test_without_clipping_a_short_batch_is_averaged_over_its_own_examples(
    handed: list[Vector],
) -> None:
    train_all(alike(np.arange(7), np.array([0, 7])), LocalWork(batch_size=5), stack=1)
    assert torch.cat([step["weight"].flatten() for step in handed]).tolist() == [-2000.0] * 2
