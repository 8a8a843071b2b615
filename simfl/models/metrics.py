"""Metrics: measures of a model's outputs, as sums that add up over batches.

Shapes: B examples, ... the axes of one target (none, or the positions of a sequence), V classes.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from simfl.component import Component, Count
from simfl.errors import ConfigError
from simfl.models.model import Batch
from simfl.models.per_example import (
    IGNORED,
    is_elementwise,
    join_weights,
    match_classes,
    match_shapes,
    mean_over_axes,
    mean_over_counted,
    require_one_each,
    require_tensor,
    weighted_sums,
)
from simfl.optimizer.specs import build_component

Encode: TypeAlias = "Callable[[str], Sequence[int]]"
"""Maps text to token ids, without those of a begin or an end."""


class Metric(Component, kind="metric"):
    """A number per example, averaged over the examples by their weights."""

    larger_is_better: ClassVar[bool] = True
    """Whether large values are better than small ones."""
    unit: ClassVar[str | None] = None
    """The unit of its values, such as ``"USD"``, for reports; None: they have no unit."""

    @property
    def key(self) -> str:
        """Its name in reports."""
        return self.name

    def per_example(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the metric of each example: [B]."""
        raise NotImplementedError(f"{type(self).__name__} has no per_example()")

    def example_weights(self, targets: Tensor) -> Tensor | None:
        """Return how much each example weighs in the mean: [B]; None: all weigh the same."""
        return None

    def finish(self, total: float, weight: float) -> float:
        """Return the metric from its sum and the sum of the weights, by default their quotient.

        It may raise ``ZeroDivisionError`` or ``OverflowError``: then there is no value.
        """
        return total / weight

    def for_tokenizer(self, encode: Encode | None) -> Metric:
        """Return the metric for data with this tokenizer, or none; by default the metric itself."""
        return self

    def of_model(self, predict: Callable[[Any], Any], batch: Batch) -> Tensor:
        """Return the metric of each example by calling the model: [B].

        Override it instead of ``per_example`` for a metric that needs other outputs than the
        batch's.

        Args:
            predict: maps inputs to outputs, in evaluation mode.
            batch: B examples.
        """
        raise NotImplementedError(f"{type(self).__name__} has no of_model()")

    @property
    def calls_model(self) -> bool:
        """Whether ``of_model`` is overridden."""
        return type(self).of_model is not Metric.of_model

    @property
    def has_own_finish(self) -> bool:
        """Whether ``finish`` is overridden."""
        return type(self).finish is not Metric.finish

    @property
    def has_own_sums(self) -> bool:
        """Whether ``sums`` is overridden, so that it alone defines the metric."""
        return type(self).sums is not Metric.sums

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return ``per_example`` and check its shape.

        Raises:
            ConfigError: unless it is one number per example.
        """
        what = f"the metric {self.key}"
        return require_one_each(what, self.per_example(outputs, targets), targets)

    def sums(
        self, outputs: Tensor, targets: Tensor, sample_weights: Tensor | None = None
    ) -> tuple[float, float]:
        """Return the weighted sum over the examples, and the sum of the weights.

        Both are added up over batches, and ``finish`` makes the metric of them. They must be sums
        over examples, such as the true positives and the predictions for a precision. If the weight
        is 0, the metric is undefined.

        Args:
            outputs: the module's outputs for B examples.
            targets: [B, ...].
            sample_weights: [B]; None is 1 for all.

        Raises:
            ConfigError: if the outputs' shape does not fit the targets'.
        """
        own = self.example_weights(targets)
        weights = sample_weights if own is None else join_weights(sample_weights, own)
        return weighted_sums(self(outputs, targets), weights)


MetricLike: TypeAlias = "Metric | str | tuple[str, Mapping[str, Any]]"
"""A metric, its name, or its name and hyper-parameters."""


@dataclass(frozen=True)
class Accuracy(Metric):
    """The fraction of correct predictions.

    Outputs [B, ..., V] predict the class of the largest number; outputs of the targets' shape, or
    with an additional axis of length 1, are logits that predict 1 if positive. A prediction with a
    NaN output counts as wrong. The value of a sequence is the fraction over its positions; those
    with target -100 do not count.
    """

    name: ClassVar[str] = "accuracy"

    def per_example(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the fraction of correct predictions of each example: [B]."""
        outputs = require_tensor(self.name, outputs)
        if is_elementwise(outputs, targets):
            logits = outputs.reshape(targets.shape)
            right = ((logits > 0) == (targets > 0.5)) & ~logits.isnan()
        else:
            outputs, targets = match_classes(self.name, outputs, targets)
            right = (outputs.argmax(dim=-1) == targets) & ~outputs.isnan().any(dim=-1)
        return mean_over_counted(right.float(), targets)


@dataclass(frozen=True)
class TopK(Metric):
    """The fraction of targets among the k classes of the largest outputs [B, ..., V].

    A prediction with a NaN output counts as wrong.
    """

    name: ClassVar[str] = "top-k"
    k: Count = 5
    """How many classes count as predicted."""

    @property
    def key(self) -> str:
        """Its name in reports, such as top-5."""
        return f"top-{self.k}"

    def per_example(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the fraction of targets among the first k of each example: [B]."""
        outputs, targets = match_classes(self.name, outputs, targets)
        # Among equal outputs the first counts as the largest, as in accuracy; topk may pick any.
        own = outputs.gather(-1, targets.clamp(min=0).unsqueeze(-1))
        is_before = torch.arange(outputs.shape[-1], device=outputs.device) < targets.unsqueeze(-1)
        num_ahead = ((outputs > own) | ((outputs == own) & is_before)).sum(dim=-1)
        right = (num_ahead < self.k) & ~outputs.isnan().any(dim=-1) & (targets != IGNORED)
        return mean_over_counted(right.float(), targets)


@dataclass(frozen=True)
class MeanSquaredError(Metric):
    """The squared difference of outputs and targets [B, ...], averaged over an example's axes."""

    name: ClassVar[str] = "mse"
    larger_is_better: ClassVar[bool] = False

    def per_example(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean squared difference of each example: [B]."""
        outputs, targets = match_shapes(self.name, outputs, targets)
        return mean_over_axes((outputs - targets).square())


@dataclass(frozen=True)
class MeanAbsoluteError(Metric):
    """The absolute difference of outputs and targets [B, ...], averaged over an example's axes."""

    name: ClassVar[str] = "mae"
    larger_is_better: ClassVar[bool] = False

    def per_example(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean absolute difference of each example: [B]."""
        outputs, targets = match_shapes(self.name, outputs, targets)
        return mean_over_axes((outputs - targets).abs())


def adds_up(metric: Metric, outputs: Tensor, targets: Tensor) -> bool:
    """Return whether the sums over parts of a batch add up to those over all of it.

    Also True if this cannot be determined because the metric raises or has no finite sums.

    Args:
        metric: a metric that overrides ``sums``.
        outputs: [B, ...] of any values.
        targets: [B, ...]; B is 2 or more.
    """
    cut = max(1, len(targets) // 3)
    parts = slice(None, cut), slice(cut, None)
    try:
        whole = metric.sums(outputs, targets, None)
        first, rest = (metric.sums(outputs[part], targets[part], None) for part in parts)
        pairs = [(w, a + b) for w, a, b in zip(whole, first, rest, strict=True)]
    except Exception:
        return True
    # float32 sums may differ in their fourth digit.
    return all(
        math.isclose(one, other, rel_tol=1e-3, abs_tol=1e-6)
        for one, other in pairs
        if math.isfinite(one) and math.isfinite(other)
    )


def as_metrics(given: Iterable[MetricLike]) -> tuple[Metric, ...]:
    """Build metrics that may be given by name.

    Raises:
        UnknownNameError: (a KeyError) for a name that is not registered.
        ConfigError: if two have the same key, one has the loss's, or one's ``sums`` does not take
            outputs, targets and sample_weights.
    """
    metrics = tuple(
        build_component(Metric, metric, place=f"metrics[{index}]")
        for index, metric in enumerate(given)
    )
    for metric in metrics:
        _require_sums_of_three(metric)
    keys = ["loss", *(metric.key for metric in metrics)]
    if twice := [key for key in keys if keys.count(key) > 1]:
        hint = "the loss is always evaluated" if twice[0] == "loss" else "keep one of them"
        raise ConfigError(f"metrics: {twice[0]!r} is listed twice; {hint}")
    return metrics


def _require_sums_of_three(metric: Metric) -> None:
    signature = inspect.signature(metric.sums)
    try:
        signature.bind(None, None, None)
    except TypeError:
        takes = ", ".join(["self", *map(str, signature.parameters)])
        raise ConfigError(
            f"metrics: {metric.key!r} has sums({takes}), but it is called with three; "
            "define sums(self, outputs, targets, sample_weights=None)"
        ) from None
