"""Twenty steps of each algorithm against torch.optim with the same hyper-parameters."""

from typing import Any

import pytest
import torch
from torch import nn

from simfl.optimizer import Optimizer
from simfl.vector import Vector

MOMENTUM = ("momentum", {"beta": 0.8})
NESTEROV = ("momentum", {"beta": 0.8, "nesterov": True})
ADAM = ("adam", {"beta_1": 0.8, "beta_2": 0.95, "eps": 1e-6})
AS_ADAM: dict[str, Any] = {"betas": (0.8, 0.95), "eps": 1e-6}

CASES: dict[str, tuple[dict[str, Any], type[torch.optim.Optimizer], dict[str, Any]]] = {
    "sgd": ({}, torch.optim.SGD, {}),
    "momentum": ({"modules": [MOMENTUM]}, torch.optim.SGD, {"momentum": 0.8}),
    "nesterov": (
        {"modules": [NESTEROV]},
        torch.optim.SGD,
        {"momentum": 0.8, "nesterov": True},
    ),
    "adam": ({"modules": [ADAM]}, torch.optim.Adam, AS_ADAM),
    "adamw": (
        {"modules": [ADAM], "w_decay": 0.3},
        torch.optim.AdamW,
        {**AS_ADAM, "weight_decay": 0.3},
    ),
    "adagrad": ({"modules": [("adagrad", {"eps": 1e-6})]}, torch.optim.Adagrad, {"eps": 1e-6}),
    "rmsprop": (
        {"modules": [("rmsprop", {"beta": 0.7, "eps": 1e-6})]},
        torch.optim.RMSprop,
        {"alpha": 0.7, "eps": 1e-6},
    ),
    # torch adds weight_decay · w to the gradient: ridge with half of it.
    "ridge": (
        {"regularizers": [("ridge", {"alpha": 0.1})]},
        torch.optim.SGD,
        {"weight_decay": 0.2},
    ),
}


class Regression:
    """A linear model of two tensors on fixed data, with the interface an Optimizer needs."""

    def __init__(self, dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(0)
        self.module = nn.Linear(3, 2, dtype=dtype)
        with torch.no_grad():
            for parameter in self.module.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=dtype))
        self.inputs = torch.randn(8, 3, generator=generator, dtype=dtype)
        self.targets = torch.randn(8, 2, generator=generator, dtype=dtype)

    def backward(self) -> None:
        self.module.zero_grad()
        nn.functional.mse_loss(self.module(self.inputs), self.targets).backward()

    def get_weights(self, trainable: bool = False) -> Vector:
        return Vector({n: p.detach().clone() for n, p in self.module.named_parameters()})

    def compute_batch_gradients(self, batch: object, max_norm: float | None = None) -> Vector:
        self.backward()
        return Vector({n: p.grad for n, p in self.module.named_parameters() if p.grad is not None})

    def apply_updates(self, updates: Vector) -> None:
        with torch.no_grad():
            for name, parameter in self.module.named_parameters():
                parameter.add_(updates[name])


# Some roundings at each of twenty steps, of weights of about 1: 2e-6 is 16 ulp of float32. In
# float64 rmsprop, dividing by gradients that change sign, blows a rounding up to 5e-14.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("name", CASES)
def test_twenty_steps_are_those_of_torch(name: str, dtype: torch.dtype, tolerance: float) -> None:
    ours, torch_class, theirs = CASES[name]
    model, reference = Regression(dtype), Regression(dtype)
    optimizer = Optimizer(lrate=0.01, **ours)
    torch_optimizer = torch_class(reference.module.parameters(), lr=0.01, **theirs)

    for _ in range(20):
        optimizer.run_train_step(model, batch=None)
        reference.backward()
        torch_optimizer.step()

    start, expected = Regression(dtype).get_weights(), reference.get_weights()
    for key, tensor in model.get_weights().items():
        torch.testing.assert_close(tensor, expected[key], rtol=tolerance, atol=tolerance)
        assert (expected[key] - start[key]).abs().min() > 1e-3
