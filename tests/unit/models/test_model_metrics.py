"""Metrics as sums, by hand.

Shapes: B examples, T positions, V classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from sklearn.metrics import recall_score

from simfl.errors import ConfigError, UnknownNameError
from simfl.models import Accuracy, Metric, RecallAtK, TopK, as_metrics
from simfl.models.metrics import adds_up
from simfl.models.per_example import weighted_sums

LOGITS = torch.tensor([[3.0, 2.0, 1.0], [1.0, 3.0, 2.0], [1.0, 2.0, 3.0], [2.0, 3.0, 1.0]])
# The largest are 0, 1, 2, 1; the second largest 1, 2, 1, 0.
TARGETS = torch.tensor([0, 1, 1, 2])


def test_accuracy_counts_the_largest_outputs_that_are_the_target() -> None:
    assert Accuracy().sums(LOGITS, TARGETS) == (2.0, 4.0)


def test_sample_weights_weight_the_count() -> None:
    weights = torch.tensor([1.0, 0.5, 2.0, 0.0])
    assert Accuracy().sums(LOGITS, TARGETS, weights) == (1.5, 3.5)


def test_accuracy_of_a_sequence_is_the_share_of_its_positions() -> None:
    """Two sequences of two positions: both right; none right."""
    assert Accuracy().sums(LOGITS.reshape(2, 2, 3), TARGETS.reshape(2, 2)) == (1.0, 2.0)
    mixed = torch.tensor([[0, 0], [1, 1]])
    assert Accuracy().sums(LOGITS.reshape(2, 2, 3), mixed) == (1.0, 2.0)


@pytest.mark.parametrize("column", [False, True])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.bool])
def test_one_logit_predicts_one_if_it_is_positive(column: bool, dtype: torch.dtype) -> None:
    logits = torch.tensor([2.0, -1.0, 0.5, -3.0])
    targets = torch.tensor([1, 1, 0, 0]).to(dtype)
    assert Accuracy().sums(logits.unsqueeze(1) if column else logits, targets) == (2.0, 4.0)


def test_accuracy_of_several_labels_is_the_share_of_right_ones() -> None:
    logits = torch.tensor([[1.0, -1.0], [1.0, 1.0]])
    assert Accuracy().sums(logits, torch.tensor([[1.0, 1.0], [1.0, 1.0]])) == (1.5, 2.0)


@pytest.mark.parametrize(("k", "right"), [(1, 2.0), (2, 3.0), (3, 4.0), (10, 4.0)])
def test_top_k_counts_targets_among_the_k_largest(k: int, right: float) -> None:
    assert TopK(k=k).sums(LOGITS, TARGETS) == (right, 4.0)
    assert TopK(k=k).key == f"top-{k}"


@pytest.mark.parametrize("k", [1, 5, 30])
def test_recall_at_k_is_the_micro_recall_of_the_k_largest(k: int) -> None:
    rng = np.random.default_rng(0)
    outputs, targets = rng.normal(size=(40, 12)), rng.random((40, 12)) < 0.2
    targets[3] = False  # an example without labels
    predicted = np.argsort(np.argsort(-outputs, axis=1), axis=1) < k
    metric = RecallAtK(k=k)
    halves = [
        metric.sums(torch.from_numpy(outputs[rows]), torch.from_numpy(targets[rows]).float())
        for rows in (slice(0, 7), slice(7, 40))
    ]
    found = metric.finish(*map(sum, zip(*halves, strict=True)))
    assert found == pytest.approx(recall_score(targets, predicted, average="micro"), abs=1e-7)
    assert metric.key == f"recall-at-{k}"


def test_recall_at_k_takes_the_first_of_equal_outputs_and_nothing_of_nan() -> None:
    outputs = torch.tensor([[1.0, 1.0, 0.0], [float("nan"), 2.0, 0.0]])
    assert RecallAtK(k=1).sums(outputs, torch.tensor([[1, 1, 0], [0, 1, 0]])) == (1.0, 3.0)


def test_recall_at_k_refuses_one_class_for_each_example() -> None:
    with pytest.raises(ConfigError, match=r"recall-at-k: targets .* an example, take top-k"):
        RecallAtK().sums(LOGITS, TARGETS)


@pytest.mark.parametrize("metric", [Accuracy(), TopK(k=1), TopK(k=3)])
def test_outputs_that_are_not_numbers_are_no_prediction(metric: Metric) -> None:
    """torch takes NaN for the largest: of all NaN, the first class would be predicted."""
    logits, targets = LOGITS.clone(), torch.tensor([0, 1, 2, 1])
    logits[0] = torch.nan
    logits[1, 1] = torch.nan
    assert metric.sums(logits, targets) == (2.0, 4.0)


def test_a_logit_that_is_not_a_number_predicts_neither_class() -> None:
    logits, targets = torch.tensor([torch.nan, torch.nan, 1.0]), torch.tensor([0, 1, 1])
    assert Accuracy().sums(logits, targets) == (1.0, 3.0)


def test_errors_are_averaged_over_the_numbers_of_an_example() -> None:
    outputs, targets = torch.tensor([[1.0, 3.0], [0.0, 0.0]]), torch.zeros(2, 2)
    assert Metric.from_name("mse").sums(outputs, targets) == (5.0, 2.0)
    assert Metric.from_name("mae").sums(outputs, targets) == (2.0, 2.0)


@pytest.mark.parametrize("name", ["mse", "mae"])
def test_a_column_of_outputs_is_not_broadcast_against_a_row_of_targets(name: str) -> None:
    outputs = torch.tensor([[1.0], [0.0]])
    assert Metric.from_name(name).sums(outputs, torch.tensor([1.0, 0.0])) == (0.0, 2.0)


@pytest.mark.parametrize("name", ["accuracy", "top-k", "mse", "mae"])
def test_outputs_that_do_not_fit_the_targets_are_an_error(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name}: outputs of shape \[4, 3\] do not fit"):
        Metric.from_name(name).sums(LOGITS, torch.zeros(4, 2, dtype=torch.int64))


@dataclass(frozen=True)
class Mean(Metric):
    """Returns one number for all examples, which is a mistake."""

    name: ClassVar[str] = "mean-of-a-test"

    def per_example(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return outputs.mean()


def test_a_metric_must_return_one_number_per_example() -> None:
    with pytest.raises(
        ConfigError, match=r"the metric mean-of-a-test returned \[\] for .*shape .4"
    ):
        Mean().sums(LOGITS, TARGETS)


def test_sums_are_taken_in_float64() -> None:
    """2^24 + 1 is no float32: there, 16777216 and 1 sum to 16777216."""
    assert weighted_sums(torch.tensor([16777216.0, 1.0]), None) == (16777217.0, 2.0)


def test_metrics_are_given_as_instances_names_or_pairs() -> None:
    metrics = as_metrics([Accuracy(), "mae", ("top-k", {"k": 3}), ["top-k", {"k": 5}]])
    assert [metric.key for metric in metrics] == ["accuracy", "mae", "top-3", "top-5"]


def test_an_unknown_metric_is_an_error_with_its_place() -> None:
    with pytest.raises(UnknownNameError, match=r"metrics\[1\].*'acuracy'.*'accuracy'"):
        as_metrics(["mae", "acuracy"])


def test_a_metric_cannot_be_asked_for_twice() -> None:
    with pytest.raises(ConfigError, match="metrics: 'accuracy' is listed twice; keep one"):
        as_metrics(["accuracy", Accuracy()])


@dataclass(frozen=True)
class Auc(Metric):
    """The area under the ROC curve, by pairs: no mean over examples."""

    name: ClassVar[str] = "auc-of-a-test"

    is_weighted: bool = False

    def sums(
        self, outputs: torch.Tensor, targets: torch.Tensor, sample_weights: object = None
    ) -> tuple[float, float]:
        positive, negative = outputs[targets == 1, 1], outputs[targets == 0, 1]
        auc = (positive[:, None] > negative).float().mean().item()
        weight = float(len(targets)) if self.is_weighted else 1.0
        return auc * weight, weight


@dataclass(frozen=True)
class Precision(Metric):
    """A quotient of two sums."""

    name: ClassVar[str] = "precision-of-models-test"

    def sums(
        self, outputs: torch.Tensor, targets: torch.Tensor, sample_weights: object = None
    ) -> tuple[float, float]:
        predicted = outputs.argmax(-1) == 1
        return float((predicted & (targets == 1)).sum()), float(predicted.sum())


@pytest.mark.parametrize(
    ("metric", "expected"),
    [(Auc(), False), (Auc(is_weighted=True), False), (Precision(), True), (Accuracy(), True)],
)
def test_a_quotient_of_sums_adds_up_over_batches_and_another_does_not(
    metric: Metric, expected: bool
) -> None:
    outputs = torch.tensor([[0.0, float(n % 7)] for n in range(12)])
    assert adds_up(metric, outputs, torch.arange(12) % 2) is expected


def test_a_metric_that_raises_is_given_the_benefit_of_the_doubt() -> None:
    assert adds_up(Mean(), LOGITS, TARGETS)


@dataclass(frozen=True)
class RequiredWeightsAuc(Auc):
    """The same, and sample_weights has no default."""

    name: ClassVar[str] = "auc-of-three-of-a-test"

    def sums(  # type: ignore[override]
        self, outputs: torch.Tensor, targets: torch.Tensor, sample_weights: object
    ) -> tuple[float, float]:
        return super().sums(outputs, targets)


@dataclass(frozen=True)
class TwoParameters(Auc):
    """The same, without sample_weights."""

    name: ClassVar[str] = "auc-of-two-of-a-test"

    def sums(  # type: ignore[override]
        self, outputs: torch.Tensor, targets: torch.Tensor
    ) -> tuple[float, float]:
        return super().sums(outputs, targets)


def test_sums_are_called_with_the_weights_as_in_a_run() -> None:
    outputs = torch.tensor([[0.0, float(n % 7)] for n in range(12)])
    (metric,) = as_metrics([RequiredWeightsAuc()])
    assert not adds_up(metric, outputs, torch.arange(12) % 2)


def test_sums_without_the_weights_are_refused_with_the_signature_to_write() -> None:
    message = (
        r"metrics: 'auc-of-two-of-a-test' has sums\(self, outputs, targets\), but .*three; "
        r"define sums\(self, outputs, targets, sample_weights=None\)"
    )
    with pytest.raises(ConfigError, match=message):
        as_metrics(["auc-of-two-of-a-test"])


@pytest.mark.parametrize("name", ["accuracy", "top-k", "mse"])
def test_outputs_that_are_no_tensor_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: the model returned a tuple"):
        Metric.from_name(name).sums((LOGITS,), TARGETS)  # type: ignore[arg-type]


@pytest.mark.parametrize("k", [1, 2, 3])
def test_of_equal_outputs_the_first_is_the_largest(k: int) -> None:
    """All alike: class 0 is the first, so class c is among the first k if c < k."""
    outputs, targets = torch.zeros(400, 100), torch.arange(400) % 100
    assert TopK(k=k).sums(outputs, targets) == (4.0 * k, 400.0)
    assert TopK(k=1).sums(outputs, targets) == Accuracy().sums(outputs, targets)


@pytest.mark.parametrize(("metric", "sums"), [(Accuracy(), (1.0, 2.0)), (TopK(k=2), (1.5, 2.0))])
def test_positions_with_target_minus_100_do_not_count(
    metric: Metric, sums: tuple[float, float]
) -> None:
    """Of (0, ignored): all right. Of (1, 2): 1 is second, and 2 is last; so 0, and a half."""
    targets = torch.tensor([[0, -100], [1, 2]])
    assert metric.sums(LOGITS.reshape(2, 2, 3), targets) == sums
