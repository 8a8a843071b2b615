"""Metrics: measures of a model's outputs, as sums that add up over batches.

Shapes: B examples, ... the axes of one target (none, or the positions of a sequence), V classes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from torch import Tensor

from simfl.component import Component, Count
from simfl.errors import ConfigError
from simfl.models.metric_sums import Array, Rows, add_up
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
    takes_slices: ClassVar[bool] = False
    """Whether its own ``sums`` may be given slices of outputs, a tensor, of several clients that
    are evaluated together."""

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

    def finish(self, *sums: Any, **_: Any) -> Any:
        """Return the metric from what ``sums`` returns, added up over all examples.

        By default it is the quotient of two numbers: ``finish(total, weight)``. What follows from
        other sums has as many parameters. It may raise ``ZeroDivisionError``: then there is no
        value.

        Returns:
            A number; or an array, if ``is_number`` is False.
        """
        total, weight = sums
        return total / weight

    @property
    def is_number(self) -> bool:
        """Whether it is one number; otherwise ``finish`` returns an array, recorded as lists."""
        return True

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
    ) -> tuple[Any, ...]:
        """Return what is added up over batches: by default the weighted sum, and the weights' sum.

        ``finish`` makes the metric of the totals. They must be sums over examples, such as the true
        positives and the predictions for a precision: numbers, or arrays of float64 that always
        have the same shape. What is no sum, such as the scores for the area under a curve, can
        be ``Rows``, which are joined. Of two numbers, the metric is undefined if the second is 0.

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
class RecallAtK(Metric):
    """The fraction of examples' labels that are among the k largest outputs.

    Outputs and targets are [B, L], with 1 for each label that an example has and 0 for the others.
    All labels of all examples weigh the same. Of equal outputs, the first counts as the largest; an
    example with a NaN output has no label right. For one class an example, take ``top-k``.
    """

    name: ClassVar[str] = "recall-at-k"
    k: Count = 5
    """How many labels count as predicted."""

    @property
    def key(self) -> str:
        """Its name in reports, such as recall-at-5."""
        return f"recall-at-{self.k}"

    def example_weights(self, targets: Tensor) -> Tensor:
        """Return the number of each example's labels: [B]."""
        return (targets.reshape(len(targets), -1) > 0.5).sum(dim=1).double()

    def per_example(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the fraction of each example's labels that are found, 0 without labels: [B]."""
        if targets.dim() != 2:
            raise ConfigError(
                f"{self.name}: targets have shape {list(targets.shape)}; it needs 1 or 0 for each "
                "label, [examples, labels]. For one class an example, take top-k"
            )
        outputs, targets = match_shapes(self.name, outputs, targets)
        first = outputs.argsort(dim=1, descending=True, stable=True)[:, : self.k]
        found_B = (targets.gather(1, first) > 0.5).sum(dim=1) * ~outputs.isnan().any(dim=1)
        return found_B / self.example_weights(targets).clamp(min=1)


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


@dataclass(frozen=True)
class RootMeanSquaredError(Metric):
    """The root of the mean squared difference, averaged over the outputs of an example."""

    name: ClassVar[str] = "rmse"
    larger_is_better: ClassVar[bool] = False
    takes_slices: ClassVar[bool] = True

    def sums(
        self, outputs: Tensor, targets: Tensor, sample_weights: Tensor | None = None
    ) -> tuple[Array, float]:
        """Return the sum of squares of each output, [D], and the sum of the weights."""
        values_BD, targets_BD, weights_B = _columns(self.name, outputs, targets, sample_weights)
        squares = ((values_BD - targets_BD) ** 2 * weights_B[:, None]).sum(axis=0)
        return squares, float(weights_B.sum())

    def finish(self, squares: Array, weight: float) -> float:
        """Return the mean of the roots."""
        if not weight:
            raise ZeroDivisionError(f"{self.name}: there are no examples")
        return float(np.sqrt(squares / weight).mean())


@dataclass(frozen=True)
class R2(Metric):
    """The share of the targets' variance that the outputs explain, averaged over the outputs.

    1 is best, and 0 is what their mean would have. As in scikit-learn, constant targets give 1 if
    all outputs are right, or else 0; a single example has none.
    """

    name: ClassVar[str] = "r2"
    takes_slices: ClassVar[bool] = True

    def sums(
        self, outputs: Tensor, targets: Tensor, sample_weights: Tensor | None = None
    ) -> tuple[Rows, float]:
        """Return a row of moments for each output, [1, 4, D], and the number of examples.

        The moments are the sum of the weights, the targets' mean, the sum of their squared
        distances from it, and that of the squared errors. Sums of squared targets would lose
        their digits where the mean is large.
        """
        values_BD, targets_BD, weights_B = _columns(self.name, outputs, targets, sample_weights)
        weights_B1 = weights_B[:, None]
        weight = weights_B.sum()
        mean_D = (targets_BD * weights_B1).sum(axis=0) / (weight or 1.0)
        spread_D = ((targets_BD - mean_D) ** 2 * weights_B1).sum(axis=0)
        errors_D = ((targets_BD - values_BD) ** 2 * weights_B1).sum(axis=0)
        moments = np.stack([np.full_like(mean_D, weight), mean_D, spread_D, errors_D])
        return Rows(moments[None]), float(len(targets))

    def finish(self, moments: Rows, num_examples: float) -> float:
        """Return the mean over the outputs; the spread is that of all batches together."""
        weights, means, spreads, errors = moments.values.swapaxes(0, 1)
        if num_examples < 2:
            raise ZeroDivisionError(f"{self.name}: a single example has no variance")
        mean = (weights * means).sum(axis=0) / weights.sum(axis=0)
        spread = (spreads + weights * (means - mean) ** 2).sum(axis=0)
        error = errors.sum(axis=0)
        otherwise = np.where(error == 0, 1.0, 0.0)
        return float((1 - np.divide(error, spread, out=1 - otherwise, where=spread != 0)).mean())


def _columns(
    name: str, outputs: Tensor, targets: Tensor, sample_weights: Tensor | None
) -> tuple[Array, Array, Array]:
    """Return outputs and targets, [B, D], and weights, [B], as float64."""
    outputs, _ = match_shapes(name, outputs, targets)
    weights = torch.ones(len(targets)) if sample_weights is None else sample_weights
    size = len(targets)
    pair = (outputs.double().cpu().reshape(size, -1), targets.double().cpu().reshape(size, -1))
    values_BD, targets_BD = (column.numpy() for column in pair)
    return values_BD, targets_BD, weights.double().cpu().numpy()


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
        pairs = list(zip(whole, add_up([first, rest]), strict=True))
        # float32 sums may differ in their fourth digit.
        return all(
            bool(np.isclose(one, other, rtol=1e-3, atol=1e-6)[np.isfinite(one - other)].all())
            for one, other in pairs
            if not isinstance(one, Rows)
        )
    except Exception:
        return True


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
