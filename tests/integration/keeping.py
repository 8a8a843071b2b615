"""A third-party module that keeps its state in some rounds only, of one layer, and whose clients
fail at times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from simfl.optimizer import Context, OptiModule, State
from simfl.vector import Vector


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
