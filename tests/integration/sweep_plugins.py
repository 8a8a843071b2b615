"""What the trials of test_sweep.py import."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from sklearn.datasets import load_digits

from simfl.optimizer import Context, OptiModule, State
from simfl.vector import Vector


def load_counted(log: str) -> tuple[Any, Any]:
    """Load the digits, and leave a line each time."""
    with Path(log).open("a") as file:
        file.write("loaded\n")
    digits = load_digits()
    return digits.data.astype("float32") / 16, digits.target


@dataclass(frozen=True)
class BrokenAfter(OptiModule):
    """Raises once so many rounds are done."""

    name: ClassVar[str] = "broken-after"
    rounds: int = 1

    def update(self, gradients: Vector, state: State, context: Context) -> tuple[Vector, State]:
        if context.round > self.rounds:
            raise ValueError("worn out")
        return gradients, state


@dataclass(frozen=True)
class SlowWhile(OptiModule):
    """Takes its time while a file is there, and changes nothing."""

    name: ClassVar[str] = "slow-while"
    file: str = ""

    def update(self, gradients: Vector, state: State, context: Context) -> tuple[Vector, State]:
        if Path(self.file).exists():
            time.sleep(0.02)
        return gradients, state
