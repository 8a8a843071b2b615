"""What users may bring: modules, an algorithm and a network, which tests name in scenarios."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from simfl.algorithms import Algorithm, Local, Update
from simfl.component import Fraction
from simfl.optimizer import Context, OptiModule, State
from simfl.vector import Vector


@dataclass(frozen=True)
class Fading(OptiModule):
    """Mix the gradients with those of the client's very first step, ever less of them."""

    name: ClassVar[str] = "fading"

    share: Fraction = 0.3
    """How much of the first gradients is mixed in at the second step."""

    def init(self, like: Vector) -> State:
        """Remember nothing yet."""
        return {"first": like.zeros_like(), "count": torch.tensor(0.0)}

    def update(self, gradients: Vector, state: State, context: Context) -> tuple[Vector, State]:
        """Add share / count of the first gradients, and count the step."""
        count = state["count"]
        is_first = (count == 0).to(torch.float32)
        first = gradients * is_first + state["first"] * (1 - is_first)
        mixed = gradients + first * (self.share / (count + 1))
        return mixed, {"first": first, "count": count + 1}


@dataclass(frozen=True)
class Keeping(OptiModule):
    """Let the bias' gradients fade with the steps it counts; the count is kept from 5 to 8.

    In the first round no client keeps it.
    """

    name: ClassVar[str] = "keeping"

    failing: tuple[int, ...] = ()
    """Clients that fail in odd rounds."""
    diverging: tuple[int, ...] = ()
    """Clients that send NaN in odd rounds."""

    def init(self, like: Vector) -> State:
        """Count from 0."""
        return {name: torch.zeros((), dtype=torch.int64) for name in ("count", "round")}

    def update(self, gradients: Vector, state: State, context: Context) -> tuple[Vector, State]:
        """Divide by the count, and fail where it is to."""
        (client,) = context.clients
        if context.round % 2 and client in self.failing:
            raise ValueError("broken sensor")
        count = state["count"] + 1
        scale = float("nan") if context.round % 2 and client in self.diverging else 1.0 / count
        return gradients | Vector({"output.bias": gradients["output.bias"] * scale}), {
            "count": count,
            "round": torch.tensor(context.round),
        }

    def between_rounds(self, state: State) -> State:
        """Keep the count if it is neither small nor large."""
        keeps = "count" in state and 5 <= int(state["count"]) <= 8 and int(state["round"]) > 1
        return state if keeps else {}


@dataclass(frozen=True)
class Mishaps(OptiModule):
    """Raise at one client, send NaN from another."""

    name: ClassVar[str] = "mishaps"

    failing: int
    """Whose code raises."""
    diverging: int
    """Whose gradients are not finite."""

    def update(self, gradients: Vector, state: State, context: Context) -> tuple[Vector, State]:
        """Do so, and leave the gradients of the others as they are."""
        if context.clients == (self.failing,):
            raise ValueError("broken sensor")
        return gradients * (float("nan") if context.clients == (self.diverging,) else 1.0), state


@dataclass(frozen=True)
class Owning(Algorithm):
    """FedAvg, whose clients keep their last weights."""

    name: ClassVar[str] = "owning"

    def init(self, weights: Vector) -> State:
        """Return the weights that the client starts from."""
        return {"own": weights}

    def client(self, local: Local) -> tuple[Update, State]:
        """Train, and keep where that ends."""
        end = local.train(local.weights)
        return Update(local.weights - end), {"own": end}

    def personal(self, local: Local) -> Vector:
        """Return what the client keeps."""
        own: Vector = local.kept["own"]
        return own


class Leaky(nn.Module):
    """Hold more than weights, and of many types.

    In bfloat16; centres its inputs by a running mean that no server sends out, and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10).bfloat16()
        self.register_buffer("mean", torch.zeros(64), persistent=False)
        self.register_buffer("drawn", torch.randn(64), persistent=False)
        self.register_buffer("mask", torch.ones(64, dtype=torch.bool))
        self.register_buffer("hidden", torch.tensor([0.0, -torch.inf]))
        self.register_buffer("count", torch.tensor(2**62 + 1))
        self.calls = 0
        self.seen: list[Tensor] = []
        self.mean: Tensor
        self.count: Tensor

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, which depend on all that is held."""
        inputs = images.flatten(1) * self.mask
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * inputs.mean(dim=0)
            self.count += 1
        self.calls += 1
        self.seen = [*self.seen[-2:], inputs.mean()]
        shift = self.mean + 0.1 * self.drawn + torch.stack(self.seen).mean()
        logits: Tensor = self.linear((inputs - shift).bfloat16()).float()
        return logits * (1 + 0.1 * (self.calls % 7))
