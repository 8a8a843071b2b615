"""Whether clients are stacked, and in what size, follows from the scenario alone."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from simfl.aggregation import Mean
from simfl.client import (
    ClientHost,
    ClientRecipe,
    LocalWork,
    can_evaluate_together,
    choose_stack,
)
from simfl.data import Examples, FederatedDataset
from simfl.messages import Broadcast, EvaluationChunk
from simfl.models import CNN28, CNN32, MLP, CharLSTM, ModelSpec, PythonModel, ResNet, data_shape
from simfl.models.losses import PythonLoss, as_loss
from simfl.optimizer import Context, Optimizer, OptiModule, State
from simfl.vector import Vector
from tests.unit.client.client_cases import changed, client_section


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
        work=client_section(LocalWork(epochs=1, batch_size=10)),
        seed=0,
    )
    recipe = changed(recipe, **changes)
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


def test_batches_of_unequal_size_are_stacked_while_they_hold_more_examples_than_filler() -> None:
    """One client in eight has 1,000 examples, the others 1; 4,810 weights.

    Stacks of 128 to 4 would be filled with up to 7 times the examples, stacks of 2 with 999 for
    each 1,001. With batches of 10 filler is 10 examples at most, which is nothing.
    """
    sizes = np.where(np.arange(512) % 8, 1, 1000)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    data = replace(FLAT, offsets=offsets, holdout_offsets=offsets[1:])
    assert choose(data=data, work=LocalWork(batch_size=None)) == (2, None)
    assert choose(data=data, work=LocalWork(batch_size=10)) == (128, None)
    assert choose(16, data=data, work=LocalWork(batch_size=None)) == (16, None)


def test_convolutions_are_stacked_on_a_gpu_and_not_on_a_cpu() -> None:
    """1,663,370 weights: 2^28 of them are 161; 500 / 6 = 83."""
    images = dataset(np.zeros((10, 28, 28), np.float32))
    assert choose(spec=CNN28(), data=images) == (1, None)
    assert choose(spec=CNN28(), data=images, uses_gpu=True) == (64, None)


def test_the_choice_leaves_torchs_generator_as_it_was() -> None:
    before = torch.random.get_rng_state()
    choose()
    assert torch.equal(torch.random.get_rng_state(), before)


def why_not(spec: ModelSpec = MLP(hidden=(64,)), **options: Any) -> str:  # noqa: B008
    """Return why nothing is stacked, whether a size is asked for or left to auto."""
    size, note = choose(8, spec, **options)
    assert size == 1
    assert choose("auto", spec, uses_gpu=True, **options) == (1, note)
    before, reason = str(note).split(": ", 1)
    assert before == "clients are trained one at a time, not in stacks"
    return reason


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
    assert "training changes 'last'" in why_not(spec)


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
    assert reason in why_not(with_(layer))


def with_(layer: nn.Module) -> PythonModel:
    """Return a model that begins with this very layer."""
    global LAYER
    LAYER = layer
    return PythonModel(path=f"{__name__}:with_layer")


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
    reason = why_not(PythonModel(path=f"{__name__}:Drawing"))
    assert "the model fails in a stack: RuntimeError: vmap: called random operation" in reason


def test_the_lstm_cannot_be_stacked() -> None:
    text = dataset(np.zeros((10, 5), np.int64))
    reason = why_not(CharLSTM(hidden=4), data=text)
    assert "layer 'lstm' (LSTM) has no batched form" in reason


def test_third_party_code_that_fails_the_contract_is_named() -> None:
    reason = why_not(optimizer=Optimizer(0.1, modules=[FirstOnly()]))
    assert "'first-only-of-a-test' fails the contract of plug-ins: row 1 of a stack" in reason
    assert len(reason) < 1000


@dataclass(frozen=True)
class FirstOfAStack(Mean):
    """Takes the first client of a stack for all."""

    name: ClassVar[str] = "first-of-a-stack-of-a-test"

    def lift_stack(self, deltas_C: Vector, weights: Any) -> Vector:
        return deltas_C.unstack()[0].mul_(sum(weights))


def test_an_aggregator_that_takes_a_stack_otherwise_than_its_clients_is_named() -> None:
    reason = why_not(aggregator=FirstOfAStack())
    assert "lift_stack() of 'first-of-a-stack-of-a-test' differs from its lift()" in reason


def test_examples_gradients_are_clipped_in_stacks_of_dense_layers_alone() -> None:
    work = LocalWork(batch_size=10, sclip=1.0)
    assert choose(work=work) == choose()
    images = dataset(np.zeros((10, 28, 28), np.float32))
    assert "client.sclip" in why_not(CNN28(), data=images, work=work)
    own_loss = as_loss(lambda outputs, targets: (outputs.mean(1) - targets) ** 2)
    assert choose(work=work, loss=own_loss)[0] == 1


# -- code that looks at a batch as a whole -------------------------------------------------------

DRAWN = dataset(np.random.default_rng(0).normal(size=(40, 64)).astype(np.float32))


def own(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return each example's own loss."""
    return (outputs.sum(1) - targets).square()


def decorrelated(outputs: Tensor, targets: Tensor) -> Tensor:
    """Add a little of the batch's covariance, as FedDecorr does."""
    centred = outputs - outputs.mean(dim=0)
    covariance = centred.T @ centred / len(centred)
    cross_entropy = F.cross_entropy(outputs, targets, reduction="none")
    return cross_entropy + 0.001 * covariance.square().mean()


def by_the_batch_on_the_way_back(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return values of their own, whose gradients are not."""
    mean = outputs.mean(dim=0)
    return F.cross_entropy(outputs + mean - mean.detach(), targets, reduction="none")


def noisy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Draw labels from torch's generator."""
    return F.cross_entropy(outputs, torch.randint(10, targets.shape), reduction="none")


def hardest(outputs: Tensor, targets: Tensor) -> Tensor:
    """Let the eight hardest examples of a batch count: a batch of eight stays as it is."""
    losses = F.cross_entropy(outputs, targets, reduction="none")
    return losses * (losses >= losses.topk(min(8, len(losses))).values[-1])


def test_a_loss_that_looks_at_large_batches_only_is_named() -> None:
    path = f"{__name__}:hardest"
    options: dict[str, Any] = {"loss": PythonLoss(path=path), "data": DRAWN}
    assert path in why_not(work=LocalWork(batch_size=10), **options)
    # Batches of four stay as they are, but the loss is called once for all clients of a stack.
    assert path in why_not(work=LocalWork(batch_size=4), **options)


class Centred(nn.Module):
    """Takes the batch's mean out of it, like an unknown normalisation layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layer(inputs - inputs.mean(dim=0))
        return outputs


class WithTargets(nn.Module):
    """Is called with targets, too, and returns losses; those of a batch have a common part."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        losses = F.cross_entropy(self.layer(features), labels, reduction="none")
        return losses + losses.mean()


def as_it_is(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs


@pytest.mark.parametrize("loss", [decorrelated, by_the_batch_on_the_way_back, noisy])
@pytest.mark.parametrize("batch_size", [None, 1, 10])
def test_a_loss_that_looks_at_the_batch_is_named(loss: Any, batch_size: int | None) -> None:
    path = f"{__name__}:{loss.__name__}"
    options: dict[str, Any] = {"work": LocalWork(batch_size=batch_size), "data": DRAWN}
    reason = why_not(loss=PythonLoss(path=path), **options)
    assert (
        reason
        == f"the per-example values of loss {path!r} depend on the other examples in the batch"
    )
    size, note = choose("auto", loss=PythonLoss(path=path), **options)
    assert size == 1
    assert note is not None
    assert path in note


def test_a_module_that_looks_at_the_batch_is_named() -> None:
    reason = why_not(PythonModel(path=f"{__name__}:Centred"), data=DRAWN)
    assert reason == "Centred gives a client other results in a stack than alone"


def test_a_module_that_is_called_with_targets_and_looks_at_the_batch_is_named() -> None:
    inputs = {"features": DRAWN.train.inputs, "labels": DRAWN.train.targets}
    data = replace(DRAWN, train=Examples(inputs, DRAWN.train.targets))
    spec = PythonModel(path=f"{__name__}:WithTargets")
    reason = why_not(spec, data=data, loss=PythonLoss(path=f"{__name__}:as_it_is"))
    assert reason.startswith("WithTargets gives a client other results")


def choosy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Take outputs of a new model only."""
    if float(outputs.detach().abs().max()) > 1.5:
        raise ValueError("out of range")
    return own(outputs, targets)


@pytest.mark.parametrize("data", [FLAT, DRAWN], ids=["zeros", "drawn"])
@pytest.mark.parametrize("batch_size", [None, 1, 10])
@pytest.mark.parametrize("loss", [own, choosy])
def test_a_loss_of_each_example_alone_is_stacked(
    loss: Any, data: FederatedDataset, batch_size: int | None
) -> None:
    path, work = f"{__name__}:{loss.__name__}", LocalWork(batch_size=batch_size)
    assert choose(8, loss=PythonLoss(path=path), work=work, data=data) == (8, None)


@dataclass(frozen=True)
class SecondStepOnly(OptiModule):
    """Mixes clients, but not where the contract looks: in runs with the seed 0 alone."""

    name: ClassVar[str] = "second-step-of-a-test"

    def update(self, gradients: Vector, state: State, context: Context) -> tuple[Vector, State]:
        if gradients.stacked and context.step == 2 and context.seed == 0:
            return gradients.map(lambda rows: rows.mean(0).expand_as(rows).clone()), state
        return gradients, state


def test_an_optimizer_that_mixes_clients_is_found_by_trying_it() -> None:
    optimizer = Optimizer(0.1, modules=["momentum", SecondStepOnly()])
    reason = why_not(optimizer=optimizer, data=DRAWN)
    assert reason == "the optimizer gives a client other weights in a stack than alone"


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_models_of_the_zoo_pass_the_trial(precision: Any) -> None:
    images = dataset(np.random.default_rng(0).normal(size=(10, 3, 8, 8)).astype(np.float32))
    for spec in (MLP(hidden=(7,), dropout=0.3), ResNet(width=8, groups=4), CNN32()):
        optimizer = Optimizer(1.0, w_decay=0.1, modules=["adam", ("gaussian-noise", {})])
        options: dict[str, Any] = {"optimizer": optimizer, "precision": precision}
        assert choose(8, spec, data=images, **options) == (8, None)


def test_what_fails_for_a_client_alone_is_left_to_the_run() -> None:
    """There it comes with that client's traceback."""
    assert choose(8, loss=PythonLoss(path=f"{__name__}:raising")) == (1, None)


def raising(outputs: Tensor, targets: Tensor) -> Tensor:
    raise ValueError("no luck")


@pytest.mark.parametrize(
    ("spec", "loss", "expected"),
    [
        (MLP(hidden=(64,)), "own", True),
        (MLP(hidden=(64,)), "decorrelated", False),
        (PythonModel(path=f"{__name__}:Centred"), "own", False),
    ],
    ids=["of its own", "a loss of the batch", "a module of the batch"],
)
def test_clients_are_evaluated_in_one_batch_if_that_leaves_their_numbers_alone(
    spec: ModelSpec, loss: str, expected: bool
) -> None:
    offsets = np.array([0, 25, 40])
    data = replace(DRAWN, offsets=offsets, holdout_offsets=offsets[1:])
    recipe = ClientRecipe(
        spec=spec,
        shape=data_shape(DRAWN.train.inputs, DRAWN.train.targets),
        loss=PythonLoss(path=f"{__name__}:{loss}"),
        metrics=(),
        optimizer=Optimizer(lrate=0.1),
        aggregator=Mean(),
        work=client_section(LocalWork()),
        seed=0,
    )
    assert can_evaluate_together(recipe, data) is expected
    host = ClientHost(replace(recipe, evaluates_together=expected), data)
    broadcast = Broadcast(1, recipe.build_model().get_weights(), {})
    together = host.evaluate_chunk(EvaluationChunk("clients", ((0, 1),)), broadcast)
    apart = host.evaluate_chunk(EvaluationChunk("clients", ((0,), (1,))), broadcast)
    for one, other in zip(together, apart, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-6)


# -- layers that are not what they seem -----------------------------------------------------------


def on_weight(layer: nn.Linear) -> None:
    layer.weight.register_hook(lambda gradient: gradient * 0.5)


def on_the_way_back(layer: nn.Linear) -> None:
    layer.register_full_backward_hook(lambda _, inputs, outputs: (inputs[0] * 0.5,))


def before_the_way_back(layer: nn.Linear) -> None:
    layer.register_full_backward_pre_hook(lambda _, outputs: (outputs[0] * 0.5,))


@pytest.mark.parametrize("hook", [on_weight, on_the_way_back, before_the_way_back])
def test_a_layer_with_a_hook_on_gradients_is_named(hook: Any) -> None:
    layer = nn.Linear(64, 64)
    hook(layer)
    reason = why_not(with_(layer))
    assert re.match(r"layer '0' \(Linear\) has a (backward|gradient) hook", reason)
    size, note = choose("auto", with_(layer))
    assert size == 1
    assert note is not None
    assert reason in note


def test_a_forward_of_a_layers_own_is_left_to_vmap_and_named_where_that_does_not_pay() -> None:
    layer = nn.Linear(64, 64)
    layer.forward = lambda inputs: F.linear(inputs, layer.weight * 0.5)  # type: ignore[method-assign]
    assert choose(8, with_(layer)) == (8, None)
    size, note = choose("auto", with_(layer))
    assert size == 1
    assert note is not None
    assert note.endswith("layer '0' (Linear) has a replaced forward()")


def test_a_forward_that_holds_on_to_one_clients_weights_is_found_by_trying_it() -> None:
    layer = nn.Linear(64, 64)
    weight = layer.weight
    layer.forward = lambda inputs: F.linear(inputs, weight)  # type: ignore[method-assign]
    assert "gives a client other results in a stack" in why_not(with_(layer), data=DRAWN)


class Switching(nn.Linear):
    """Switches units by digits that float32 has lost to rounding, and float64 has not."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        values = super().forward(inputs)
        if torch._C._functorch.is_batchedtensor(values):  # as if it added up in another order
            values = values * (1 + torch.finfo(values.dtype).eps)
        return values * ((values.detach() * 1e9).sin() > 0)


def test_rounding_that_switches_units_is_told_from_mixing_in_float64(monkeypatch: Any) -> None:
    spec = with_(Switching(64, 64))
    assert choose(8, spec, data=DRAWN) == (8, None)
    monkeypatch.setattr("simfl.client.stack_trial._agree_in_double", lambda *_: False)
    assert "gives a client other results in a stack" in why_not(spec, data=DRAWN)


def test_a_size_that_is_asked_for_is_taken() -> None:
    assert choose(64, cohort_size=10) == (64, None)
    assert choose(1) == (1, None)
