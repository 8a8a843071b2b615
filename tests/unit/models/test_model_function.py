"""Objectives of a whole batch, differentiated for one client and for a stack of them.

Gradients are compared with plain autograd on a module that is written here.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from simfl.errors import ConfigError
from simfl.models import Batch, Dropout, StackedModel, TorchModel
from simfl.models.model_function import ModelFunction, batch_loss
from simfl.vector import Vector

CLOSE: dict[str, float] = {"rtol": 1e-5, "atol": 1e-6}
"""Other kernels, and another order of sums, in float32."""


def network(*, share: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Linear(4, 5), nn.Tanh(), Dropout(share), nn.Linear(5, 3)]
    return nn.Sequential(*layers)


def batch(seed: int, size: int = 6) -> Batch:
    drawn = torch.Generator().manual_seed(seed)
    inputs = torch.randn(size, 4, generator=drawn)
    return Batch(inputs, torch.randint(3, (size,), generator=drawn))


def near(model: ModelFunction, weights: Any, batch: Batch, centre: Any, by: Any) -> Tensor:
    """Return the loss and by/2 the squared distance to a centre: what FedProx minimises."""
    squares = [((weights[name] - centre[name]) ** 2).sum() for name in weights]
    return model.loss(weights, batch) + 0.5 * by * torch.stack(squares).sum()


def test_the_gradient_of_an_objective_is_that_of_autograd() -> None:
    module, data = network(), batch(1)
    model = TorchModel(module)
    centre = model.get_weights().map(torch.ones_like)
    loss, gradients = model.compute_objective(near, data, (centre, 0.3))
    expected = F.cross_entropy(module(data.inputs), data.targets)
    expected = (
        expected + 0.15 * torch.stack([((p - 1) ** 2).sum() for p in module.parameters()]).sum()
    )
    torch.testing.assert_close(loss, expected.detach(), **CLOSE)
    for (_, gradient), own in zip(
        gradients.items(), torch.autograd.grad(expected, list(module.parameters())), strict=True
    ):
        torch.testing.assert_close(gradient, own, **CLOSE)
    assert not loss.requires_grad


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("ragged", [False, True])
def test_clients_of_a_stack_get_what_each_gets_alone(share: float, ragged: bool) -> None:
    model = TorchModel(network(share=share))
    start = model.get_weights(trainable=True)
    starts = [start, start.map(lambda tensor: tensor * 1.5)]
    centres = [start.map(torch.zeros_like), start.map(torch.ones_like)]
    own = [batch(1), batch(2, size=4 if ragged else 6)]
    singles = []
    for client in (0, 1):
        model.set_weights(starts[client], trainable=True)
        model.seed_step(torch.tensor(client), 3)
        given = (centres[client], 0.1 * (client + 1))
        singles.append(model.compute_objective(near, own[client], given))

    padded = [own[0], own[1] if not ragged else padded_to(own[1], 6)]
    stack = StackedModel(model, 2)
    stack.begin(model.get_weights(), 2)
    stack.apply_updates(Vector.stack(starts) - Vector.stack([starts[1]] * 2))
    stack.seed_step(torch.tensor([0, 1]), 3)
    weights = torch.tensor([[1.0] * 6, [1.5] * 4 + [0.0] * 2]) if ragged else None
    together = Batch(*(torch.stack(pair) for pair in zip(*(b[:2] for b in padded), strict=True)))
    losses, gradients = stack.compute_objective(
        near,
        together._replace(sample_weights=weights),
        (Vector.stack(centres), torch.tensor([0.1, 0.2, 9.0])),  # the third has left the stack
    )
    for (loss, single), found, row in zip(singles, losses, gradients.unstack(), strict=True):
        torch.testing.assert_close(found, loss, **CLOSE)
        for name, tensor in single.items():
            torch.testing.assert_close(row[name], tensor, **CLOSE)


def padded_to(own: Batch, size: int) -> Batch:
    rows = [*range(len(own.targets)), *[0] * (size - len(own.targets))]
    return Batch(own.inputs[rows], own.targets[rows])  # type: ignore[index]


def test_what_is_not_stacked_is_the_same_for_all_clients() -> None:
    model = TorchModel(network())
    stack = StackedModel(model, 2)
    start = model.get_weights()
    stack.begin(start, 2)
    data = batch(1)
    both = Batch(torch.stack([data.inputs] * 2), torch.stack([data.targets] * 2))  # type: ignore[list-item]
    centre = start.map(torch.zeros_like)
    losses, gradients = stack.compute_objective(near, both, (centre, torch.tensor(0.3)))
    loss, single = model.compute_objective(near, data, (centre, 0.3))
    torch.testing.assert_close(losses, loss.expand(2), **CLOSE)
    assert gradients.stacked
    for row in gradients.unstack():
        for name, tensor in single.items():
            torch.testing.assert_close(row[name], tensor, **CLOSE)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_loss_as_an_objective_is_a_step_of_the_loss(precision: Any) -> None:
    model, data = TorchModel(network(), precision=precision), batch(1)
    loss, gradients = model.compute_loss_and_gradients(data)
    assert model.compute_objective(batch_loss, data) == (loss, gradients)


def test_a_function_of_the_weights_uses_those_it_is_given_and_the_modules_own() -> None:
    module = network()
    function, data = ModelFunction(TorchModel(module)), batch(1)
    bias = torch.full((3,), 2.0)
    outputs, features = function.features({"3.bias": bias}, data.inputs, "3")
    torch.testing.assert_close(features, torch.tanh(module[0](data.inputs)))
    torch.testing.assert_close(outputs, features @ module[3].weight.T + 2.0)
    torch.testing.assert_close(function(Vector({"3.bias": bias}), data.inputs), outputs)
    losses = F.cross_entropy(outputs, data.targets, reduction="none")
    torch.testing.assert_close(function.per_example({"3.bias": bias}, data), losses)
    weighted = data._replace(sample_weights=torch.arange(6.0))
    expected = (losses * torch.arange(6.0)).mean()
    torch.testing.assert_close(function.loss({"3.bias": bias}, weighted), expected)
    torch.testing.assert_close(function.loss_of(outputs, weighted), expected)


def test_features_within_a_gradient_are_those_of_the_weights_given() -> None:
    module = network()
    function, data = ModelFunction(TorchModel(module)), batch(1)
    weights = {name: weight.detach() for name, weight in module.named_parameters()}

    def norm(weights: Any) -> Tensor:
        return function.features(weights, data.inputs, "3")[1].square().sum()

    gradients = torch.func.grad(norm)(weights)
    expected = torch.autograd.grad(
        torch.tanh(module[0](data.inputs)).square().sum(), list(module[0].parameters())
    )
    torch.testing.assert_close(gradients["0.weight"], expected[0])
    assert not gradients["3.weight"].any()


def test_a_teacher_predicts_in_evaluation_mode_and_the_module_is_in_training_mode_again() -> None:
    module = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3))
    model = TorchModel(module)
    model.enter_training()
    data = batch(1)
    before = model.get_weights()
    found = ModelFunction(model).predict(before, data.inputs)
    assert model.get_weights() == before
    assert module.training
    assert not found.requires_grad
    torch.testing.assert_close(found, module.eval()(data.inputs).detach())


@pytest.mark.parametrize("layer", ["", "4", "0.weight"])
def test_a_layer_that_does_not_exist_is_named_with_those_that_do(layer: str) -> None:
    function = ModelFunction(TorchModel(network()))
    with pytest.raises(ConfigError, match=f"no layer '{layer}'; it has '0', '1', '2', '3'"):
        function.features({}, batch(1).inputs, layer)


def test_half_precision_has_gradients_in_float32() -> None:
    model = TorchModel(network().bfloat16())
    data = batch(1)
    half = Batch(data.inputs.bfloat16(), data.targets)  # type: ignore[union-attr]
    _, gradients = model.compute_objective(batch_loss, half)
    assert {tensor.dtype for tensor in gradients.tensors} == {torch.float32}


def test_a_weight_that_an_objective_does_not_use_has_a_gradient_of_zeros_that_is_its_own() -> None:
    model = TorchModel(network())

    def total(_: ModelFunction, weights: Any, batch: Batch) -> Tensor:
        return weights["0.bias"].sum() + weights["0.weight"].sum()

    for found in (
        model.compute_objective(total, batch(1))[1],
        stack_of_one(model).compute_objective(total, unsqueezed(batch(1)))[1],
    ):
        found.mul_(2.0)  # expanded memory cannot be written to
        assert not found["3.weight"].any()
        assert (found["0.bias"] == 2.0).all()


def stack_of_one(model: TorchModel) -> StackedModel:
    stack = StackedModel(model, 1)
    stack.begin(model.get_weights(), 1)
    return stack


def unsqueezed(own: Batch) -> Batch:
    return Batch(own.inputs[None], own.targets[None])  # type: ignore[index,call-overload]


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (lambda model, weights, batch: model.per_example(weights, batch), "must return one number"),
        (lambda model, weights, batch: 1.0, "returned float; it must return one number"),
    ],
)
def test_an_objective_must_be_one_number(objective: Any, message: str) -> None:
    model = TorchModel(network())
    with pytest.raises(ConfigError, match=message):
        model.compute_objective(objective, batch(1))
    with pytest.raises(ConfigError, match=message):
        stack_of_one(model).compute_objective(objective, unsqueezed(batch(1)))


def test_an_objective_must_depend_on_the_weights() -> None:
    with pytest.raises(ConfigError, match="does not depend on the trained weights"):
        TorchModel(network()).compute_objective(lambda *_: torch.tensor(1.0), batch(1))


def test_an_objective_cannot_be_clipped() -> None:
    model = TorchModel(network())
    with pytest.raises(ConfigError, match=r"client\.sclip clips each example's gradient"):
        model.compute_objective(batch_loss, batch(1), max_norm=1.0)
    with pytest.raises(ConfigError, match=r"client\.sclip clips each example's gradient"):
        stack_of_one(model).compute_objective(batch_loss, unsqueezed(batch(1)), max_norm=1.0)
