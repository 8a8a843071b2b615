"""Metrics that are no means, against scikit-learn, in whatever batches their sums come."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from sklearn.exceptions import UndefinedMetricWarning
from torch import Tensor

from simfl.errors import ConfigError
from simfl.models import Metric, as_metrics
from simfl.models.metric_sums import add_up

NEAR = {"rel": 1e-9, "abs": 1e-12}
"""scikit-learn's own sums are float64 in another order."""


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """scikit-learn warns of the undefined values that are compared here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        warnings.filterwarnings("ignore", message=".*(y_pred contains|single label|No positive).*")
        yield


def value(metric: Any, outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Any:
    """Return a metric of batches of three examples."""
    (built,) = as_metrics([metric])
    cuts = [slice(start, start + 3) for start in range(0, len(targets), 3)]
    parts = [
        built.sums(outputs[cut], targets[cut], None if weights is None else weights[cut])
        for cut in cuts
    ]
    return built.finish(*add_up(parts))


def drawn(classes: int, present: list[int], size: int = 40, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return logits of all classes, and targets of those that are present."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.tensor(present)[torch.randint(len(present), (size,), generator=generator)]
    logits = torch.randn(size, classes, generator=generator)
    logits[torch.arange(size), targets] += 1.0
    return logits, targets


CASES = {
    "two classes": drawn(2, [0, 1]),
    "one of two, the negative": drawn(2, [0]),
    "one of two, the positive": drawn(2, [1]),
    "all of five": drawn(5, [0, 1, 2, 3, 4]),
    "two of five": drawn(5, [1, 3]),
    "one of five": drawn(5, [4]),
    "a single example": drawn(5, [2], size=1),
}
OF = {"precision": sk.precision_score, "recall": sk.recall_score, "f1": sk.f1_score}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", OF)
@pytest.mark.parametrize("zero", [0, 1, None])
@pytest.mark.parametrize("average", ["macro", "micro", "weighted"])
def test_averages_over_classes_are_scikit_learns(
    case: str, name: str, zero: int | None, average: str
) -> None:
    """Of the classes that are there or predicted, as scikit-learn finds them."""
    logits, targets = CASES[case]
    expected = OF[name](
        targets, logits.argmax(1), average=average, zero_division=np.nan if zero is None else zero
    )
    found = value((name, {"average": average, "zero_division": zero}), logits, targets)
    assert found == pytest.approx(expected, **NEAR)


@pytest.mark.parametrize("case", [case for case in CASES if "two c" in case or "of two" in case])
@pytest.mark.parametrize("name", OF)
def test_of_two_classes_it_is_that_of_class_1(case: str, name: str) -> None:
    logits, targets = CASES[case]
    expected = OF[name](targets, logits.argmax(1), zero_division=0)
    assert value(name, logits, targets) == pytest.approx(expected, **NEAR)
    # One logit instead of two, as for binary cross-entropy.
    one = (logits[:, 1] - logits[:, 0]).unsqueeze(1)
    assert value((name, {"average": "binary"}), one, targets.float()) == pytest.approx(expected)


@pytest.mark.parametrize("name", OF)
def test_a_class_may_have_a_metric_of_its_own(name: str) -> None:
    logits, targets = CASES["two of five"]
    expected = OF[name](targets, logits.argmax(1), labels=range(5), average=None, zero_division=0)
    by_class = value((name, {"average": "none"}), logits, targets)
    assert by_class.tolist() == pytest.approx(expected.tolist(), **NEAR)
    for label in range(5):
        found = value((name, {"label": label}), logits, targets)
        assert found == pytest.approx(expected[label], **NEAR)


@pytest.mark.parametrize("name", OF)
@pytest.mark.parametrize("average", ["macro", "micro", "weighted", "none"])
def test_labels_are_averaged_as_in_scikit_learn(name: str, average: str) -> None:
    """Of 4 labels, the last is neither there nor predicted."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(30, 4, generator=generator)
    targets = (torch.rand(30, 4, generator=generator) < 0.4).float()
    logits[:, 3], targets[:, 3] = -1.0, 0.0
    expected = OF[name](
        targets.int(),
        (logits > 0).int(),
        average=None if average == "none" else average,
        zero_division=0,
    )
    found = value((name, {"average": average}), logits, targets)
    assert np.asarray(found).tolist() == pytest.approx(np.asarray(expected).tolist(), **NEAR)


def test_examples_may_have_weights() -> None:
    logits, targets = CASES["all of five"]
    weights = torch.rand(40, generator=torch.Generator().manual_seed(2))
    own = {"sample_weight": weights.double().numpy()}
    expected = sk.f1_score(targets, logits.argmax(1), average="macro", **own)
    assert value("f1", logits, targets, weights) == pytest.approx(expected, **NEAR)
    scores = logits.double().softmax(1).numpy()
    expected = np.mean([sk.roc_auc_score(targets == k, scores[:, k], **own) for k in range(5)])
    assert value("auc", logits, targets, weights) == pytest.approx(expected, **NEAR)


def test_positions_that_do_not_count_are_left_out() -> None:
    logits, targets = CASES["all of five"]
    padded = targets.clone()
    padded[1::2] = -100
    shaped = logits.reshape(10, 4, 5), padded.reshape(10, 4)
    for name in ("f1", "confusion", "auc", "ece", "balanced-accuracy"):
        expected = value(name, logits[::2], targets[::2])
        assert np.allclose(value(name, *shaped), expected, rtol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_balanced_accuracy_and_confusion_are_scikit_learns(case: str) -> None:
    logits, targets = CASES[case]
    predicted = logits.argmax(1)
    expected = sk.balanced_accuracy_score(targets, predicted)
    assert value("balanced-accuracy", logits, targets) == pytest.approx(expected, **NEAR)
    matrix = sk.confusion_matrix(targets, predicted, labels=range(logits.shape[1]))
    assert value("confusion", logits, targets).tolist() == matrix.tolist()


def test_outputs_that_are_not_numbers_are_predictions_of_no_class() -> None:
    logits = torch.tensor([[2.0, 1.0], [torch.nan, 1.0], [1.0, 2.0]])
    targets = torch.tensor([0, 1, 1])
    assert value("recall", logits, targets) == 0.5
    assert value("precision", logits, targets) == 1.0
    assert value("confusion", logits, targets).tolist() == [[1, 0], [0, 1]]
    with pytest.raises(ValueError, match="NaN"):
        value("auc", logits, targets)


SCORES: dict[str, Callable[..., float]] = {
    "auc": sk.roc_auc_score,
    "average-precision": sk.average_precision_score,
}


@pytest.mark.parametrize("name", SCORES)
def test_the_area_of_two_classes_is_scikit_learns(name: str) -> None:
    """With ties: scores of one decimal."""
    logits, targets = CASES["two classes"]
    scores = ((logits[:, 1] - logits[:, 0]) * 10).round() / 10
    assert len(scores.unique()) < 40
    expected = SCORES[name](targets, scores)
    assert value(name, scores.unsqueeze(1), targets.float()) == pytest.approx(expected, **NEAR)
    both = torch.stack([torch.zeros(40), scores], dim=1)
    assert value(name, both, targets) == pytest.approx(expected, **NEAR)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("average", ["macro", "weighted", "micro"])
def test_the_areas_of_several_classes_are_averaged_as_in_scikit_learn(
    name: str, average: str
) -> None:
    """One class against all others."""
    logits, targets = CASES["all of five"]
    own = torch.nn.functional.one_hot(targets, 5)
    scores = logits.double().softmax(1)
    expected = SCORES[name](own, scores, average=average)
    assert value((name, {"average": average}), logits, targets) == pytest.approx(expected, **NEAR)
    labels = value((name, {"average": average}), scores, own.double())
    assert labels == pytest.approx(expected, **NEAR)


@pytest.mark.parametrize("name", [*SCORES, "f1", "ece", "confusion"])
def test_outputs_in_bfloat16_are_measured_as_the_numbers_they_are(name: str) -> None:
    logits, targets = CASES["two classes"]
    half = logits.bfloat16()
    assert np.array_equal(value(name, half, targets), value(name, half.float(), targets))
    assert value("auc", half[:, :1], targets) == value("auc", half[:, :1].float(), targets)


@pytest.mark.parametrize("name", SCORES)
def test_classes_without_a_value_are_left_out_of_the_average(name: str) -> None:
    """As scikit-learn's nanmean would: it has no average there itself."""
    logits, targets = CASES["two of five"]
    scores = logits.double().softmax(1)
    expected = [SCORES[name](targets == k, scores[:, k]) for k in (1, 3)]
    assert value(name, logits, targets) == pytest.approx(np.mean(expected), **NEAR)
    by_class = value((name, {"average": "none"}), logits, targets)
    assert np.isnan(by_class).tolist() == [True, False, True, False, True]
    with pytest.raises(ZeroDivisionError):
        value(name, *CASES["one of two, the negative"])


def test_bins_of_probabilities_make_ties() -> None:
    """scikit-learn, with each probability replaced by its bin's number."""
    logits, targets = CASES["all of five"]
    bins = np.floor(logits.double().softmax(1).numpy() * 7)
    for name, score in SCORES.items():
        expected = np.mean([score(targets == k, bins[:, k]) for k in range(5)])
        assert value((name, {"bins": 7}), logits, targets) == pytest.approx(expected, **NEAR)
    one = value(("auc", {"bins": 100_000}), *CASES["two classes"])
    assert one == pytest.approx(value("auc", *CASES["two classes"]), **NEAR)


def test_the_calibration_error_is_that_of_the_paper() -> None:
    """Guo et al., 2017, equation 3: the sum over bins of |B| / n |acc(B) - conf(B)|."""
    logits, targets = CASES["all of five"]
    confidences, predicted = logits.double().softmax(1).max(1)
    edges = torch.linspace(0, 1, 11, dtype=torch.float64)
    expected = 0.0
    for low, high in itertools.pairwise(edges):
        inside = (confidences > low) & (confidences <= high)
        if inside.any():
            accuracy = (predicted == targets)[inside].double().mean()
            gap = (accuracy - confidences[inside].mean()).abs()
            expected += float(inside.double().mean() * gap)
    assert value(("ece", {"bins": 10}), logits, targets) == pytest.approx(expected, **NEAR)
    one = torch.tensor([[np.log(4.0)], [-np.log(4.0)]])  # both are 80 % sure, one is wrong
    assert value("ece", one, torch.tensor([1.0, 1.0])) == pytest.approx(0.3)


@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize("size", [(30,), (30, 3)])
def test_r2_and_rmse_are_scikit_learns(offset: float, size: tuple[int, ...]) -> None:
    """A mean far from zero costs no digits."""
    generator = torch.Generator().manual_seed(3)
    targets = offset + torch.randn(size, generator=generator, dtype=torch.float64)
    outputs = targets + 0.5 * torch.randn(size, generator=generator, dtype=torch.float64)
    assert value("r2", outputs, targets) == pytest.approx(sk.r2_score(targets, outputs), **NEAR)
    expected = sk.root_mean_squared_error(targets, outputs)
    assert value("rmse", outputs, targets) == pytest.approx(expected, **NEAR)


@pytest.mark.parametrize("outputs", [[2.0, 2.0], [2.0, 3.0]])
def test_constant_targets_have_scikit_learns_r2(outputs: list[float]) -> None:
    targets = [2.0, 2.0]
    expected = sk.r2_score(targets, outputs)
    assert value("r2", torch.tensor(outputs), torch.tensor(targets)) == expected
    with pytest.raises(ZeroDivisionError):
        value("r2", torch.tensor(outputs[:1]), torch.tensor(targets[:1]))


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (("f1", {"label": 7}), "f1: label is 7, but there are 5 classes; lower it"),
        (("f1", {"average": "binary"}), "'binary', but there are 5 classes; give label, or aver"),
    ],
)
def test_what_cannot_be_averaged_is_refused(metric: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        value(metric, *CASES["all of five"])


def test_a_label_is_not_averaged_over_classes() -> None:
    with pytest.raises(ConfigError, match="label is 1, but average is 'macro'; remove one"):
        Metric.from_name("f1", {"label": 1, "average": "macro"})


def test_labels_have_no_confusion_matrix() -> None:
    labels = torch.zeros(2, 3)
    for name in ("confusion", "balanced-accuracy"):
        with pytest.raises(ConfigError, match=f"{name}: targets are 3 labels"):
            value(name, labels, labels)
