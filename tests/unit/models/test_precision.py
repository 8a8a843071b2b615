"""Training in bfloat16 against torch's own autocast, written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from simfl.models import Batch, TorchModel


class Noting(nn.Linear):
    """Records the type that it computes in."""

    seen: torch.dtype | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = super().forward(inputs)
        self.seen = outputs.dtype
        return outputs


class Both(nn.Module):
    """Has two outputs, in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> dict[str, Any]:
        return {"outputs": self.layer(inputs), "both": (self.layer(inputs), 1)}


def cnn() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), Noting(4 * 16, 3)
    )


def batch() -> Batch:
    torch.manual_seed(1)
    return Batch(torch.randn(5, 2, 6, 6), torch.randint(3, (5,)))


def in_autocast(module: nn.Module, inputs: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        outputs = module(inputs)
    return outputs.float()


def test_loss_and_gradients_are_those_of_torchs_autocast() -> None:
    module = cnn()
    loss, gradients = TorchModel(module, precision="bf16").compute_loss_and_gradients(batch())
    assert module[-1].seen is torch.bfloat16
    expected = F.cross_entropy(in_autocast(module, batch().inputs), batch().targets)
    assert torch.equal(loss, expected.detach())
    for ours, theirs in zip(
        gradients.tensors, torch.autograd.grad(expected, list(module.parameters())), strict=True
    ):
        assert ours.dtype is torch.float32
        assert torch.equal(ours, theirs)


def test_clipped_gradients_are_those_of_autocast_example_by_example() -> None:
    module, max_norm = cnn(), 0.5
    model = TorchModel(module, precision="bf16")
    _, gradients = model.compute_loss_and_gradients(batch(), max_norm)
    totals = [torch.zeros_like(parameter) for parameter in module.parameters()]
    for inputs, target in zip(batch().inputs, batch().targets, strict=True):
        loss = F.cross_entropy(in_autocast(module, inputs[None]), target[None])
        own = torch.autograd.grad(loss, list(module.parameters()))
        norm = torch.cat([gradient.flatten() for gradient in own]).norm()
        for total, gradient in zip(totals, own, strict=True):
            total += gradient * (max_norm / norm).clamp(max=1.0) / 5
    # One example's product may be rounded to bfloat16 (2^-9) where five examples' is not.
    for ours, theirs in zip(gradients.tensors, totals, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=1e-3)


def test_evaluation_is_in_float32() -> None:
    module = cnn()
    sums = TorchModel(module, precision="bf16").evaluate(batch())
    assert module[-1].seen is torch.float32
    assert sums == TorchModel(module).evaluate(batch())


def test_all_outputs_come_back_in_float32() -> None:
    outputs = TorchModel(Both(), precision="bf16").call(torch.randn(2, 8))
    assert outputs["outputs"].dtype is outputs["both"][0].dtype is torch.float32
    assert outputs["both"][1] == 1


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_names_take_the_place_of_the_modules_own_tensors(precision: Any) -> None:
    module = nn.Linear(2, 1, bias=False)
    outputs = TorchModel(module, "mse", precision=precision).call(
        torch.tensor([[1.0, 2.0]]), {"weight": torch.tensor([[4.0, 8.0]])}
    )
    assert outputs.tolist() == [[20.0]]
