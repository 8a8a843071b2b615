"""What the processes of a bare loop share: data, weights, and room for their sums."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from models import build_module
from recipe import Recipe
from torch import Tensor, nn

__all__ = ["Shared", "Slot", "lay_out", "share"]

# R ranks (processes), P parameters of all tensors

_ALIGNED = 16
"""Floats; 64 bytes, so that every parameter begins where vector instructions like it."""


class Slot(NamedTuple):
    """A parameter's position in the flat vector of all."""

    name: str
    start: int
    shape: torch.Size
    channels_last: bool = False
    """Whether a convolution's weights lie as [out, height, width, in]."""

    def view(self, flat: Tensor) -> Tensor:
        """Return the parameter's part of [..., P], in its own shape."""
        part = flat[..., self.start : self.start + self.shape.numel()]
        if self.channels_last and len(self.shape) == 4:
            out, into, *area = self.shape
            return part.view(*flat.shape[:-1], out, *area, into).movedim(-1, -3)
        return part.view(*flat.shape[:-1], *self.shape)


def lay_out(module: nn.Module, *, channels_last: bool = False) -> tuple[list[Slot], int]:
    """Return the parameters' positions in a flat vector, and P."""
    slots, end = [], 0
    for name, parameter in module.named_parameters():
        slots.append(Slot(name, end, parameter.shape, channels_last))
        end += -(-parameter.numel() // _ALIGNED) * _ALIGNED
    return slots, end


@dataclass(frozen=True)
class Shared:
    """What the processes share."""

    inputs: Tensor
    """[examples, ...]; images of a loop with channels last: [examples, height, width, channels]."""
    targets: Tensor
    weights: Tensor
    """[P] what a round starts from."""
    deltas: Tensor
    """[R, P] each rank's sum of weighted deltas."""
    numbers: Tensor
    """[R, 3] each rank's sum of weights, sum of losses, and examples seen."""
    control: Tensor | None = None
    """[P] SCAFFOLD's c."""
    own: Tensor | None = None
    """[population, P] SCAFFOLD's c_i."""
    changes: Tensor | None = None
    """[R, P] each rank's sum of what its clients' c_i have changed by."""

    def moved(self, move: Callable[[Tensor], Tensor]) -> Shared:
        """Return the same with every tensor moved."""
        return Shared(**{k: v if v is None else move(v) for k, v in vars(self).items()})

    def mean_loss(self) -> float:
        """Return the last round's mean over the examples that all ranks have seen."""
        _, losses, seen = self.numbers.sum(0).tolist()
        return losses / seen


def share(recipe: Recipe, *, ranks: int, channels_last: bool = False) -> Shared:
    """Make what the processes share: data, first weights, and room for sums."""
    slots, size = lay_out(build_module(recipe.workload), channels_last=channels_last)
    data = recipe.workload.make_examples()
    weights = torch.zeros(size)
    for slot in slots:
        slot.view(weights).copy_(torch.from_numpy(recipe.weights[slot.name]))
    scaffold: dict[str, Tensor] = {}
    if recipe.workload.scaffold:
        scaffold = {
            "control": torch.zeros(size),
            "own": torch.zeros(recipe.workload.population, size),
            "changes": torch.zeros(ranks, size),
        }
    inputs = torch.from_numpy(data["inputs"])
    if channels_last and inputs.dim() == 4:
        inputs = inputs.movedim(1, -1).contiguous()
    return Shared(
        inputs=inputs,
        targets=torch.from_numpy(data["targets"]),
        weights=weights,
        deltas=torch.zeros(ranks, size),
        numbers=torch.zeros(ranks, 3, dtype=torch.float64),
        **scaffold,
    )
