"""Metrics of predicted classes that follow from counts over all examples, as in scikit-learn.

Shapes: B examples, N predictions, K classes, or labels of which an example may have any number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor

from simfl.errors import ConfigError
from simfl.models.metric_sums import Array
from simfl.models.metrics import Metric
from simfl.models.per_example import IGNORED, is_elementwise, match_classes, require_tensor
from simfl.vector import widened

MOST_CLASSES = 1024
"""The most classes for which a metric keeps a number for each pair, or for each example."""


class Labelled(NamedTuple):
    """Logits and targets of N predictions: of one of K classes, or of any number of K labels."""

    logits: Tensor
    """[N, K]; [N, 1] for two classes of which the second is predicted if the logit is positive."""
    targets: Tensor
    """[N] the class; [N, K] 1 or 0 of each label, or IGNORED."""
    weights: Tensor
    """[N] float64."""

    @property
    def has_labels(self) -> bool:
        """Whether an example may have any number of the labels, instead of one class."""
        return self.targets.dim() == 2

    @property
    def num_classes(self) -> int:
        """K, which is 2 for a single logit."""
        return self.logits.shape[1] if self.has_labels else max(2, self.logits.shape[1])

    def predicted(self) -> Tensor:
        """Return the predicted classes, [N], -1 where a logit is NaN; or labels, [N, K]."""
        if self.has_labels:
            return self.logits > 0
        if self.logits.shape[1] == 1:
            chosen = (self.logits[:, 0] > 0).long()
        else:
            chosen = self.logits.argmax(dim=1)
        return chosen.masked_fill(self.logits.isnan().any(dim=1), -1)


def labelled(
    name: str, outputs: Any, targets: Tensor, sample_weights: Tensor | None = None
) -> Labelled:
    """Return the predictions of a batch whose targets count.

    Args:
        name: the metric's, for errors.
        outputs: [B, ..., K] logits of classes [B, ...]; or of the targets' shape, or with a last
            axis of length 1. Then targets [B, K] are 1 or 0 of K labels, and others of two classes.
        targets: those of -100 do not count.
        sample_weights: [B]; None is 1 for all.

    Raises:
        ConfigError: if the outputs' shape does not fit the targets'.
    """
    outputs = require_tensor(name, outputs)
    if is_elementwise(outputs, targets):
        has_labels = targets.dim() == 2 and targets.shape[1] > 1
        outputs = outputs.reshape(targets.shape)
        flat = outputs if has_labels else outputs.reshape(-1, 1)
        wanted = torch.where(targets == IGNORED, IGNORED, (targets > 0.5).long())
        wanted = wanted if has_labels else wanted.flatten()
    else:
        outputs, wanted = match_classes(name, outputs, targets)
        flat, wanted = outputs.reshape(-1, outputs.shape[-1]), wanted.flatten()
    each = len(flat) // max(len(targets), 1)
    weights = torch.ones(len(targets)) if sample_weights is None else sample_weights.cpu()
    found = Labelled(
        widened(flat.detach()).cpu(), wanted.cpu(), weights.double().repeat_interleave(each)
    )
    if found.has_labels:
        return found
    counts = found.targets != IGNORED
    return found if bool(counts.all()) else Labelled(*(column[counts] for column in found))


@dataclass(frozen=True)
class _Counted(Metric):
    """A metric of how often each class is predicted, how often it is there, and both."""

    takes_slices: ClassVar[bool] = True

    def sums(
        self, outputs: Any, targets: Tensor, sample_weights: Tensor | None = None
    ) -> tuple[Any, ...]:
        """Return weights by class: [K] of the right predictions, of all, and of the targets.

        For labels, the weight of all examples follows.
        """
        found = labelled(self.name, outputs, targets, sample_weights)
        self.check_classes(found)
        if found.has_labels:
            counts = (found.targets != IGNORED) & ~found.logits.isnan()
            predicted, actual = found.predicted() & counts, found.targets == 1
            columns = (predicted & actual, predicted, actual)
            weights = found.weights.unsqueeze(1)
            by_label = tuple((column * weights).sum(dim=0).numpy() for column in columns)
            return (*by_label, float(found.weights.sum()))
        predicted, size = found.predicted(), found.num_classes
        return tuple(
            torch.bincount(classes[which], found.weights[which], size)[:size].double().numpy()
            for classes, which in (
                (found.targets, predicted == found.targets),
                (predicted, predicted >= 0),
                (found.targets, found.targets >= 0),
            )
        )

    def check_classes(self, found: Labelled) -> None:
        """Refuse classes or labels of which it cannot be; raise ConfigError."""


class ByClass(Metric):
    """A metric with a value for each class, of which ``average`` makes one number, or a list."""

    average: str

    @property
    def key(self) -> str:
        """Its name in reports: auc, auc-weighted, or auc-by-class."""
        if self.average == "auto":
            return self.name
        return f"{self.name}-{'by-class' if self.average == 'none' else self.average}"

    @property
    def is_number(self) -> bool:
        """Whether it is one number, and not one for each class."""
        return self.average != "none"


@dataclass(frozen=True)
class _Averaged(_Counted, ByClass):
    """A quotient for each class, averaged as in scikit-learn.

    Without ``average``, it is the quotient of class 1 if there are two classes, and otherwise
    the mean over classes. Classes that are neither there nor predicted do not count; of labels, all
    do. A prediction with a NaN output is one of no class.
    """

    average: Literal["auto", "binary", "macro", "micro", "weighted", "none"] = "auto"
    """binary: of ``label`` alone; macro: the mean over classes; weighted: by how often they are
    there; micro: of all predictions together; none: a number for each class, recorded as a list;
    auto: binary for two classes, macro for more or for labels."""
    label: Annotated[int, Ge(0)] | None = None
    """The class, or label, whose value it is. null: 1 for two classes."""
    zero_division: Literal[0, 1] | None = 0
    """The value of a class where it is 0 / 0, such as the precision of one that is never predicted.
    null: it has none, and does not count in averages."""

    @property
    def key(self) -> str:
        """Its name in reports: f1, f1-macro, f1-by-class, or f1-3 for class 3."""
        return super().key if self.label is None else f"{self.name}-{self.label}"

    def check(self) -> None:
        """Refuse an average over classes of a single one."""
        if self.label is not None and self.average not in ("auto", "binary"):
            raise ConfigError(
                f"{self.name}: label is {self.label}, but average is {self.average!r}; remove one"
            )

    def check_classes(self, found: Labelled) -> None:
        """Refuse a label that there is not, and one class of many without its label."""
        size, what = found.num_classes, "labels" if found.has_labels else "classes"
        if self.label is not None and self.label >= size:
            raise ConfigError(
                f"{self.name}: label is {self.label}, but there are {size} {what}; lower it"
            )
        is_one_of_two = size == 2 and not found.has_labels
        if self.average == "binary" and self.label is None and not is_one_of_two:
            raise ConfigError(
                f"{self.name}: average is 'binary', but there are {size} {what}; give label, "
                "or average: macro"
            )

    def finish(self, right: Array, predicted: Array, actual: Array, labels: float = 0.0) -> Any:
        """Return the average, or the array of all values."""
        if not (actual.sum() or labels):
            raise ZeroDivisionError(f"{self.name}: there are no examples")
        over, under = self._fractions(right, predicted, actual)
        if self.average == "micro":
            return mean_of_known(self._divide(over.sum(keepdims=True), under.sum(keepdims=True)))
        values = self._divide(over, under)
        if self.average == "none":
            return values
        if self.label is not None:
            return mean_of_known(values[[self.label]])
        if self.average in ("auto", "binary") and len(values) == 2 and not labels:
            return mean_of_known(values[[1]])
        is_there = np.full(len(values), True) if labels else (predicted + actual) > 0
        weights = actual if self.average == "weighted" else np.ones(len(values))
        return mean_of_known(values[is_there], weights[is_there])

    def _fractions(self, right: Array, predicted: Array, actual: Array) -> tuple[Array, Array]:
        """Return the dividend and the divisor of each class: [K]."""
        raise NotImplementedError

    def _divide(self, over: Array, under: Array) -> Array:
        otherwise = np.nan if self.zero_division is None else float(self.zero_division)
        values: Array = np.full(len(over), otherwise)
        return np.divide(over, under, out=values, where=under > 0)


def mean_of_known(values: Array, weights: Array | None = None) -> float:
    """Return the mean of the values that are not NaN, by weights.

    Raises:
        ZeroDivisionError: if all are, or the others weigh nothing.
    """
    weights = np.ones(len(values)) if weights is None else weights
    has_value = ~np.isnan(values)
    total = float((values * weights)[has_value].sum())
    return total / float(weights[has_value].sum())


@dataclass(frozen=True)
class ClassPrecision(_Averaged):
    """How many of the predictions of a class are right."""

    name: ClassVar[str] = "precision"

    def _fractions(self, right: Array, predicted: Array, actual: Array) -> tuple[Array, Array]:
        return right, predicted


@dataclass(frozen=True)
class ClassRecall(_Averaged):
    """How many of the examples of a class are predicted to be of it."""

    name: ClassVar[str] = "recall"

    def _fractions(self, right: Array, predicted: Array, actual: Array) -> tuple[Array, Array]:
        return right, actual


@dataclass(frozen=True)
class F1(_Averaged):
    """The harmonic mean of a class's precision and recall: 2 tp / (2 tp + fp + fn)."""

    name: ClassVar[str] = "f1"

    def _fractions(self, right: Array, predicted: Array, actual: Array) -> tuple[Array, Array]:
        return 2 * right, predicted + actual


@dataclass(frozen=True)
class BalancedAccuracy(_Counted):
    """The mean over classes of their recall; a class of which there is no example does not count.

    Source: Brodersen et al., 2010, https://doi.org/10.1109/ICPR.2010.764
    """

    name: ClassVar[str] = "balanced-accuracy"

    def check_classes(self, found: Labelled) -> None:
        """Refuse labels, of which examples have any number."""
        _refuse_labels(self.name, found, "[recall, {average: macro}]")

    def finish(self, right: Array, predicted: Array, actual: Array) -> float:
        """Return the mean of the recalls."""
        is_there = actual > 0
        return mean_of_known(right[is_there] / actual[is_there])


@dataclass(frozen=True)
class Confusion(Metric):
    """How often each class is predicted of examples of each class: a matrix, recorded as lists.

    A row for each class of the targets, a column for each that is predicted. A prediction with a
    NaN output is in no column. On the test split it is ``confusion``; ``client_confusion`` is the
    sum over all clients.
    """

    name: ClassVar[str] = "confusion"
    takes_slices: ClassVar[bool] = True

    @property
    def is_number(self) -> bool:
        """Whether it is one number: no."""
        return False

    def sums(
        self, outputs: Any, targets: Tensor, sample_weights: Tensor | None = None
    ) -> tuple[Array]:
        """Return the matrix: [K, K].

        Raises:
            ConfigError: if there are too many classes, or labels.
        """
        found = labelled(self.name, outputs, targets, sample_weights)
        _refuse_labels(self.name, found, "precision and recall with average: none")
        size, predicted = found.num_classes, found.predicted()
        if size > MOST_CLASSES:
            raise ConfigError(
                f"{self.name}: there are {size} classes, which makes {size**2} numbers; "
                f"it takes at most {MOST_CLASSES} classes"
            )
        has_class = predicted >= 0
        cells = (found.targets * size + predicted)[has_class]
        counts = torch.bincount(cells, found.weights[has_class], size**2)
        return (counts.double().reshape(size, size).numpy(),)

    def finish(self, matrix: Array) -> Array:
        """Return the matrix."""
        return matrix


def _refuse_labels(name: str, found: Labelled, instead: str) -> None:
    if found.has_labels:
        raise ConfigError(
            f"{name}: targets are {found.num_classes} labels, of which an example may have any "
            f"number, but it is of classes; use {instead}"
        )
