"""Whether clients are stacked, and in what size, follows from the scenario alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from simfl.aggregation import Mean
from simfl.client import ClientRecipe, LocalWork, choose_stack
from simfl.data import Examples, FederatedDataset
from simfl.models import CNN28, MLP, CharLSTM, ModelSpec, PythonModel, data_shape
from simfl.models.losses import as_loss
from simfl.optimizer import Context, Optimizer, OptiModule, State
from simfl.vector import Vector


def dataset(inputs: np.ndarray[Any, Any]) -> FederatedDataset:
    targets = np.arange(len(inputs)) % 10
    offsets = np.array([0, len(inputs)])
    return FederatedDataset(Examples(inputs, targets), np.arange(len(inputs)), offsets, offsets[1:])


FLAT = dataset(np.full((10, 64), 0.5, np.float32))


def choose(
    asked: Any = "auto",
    spec: ModelSpec = MLP(hidden=(64,)),  # noqa: B008
    *,
    data: FederatedDataset = FLAT,
    cohort_size: int = 500,
    uses_gpu: bool = False,
    **changes: Any,
) -> tuple[int, str | None]:
    recipe = ClientRecipe(
        spec=spec,
        shape=data_shape(data.train.inputs, data.train.targets),
        loss=as_loss("cross-entropy"),
        metrics=None,
        optimizer=Optimizer(lrate=0.1),
        aggregator=Mean(),
        work=LocalWork(epochs=1, batch_size=10),
        seed=0,
    )
    recipe = replace(recipe, **changes)
    choice = choose_stack(asked, recipe, data, cohort_size=cohort_size, uses_gpu=uses_gpu)
    return choice.size, choice.note


@pytest.mark.parametrize(
    ("hidden", "cohort_size", "expected"),
    [
        ((64,), 500, 128),  # light: 500 / 3 = 166; the most is 128
        ((64,), 100, 32),  # light: 100 / 3 = 33; 2^20 weights would be 217 clients
        ((64,), 20, 4),  # light: 20 / 3 = 6
        ((64,), 5, 1),  # 5 / 3 = 1
        ((512,), 100, 16),  # 38,410 weights: 2^20 are 27; 100 / 6 = 16 and 100 / 3 = 33
        ((512,), 5000, 32),  # 2^21 are 54; 5000 / 6 = 833
        ((8192,), 5000, 2),  # 614,410 weights: 2^21 are 3
        ((16384,), 5000, 1),  # 1,228,810 weights
    ],
)
def test_dense_models_are_stacked_while_caches_hold_them(
    hidden: tuple[int, ...], cohort_size: int, expected: int
) -> None:
    """64 features, 10 classes: 64 h + h + 10 h + 10 weights; 4,810 for h = 64."""
    assert choose(spec=MLP(hidden=hidden), cohort_size=cohort_size) == (expected, None)


def test_convolutions_are_stacked_on_a_gpu_and_not_on_a_cpu() -> None:
    """1,663,370 weights: 2^28 of them are 161; 500 / 6 = 83."""
    images = dataset(np.zeros((10, 28, 28), np.float32))
    assert choose(spec=CNN28(), data=images) == (1, None)
    assert choose(spec=CNN28(), data=images, uses_gpu=True) == (64, None)


def test_the_choice_leaves_torchs_generator_as_it_was() -> None:
    before = torch.random.get_rng_state()
    choose()
    assert torch.equal(torch.random.get_rng_state(), before)


class Remembering(nn.Linear):
    """Keeps what it was last given: as a buffer that is not persistent, or as an attribute."""

    def __init__(self, as_buffer: bool) -> None:
        super().__init__(64, 10)
        if as_buffer:
            self.register_buffer("last", torch.zeros(64), persistent=False)
        else:
            self.last = torch.zeros(64)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.last = inputs.mean(dim=0)
        return super().forward(inputs)


@pytest.mark.parametrize("as_buffer", [True, False])
def test_what_training_changes_beside_the_weights_is_named_and_keeps_clients_apart(
    as_buffer: bool,
) -> None:
    spec = PythonModel(f"{__name__}:Remembering", {"as_buffer": as_buffer})
    size, note = choose(4, spec)
    assert size == 1
    assert note is not None
    assert "training changes 'last'" in note


@dataclass(frozen=True)
class FirstOnly(OptiModule):
    """Treats a stack as its first client, which the contract does not allow."""

    name: ClassVar[str] = "first-only-of-a-test"

    def update(self, gradients: Vector, state: State, context: Context) -> tuple[Vector, State]:
        if not gradients.stacked:
            return gradients, state
        return Vector.stack([gradients.unstack()[0]] * len(context.clients)), state


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.BatchNorm1d(64), "layer '0' (BatchNorm1d) works with statistics of the batch"),
        (nn.Dropout(0.5), "layer '0' (Dropout) draws from torch's generator"),
    ],
    ids=["BatchNorm", "torch's Dropout"],
)
def test_a_layer_that_cannot_be_stacked_is_named(layer: nn.Module, reason: str) -> None:
    global LAYER
    LAYER = layer
    size, note = choose(8, PythonModel(path=f"{__name__}:with_layer"))
    assert size == 1
    assert note is not None
    assert reason in note


LAYER: nn.Module


def with_layer() -> nn.Module:
    return nn.Sequential(LAYER, nn.Linear(64, 10))


class Drawing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.layer(nn.functional.dropout(inputs, 0.5, self.training))
        return outputs


def chain_with_dropout(p: float) -> nn.Module:
    return nn.Sequential(nn.Linear(64, 10), nn.Dropout(p))


def convolution_with_dropout(p: float) -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 64)), nn.Conv1d(1, 1, 55), nn.Dropout1d(p), nn.Flatten()
    )


@pytest.mark.parametrize("model", [chain_with_dropout, convolution_with_dropout])
def test_dropout_of_nothing_draws_nothing_and_is_stacked(model: Any) -> None:
    spec = PythonModel(path=f"{__name__}:{model.__name__}", arguments={"p": 0.0})
    assert choose(8, spec) == (8, None)


def test_code_that_draws_from_torchs_generator_is_found_by_trying_it() -> None:
    size, note = choose(8, PythonModel(path=f"{__name__}:Drawing"))
    assert size == 1
    assert note is not None
    assert "the model fails in a stack: RuntimeError: vmap: called random operation" in note


def test_the_lstm_cannot_be_stacked() -> None:
    text = dataset(np.zeros((10, 5), np.int64))
    size, note = choose(8, CharLSTM(hidden=4), data=text)
    assert size == 1
    assert note is not None
    assert "layer 'lstm' (LSTM) has no batched form" in note


def test_third_party_code_that_fails_the_contract_is_named() -> None:
    size, note = choose(8, optimizer=Optimizer(0.1, modules=[FirstOnly()]))
    assert size == 1
    assert note is not None
    assert "'first-only-of-a-test' fails the contract of plug-ins: row 1 of a stack" in note


def test_examples_gradients_are_clipped_in_stacks_of_dense_layers_alone() -> None:
    work = LocalWork(batch_size=10, sclip=1.0)
    assert choose(work=work) == choose()
    images = dataset(np.zeros((10, 28, 28), np.float32))
    size, note = choose(8, CNN28(), data=images, work=work)
    assert size == 1
    assert note is not None
    assert "client.sclip" in note
    own_loss = as_loss(lambda outputs, targets: (outputs.mean(1) - targets) ** 2)
    assert choose(work=work, loss=own_loss)[0] == 1


def test_a_size_that_is_asked_for_is_taken() -> None:
    assert choose(64, cohort_size=10) == (64, None)
    assert choose(1) == (1, None)
