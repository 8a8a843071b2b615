"""What a client host is made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from simfl.aggregation import Aggregator
from simfl.client.updates import ClientRow
from simfl.models import DataShape, Loss, Metric, ModelSpec, TorchModel, build_module
from simfl.models.metrics import as_metrics
from simfl.optimizer import Optimizer
from simfl.sections import ClientSection

Weighting = Literal["examples", "steps", "uniform"]
"""What a client's delta is weighted with in the mean."""


@dataclass(frozen=True)
class ClientRecipe:
    """All that a client host is made from, but for the data; it travels to the actors."""

    spec: ModelSpec
    shape: DataShape
    loss: Loss
    metrics: tuple[Metric, ...] | None
    """Measured beside the loss; None: what suits the loss."""
    optimizer: Optimizer
    aggregator: Aggregator
    work: ClientSection
    """What each client does in a round."""
    seed: int
    weighting: Weighting = "examples"
    evaluation_batch_size: int = 128
    evaluates_together: bool = True
    """Whether clients may be evaluated in one batch."""
    stack: int = 1
    """How many clients are trained in one computation: a power of two; 1: one at a time."""

    def build_metrics(self) -> tuple[Metric, ...]:
        """Return what is measured beside the loss."""
        return as_metrics(self.loss.default_metrics if self.metrics is None else self.metrics)

    def build_model(self, *, device: str = "cpu") -> TorchModel:
        """Build the model with the run's initial weights, since other state may be drawn too."""
        module = build_module(self.spec, self.shape, seed=self.seed)
        model = TorchModel(
            module, self.loss, metrics=self.build_metrics(), precision=self.work.precision
        )
        return model.to(device)

    def weigh(self, row: ClientRow) -> float:
        """Return what a client's delta counts by."""
        by = {"examples": row.num_examples, "steps": row.losses.num_steps, "uniform": 1}
        return float(by[self.weighting])
