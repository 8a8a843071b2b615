"""Result: what a run has produced."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from simfl.observers import Summary
from simfl.simulation.build import Simulation
from simfl.vector import Vector


def module_with(simulation: Simulation, weights: Vector) -> nn.Module:
    """Return a run's model with these weights, in evaluation mode.

    Args:
        simulation: of the run.
        weights: those that the server sends; others keep their initial values.
    """
    model = simulation.server.build_model()
    model.set_weights(model.get_weights() | weights)
    return model.module.eval()


@dataclass(frozen=True)
class Result:
    """What a run has produced."""

    history: list[dict[str, Any]]
    """One dict a round: ``round``, ``seconds`` of wall time, ``train_loss``, and metrics when
    evaluated. The lines of ``metrics.jsonl``."""
    weights: dict[str, np.ndarray[Any, Any]]
    """The final weights by name; bfloat16 as float32, since numpy has no bfloat16."""
    summary: Summary
    """As in ``summary.json``."""
    out: Path
    """The run's folder."""

    def __repr__(self) -> str:
        """Return a summary of the run in one line."""
        status, final = self.summary.get("status"), self.summary.get("final")
        rounds = f"{len(self.history)} round{'s' if len(self.history) != 1 else ''}"
        return f"Result({status}, {rounds}, final={final}, out={str(self.out)!r})"
