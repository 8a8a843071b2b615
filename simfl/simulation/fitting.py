"""What follows from the data: the shape for the model, the loss and the metrics."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from simfl.data import Examples, FederatedDataset
from simfl.errors import ConfigError, DataError
from simfl.models import BCEWithLogits, DataShape, Loss, Metric, data_shape
from simfl.models.metrics import as_metrics
from simfl.models.multiple_choice import NO_CHOICES, MultipleChoice
from simfl.scenario import Scenario

_READ_ROWS: Final = 1 << 14
"""How many examples' targets are read at once."""


def loss_for(scenario: Scenario, dataset: FederatedDataset, training: np.ndarray[Any, Any]) -> Loss:
    """Return the loss, with what follows from the examples that clients train on."""

    def targets() -> Iterator[np.ndarray[Any, Any]]:
        rows = np.concatenate([dataset.train_rows(client) for client in training.tolist()])
        for start in range(0, len(rows), _READ_ROWS):
            yield dataset.train.targets.take(rows[start : start + _READ_ROWS], axis=0)

    try:
        return scenario.model.loss.for_targets(targets())
    except ConfigError as error:
        raise scenario.fault("model.loss", str(error)) from error


def metrics_for(scenario: Scenario, dataset: FederatedDataset) -> tuple[Metric, ...]:
    """Return the metrics, with what they need of the data's tokenizer."""
    given = scenario.evaluation.metrics
    if given is None:
        return as_metrics(scenario.model.loss.default_metrics)
    if not dataset.train.choices and any(
        isinstance(metric, MultipleChoice) and metric.choices is None for metric in given
    ):
        raise scenario.fault("evaluation.metrics", NO_CHOICES)
    try:
        return tuple(metric.for_tokenizer(dataset.encode) for metric in given)
    except (ConfigError, DataError) as error:
        raise scenario.fault("evaluation.metrics", str(error)) from error


def shape_for(scenario: Scenario, dataset: FederatedDataset, loss: Loss) -> DataShape:
    """Return the data's shape for the model, including classes that occur only in the test split.

    Integer targets are not classes if the loss compares each with a single output.
    """
    loss = loss.evaluated
    shape = _shape_of(dataset.train)
    if isinstance(loss, BCEWithLogits) and (shape.num_classes or 2) > 2:
        raise scenario.fault(
            "model.loss",
            f"{loss.name}: targets are integers up to {(shape.num_classes or 0) - 1}, but it "
            "expects 0 and 1; use cross-entropy",
        )
    if loss.takes_numbers:
        shape = dataclasses.replace(shape, num_classes=None)
    if dataset.test is None or loss.takes_numbers:
        return shape
    test = _shape_of(dataset.test)
    return dataclasses.replace(
        shape,
        num_classes=_largest(shape.num_classes, test.num_classes),
        vocabulary=_largest(shape.vocabulary, test.vocabulary),
    )


def _shape_of(examples: Examples) -> DataShape:
    is_scaled = examples.scaling is not None
    return data_shape(examples.inputs, examples.targets, is_scaled=is_scaled)


def _largest(a: int | None, b: int | None) -> int | None:
    return a if b is None else b if a is None else max(a, b)
