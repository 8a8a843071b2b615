"""A plug-in for benchmarks: clients that do not train, and so show what all else costs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

from simfl.algorithms import Algorithm, Local, State, Update
from simfl.component import NonNegative


@dataclass(frozen=True)
class Resting(Algorithm):
    """Send a delta of zeros after some seconds, in which the processor is free for others."""

    name: ClassVar[str] = "resting"
    uses_optimizer: ClassVar[bool] = False
    takes_read_only: ClassVar[bool] = True

    seconds: NonNegative = 0.0
    """Of each client."""

    def client(self, local: Local) -> tuple[Update, State]:
        """Sleep, or not."""
        if self.seconds:
            time.sleep(self.seconds)
        return Update(local.weights.zeros_like()), {}
