"""Metrics of scores: of the order of examples by them, and of how far probabilities can be trusted.

Shapes: B examples, N predictions, K classes, or labels of which an example may have any number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from simfl.component import Count
from simfl.errors import ConfigError
from simfl.models.class_metrics import MOST_CLASSES, ByClass, Labelled, labelled, mean_of_known
from simfl.models.metric_sums import Array, Rows
from simfl.models.metrics import Metric
from simfl.models.per_example import IGNORED


@dataclass(frozen=True)
class _OfCurve(ByClass):
    """A metric of the curve that thresholds on the scores give, one class against all others.

    It is exact, so the driver gets the scores of all examples: 5 bytes each for two classes, and 9
    for each of K classes or 5 for each of K labels. With ``bins``, it gets 16 bytes for each bin
    and class instead.
    """

    takes_slices: ClassVar[bool] = True

    average: Literal["auto", "macro", "weighted", "micro", "none"] = "auto"
    """macro: the mean over classes; weighted: by how many examples are of each; micro: of all pairs
    of an example and a class together; none: a number for each class, recorded as a list; auto:
    that of class 1 for two classes, otherwise macro. Classes without a value do not count."""
    bins: Count | None = None
    """How many bins of equal width the probabilities are put into, each of which is a tie. null:
    exact."""

    def sums(
        self, outputs: Any, targets: Tensor, sample_weights: Tensor | None = None
    ) -> tuple[Any, ...]:
        """Return scores and whether they are of a class, [N, K], and weights, [N]; or histograms.

        With ``bins``, the weights of other classes and of the class itself by bin: [2, bins, K].
        """
        found = labelled(self.name, outputs, targets, sample_weights)
        if not found.has_labels and found.num_classes > MOST_CLASSES:
            raise ConfigError(
                f"{self.name}: there are {found.num_classes} classes, each of which is a score of "
                f"every example; it takes at most {MOST_CLASSES}"
            )
        scores, is_own = _one_against_all(found, as_probabilities=self.bins is not None)
        if self.bins is not None:
            return (_histograms(scores, is_own, found.weights, self.bins),)
        rows = (Rows(scores.numpy()), Rows(is_own.numpy()))
        return rows if sample_weights is None else (*rows, Rows(found.weights.numpy()))

    def finish(self, *sums: Any) -> Any:
        """Return the average, or the array of all values."""
        columns = self._columns(*sums)
        if self.average == "micro":
            columns = [tuple(np.concatenate(parts) for parts in zip(*columns, strict=True))]
        values = np.array([self._value(*curve(*column)) for column in columns])
        if self.average == "none":
            return values
        own = np.array([float(column[2].sum()) for column in columns])
        return mean_of_known(values, own if self.average == "weighted" else None)

    def _columns(self, first: Any, *others: Rows) -> list[tuple[Array, ...]]:
        """Return for each class scores, and the weights there of other classes and its own."""
        if not isinstance(first, Rows):
            bins_V = np.arange(first.shape[1])
            return [(bins_V, *first[:, :, k]) for k in range(first.shape[2])]
        scores, is_own = first.values, others[0].values
        weights = others[1].values if len(others) > 1 else np.ones(len(scores))
        return [
            (scores[:, k], weights * (is_own[:, k] == 0), weights * (is_own[:, k] == 1))
            for k in range(scores.shape[1])
        ]

    def _value(self, others: Array, own: Array) -> float:
        """Return the metric of a curve, NaN if it has none.

        Args:
            others: the weight of examples of other classes whose score is at or above each
                threshold, thresholds descending.
            own: the same of the class itself.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class AUC(_OfCurve):
    """The area under the ROC curve: how often an example of the class is scored above another.

    Ties count half. A class without examples, or of which all are, has none.

    Source: Fawcett, 2006, https://doi.org/10.1016/j.patrec.2005.10.010
    """

    name: ClassVar[str] = "auc"

    def _value(self, others: Array, own: Array) -> float:
        if not others[-1] or not own[-1]:
            return np.nan
        area = np.diff(others, prepend=0.0) @ (own + np.concatenate([[0.0], own[:-1]])) / 2
        return float(area / (others[-1] * own[-1]))


@dataclass(frozen=True)
class AveragePrecision(_OfCurve):
    """The mean of the precision over the thresholds, by the recall that each adds.

    It sums up the curve of precision and recall, for classes that are rare. A class without
    examples has none.
    """

    name: ClassVar[str] = "average-precision"

    def _value(self, others: Array, own: Array) -> float:
        if not own[-1]:
            return np.nan
        return float(np.diff(own, prepend=0.0) @ (own / (own + others)) / own[-1])


def curve(scores: Array, others: Array, own: Array) -> tuple[Array, Array]:
    """Return the cumulated weights of two kinds of examples over descending distinct scores.

    Raises:
        ValueError: if a score is NaN.
        ZeroDivisionError: if there are no examples.
    """
    if np.isnan(scores).any():
        raise ValueError("a score is NaN")
    counts = (others + own) > 0
    if not counts.any():
        raise ZeroDivisionError("there are no examples")
    order = np.argsort(-scores[counts], kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[counts][order])), len(order) - 1)
    return others[counts][order].cumsum()[ends], own[counts][order].cumsum()[ends]


def _one_against_all(found: Labelled, *, as_probabilities: bool) -> tuple[Tensor, Tensor]:
    """Return a score for each class or label, and 1 if it is the example's, 0 or IGNORED: [N, K].

    Of two classes one column is enough. Logits are in the order of the probabilities that they
    stand for, and do not round to the same number.
    """
    logits, targets = found.logits, found.targets
    if found.has_labels or found.num_classes == 2:
        if logits.shape[1] == 2 and not found.has_labels:
            logits = logits[:, 1:].double() - logits[:, :1].double()
        is_own = targets if found.has_labels else targets.unsqueeze(1)
        return logits.double().sigmoid() if as_probabilities else logits, is_own.to(torch.int8)
    return logits.double().softmax(dim=1), F.one_hot(targets, logits.shape[1]).to(torch.int8)


def _histograms(scores: Tensor, is_own: Tensor, weights: Tensor, bins: int) -> Array:
    """Return the weights of examples of other classes, and of each, by bin: [2, bins, K]."""
    places = (scores.double() * bins).floor().clamp(0, bins - 1).long()
    columns = [
        torch.bincount(column[which], weights[which], bins)
        for value in (0, 1)
        for column, which in zip(places.T, (is_own == value).T, strict=True)
    ]
    stacked: Array = torch.stack(columns).double().reshape(2, -1, bins).transpose(1, 2).numpy()
    return stacked


@dataclass(frozen=True)
class CalibrationError(Metric):
    """The expected calibration error: how far confidence is from accuracy, on average.

    Predictions are put into bins of equal width by the probability of the predicted class; the
    distances between a bin's mean probability and its accuracy are averaged by its predictions. For
    labels, each is a prediction.

    Source: Guo et al., 2017, equation 3, https://arxiv.org/abs/1706.04599
    """

    name: ClassVar[str] = "ece"
    larger_is_better: ClassVar[bool] = False
    takes_slices: ClassVar[bool] = True

    bins: Count = 15
    """How many bins from 0 to 1; each includes its upper end."""

    def sums(
        self, outputs: Any, targets: Tensor, sample_weights: Tensor | None = None
    ) -> tuple[Array, Array, Array]:
        """Return by bin the weights of predictions, their probabilities and right ones: [bins]."""
        confidences, is_right, weights = _confidences(
            labelled(self.name, outputs, targets, sample_weights)
        )
        places = (confidences * self.bins).ceil().long().sub(1).clamp(0, self.bins - 1)
        columns = (weights, weights * confidences, weights * is_right)
        counts, totals, rights = (
            torch.bincount(places, column, self.bins).double().numpy() for column in columns
        )
        return counts, totals, rights

    def finish(self, counts: Array, confidences: Array, rights: Array) -> float:
        """Return the mean of the distances."""
        return float(np.abs(rights - confidences).sum()) / float(counts.sum())


def _confidences(found: Labelled) -> tuple[Tensor, Tensor, Tensor]:
    """Return the probability of each prediction, whether it is right, and its weight: [N]."""
    if found.logits.shape[1] > 1 and not found.has_labels:
        probabilities, predicted = found.logits.double().softmax(dim=1).max(dim=1)
        return probabilities, predicted == found.targets, found.weights
    logits = found.logits.double()
    targets = found.targets.reshape(logits.shape)
    counts = targets != IGNORED
    weights = found.weights.unsqueeze(1).expand_as(logits)
    is_right = (logits > 0) == (targets == 1)
    return logits.abs().sigmoid()[counts], is_right[counts], weights[counts]
