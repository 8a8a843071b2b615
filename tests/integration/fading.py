"""A third-party module with its own state, for the tests of exactness."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

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
