"""A plug-in under which clients fail and send NaN, round after round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from simfl.optimizer import Context, OptiModule, State
from simfl.vector import Vector


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
