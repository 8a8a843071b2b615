"""What clients train on under ``data.augment``: alone, in stacks, and in micro-batches.

Shapes: C clients, B examples of a batch.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from simfl.aggregation import Mean
from simfl.client import ClientHost, ClientRecipe, LocalWork
from simfl.client.client_stack import ClientStack
from simfl.client.one_client import OneClient
from simfl.client.recipe import Resident, build_resident
from simfl.client.steps import Step
from simfl.data import Crop, Examples, FederatedDataset, Flip, Noise
from simfl.messages import Broadcast, Chunk, EvaluationChunk
from simfl.models import MLP, CrossEntropy, StackedModel, data_shape
from simfl.optimizer import Optimizer
from simfl.vector import Vector
from tests.unit.client.client_cases import client_section

SIZES = (11, 6, 5)
CLIENTS = (0, 1, 2)
STEPS = (Flip(), Crop(1), Noise(0.1))


def dataset() -> FederatedDataset:
    num = sum(SIZES)
    inputs = np.random.default_rng(0).normal(size=(num, 1, 4, 4)).astype(np.float32)
    ends = np.cumsum((0, *SIZES))
    return FederatedDataset(Examples(inputs, np.arange(num) % 3), np.arange(num), ends, ends[1:])


def recipe(work: LocalWork, **changes: Any) -> ClientRecipe:
    data = dataset()
    made = ClientRecipe(
        spec=MLP(hidden=(5,)),
        shape=data_shape(data.train.inputs, data.train.targets),
        loss=CrossEntropy(),
        metrics=None,
        optimizer=Optimizer(0.1),
        aggregator=Mean(),
        work=client_section(work),
        seed=3,
        augment=STEPS,
    )
    return replace(made, **changes)


def steps(resident: Resident, *, stacked: bool, round: int = 1, seed: int = 3) -> list[Any]:
    """Return the steps of the three clients: of the stack, or one list for each."""
    work = resident.recipe.work
    if stacked:
        stack = ClientStack(resident, StackedModel(resident.model, 4), CLIENTS, round)
        return [*stack.steps(work, seed=seed)]
    return [[*OneClient(resident, c, round).steps(work, seed=seed)] for c in CLIENTS]


def inputs_of(step: Step) -> torch.Tensor:
    assert isinstance(step.batch.inputs, torch.Tensor)
    return step.batch.inputs


@pytest.mark.parametrize("batch_size", [4, None])
def test_a_client_sees_the_same_examples_in_a_stack_as_alone(batch_size: int | None) -> None:
    resident = build_resident(
        recipe(LocalWork(epochs=2, batch_size=batch_size)), dataset(), device="cpu"
    )
    together, alone = steps(resident, stacked=True), steps(resident, stacked=False)
    assert len(together) == len(alone[0])
    for index, step in enumerate(together):
        for client, size in enumerate(step.sizes):
            assert torch.equal(inputs_of(step)[client, :size], inputs_of(alone[client][index]))


def test_an_example_changes_otherwise_in_each_epoch_round_and_phase() -> None:
    work = LocalWork(epochs=2)
    resident = build_resident(recipe(work), dataset(), device="cpu")
    plain = build_resident(recipe(work, augment=()), dataset(), device="cpu")

    def changes(**where: Any) -> list[torch.Tensor]:
        """Return what is added to client 0's examples, in the order of the rows."""
        changed = steps(resident, stacked=False, **where)[0]
        given = steps(plain, stacked=False, **where)[0]
        return [
            (inputs_of(own) - inputs_of(other))[inputs_of(other).flatten(1)[:, 0].argsort()]
            for own, other in zip(changed, given, strict=True)
        ]

    found = [*changes(), *changes(round=2), *changes(seed=4)]
    assert len(found) == 6
    assert all(
        not torch.allclose(one[n], other[n], atol=0.05)
        for i, one in enumerate(found)
        for other in found[:i]
        for n in range(len(one))
    )
    for one, again in zip(changes(), changes(), strict=True):
        assert torch.equal(one, again)


def delta(work: LocalWork, **keys: Any) -> Vector:
    made = recipe(work)
    made = replace(made, work=replace(made.work, **keys))
    host = ClientHost(made, dataset())
    start = Broadcast(1, made.build_model().get_weights(), {})
    result = host.train_chunk(Chunk(1, 0, (0,), 1), start, [None])
    (contribution,) = result.partial.nodes.values()
    assert contribution.total is not None
    return contribution.total


def test_micro_batches_are_cut_from_the_augmented_batch() -> None:
    work = LocalWork(steps=2, batch_size=8)
    whole, cut = delta(work), delta(work, accumulate=4)
    # Sums in another order.
    assert float((whole - cut).norm()) < 1e-5 * float(whole.norm())


def test_nothing_is_changed_in_evaluation() -> None:
    work = LocalWork()
    weights = recipe(work).build_model().get_weights()
    chunk = EvaluationChunk("training", tuple((c,) for c in CLIENTS))
    augmented, plain = (
        ClientHost(made, dataset()).evaluate_chunk(chunk, Broadcast(1, weights, {}))
        for made in (recipe(work), recipe(work, augment=()))
    )
    assert augmented == plain
