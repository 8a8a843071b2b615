"""Weights of classes and focal losses, against torch, scikit-learn and the papers' formulas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import simfl
from simfl.errors import ConfigError, ScenarioError
from simfl.models import BCEWithLogits, BinaryFocal, CrossEntropy, Focal, as_loss
from simfl.simulation import build

WEIGHTS = (0.5, 2.0, 1.0)
GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(12, 3, generator=GENERATOR)
TARGETS = torch.tensor([0, 1, 2, 1, 0, 2, 2, 2, 1, 0, 0, 1])
PADDED = torch.where(torch.arange(12) % 4 == 3, -100, TARGETS)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_weights_multiply_each_example_as_in_torch(smoothing: float) -> None:
    loss = CrossEntropy(weight=WEIGHTS, label_smoothing=smoothing)
    expected = F.cross_entropy(
        LOGITS, TARGETS, torch.tensor(WEIGHTS), reduction="none", label_smoothing=smoothing
    )
    assert torch.equal(loss.per_example(LOGITS, TARGETS), expected)
    assert loss.mean(LOGITS, TARGETS).item() == pytest.approx(expected.mean().item())


@pytest.mark.parametrize("shape", [(12,), (4, 3)])
def test_over_weights_it_is_torchs_mean(shape: tuple[int, ...]) -> None:
    """Of positions, too, of which some do not count; one example has none."""
    logits, targets = LOGITS.reshape(*shape, 3), PADDED.clone().reshape(shape)
    targets[0] = -100
    loss = CrossEntropy(weight=WEIGHTS, over="weights")
    expected = nn.CrossEntropyLoss(torch.tensor(WEIGHTS))(logits.reshape(-1, 3), targets.flatten())
    assert loss.mean(logits, targets).item() == pytest.approx(expected.item(), rel=1e-6)
    half = loss.mean(logits, targets, torch.ones(len(targets)))
    assert half.item() == pytest.approx(expected.item(), rel=1e-6)


def test_over_tokens_positions_are_weighted_and_counted() -> None:
    logits, targets = LOGITS.reshape(4, 3, 3), PADDED.reshape(4, 3)
    losses = F.cross_entropy(LOGITS, PADDED, torch.tensor(WEIGHTS), reduction="sum")
    found = CrossEntropy(weight=WEIGHTS, over="tokens").mean(logits, targets)
    assert found.item() == pytest.approx(losses.item() / 9, rel=1e-6)


def test_many_rows_take_another_way_to_the_same() -> None:
    logits, targets = LOGITS.repeat(30, 1), TARGETS.repeat(30)
    expected = F.cross_entropy(logits, targets, torch.tensor(WEIGHTS), reduction="none")
    found = CrossEntropy(weight=WEIGHTS).per_example(logits, targets)
    assert torch.allclose(found, expected, rtol=1e-6)


def focal(logits: Tensor, targets: Tensor, gamma: float, alpha: Tensor) -> Tensor:
    """Return equation 5 of the paper, in float64."""
    p = logits.double().softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return -alpha.double()[targets] * (1 - p) ** gamma * p.log()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_the_focal_loss_is_the_papers(gamma: float) -> None:
    found = Focal(gamma, WEIGHTS).per_example(LOGITS, TARGETS)
    expected = focal(LOGITS, TARGETS, gamma, torch.tensor(WEIGHTS))
    assert torch.allclose(found.double(), expected, rtol=1e-5)
    plain = focal(LOGITS, TARGETS, gamma, torch.ones(3))
    assert torch.allclose(Focal(gamma).per_example(LOGITS, TARGETS).double(), plain, rtol=1e-5)
    sequences = Focal(gamma).mean(LOGITS.reshape(4, 3, 3), PADDED.reshape(4, 3))
    counted = plain[PADDED != -100]  # two or three of each example
    sizes = (PADDED != -100).reshape(4, 3).sum(1)
    assert sequences.item() == pytest.approx(
        torch.stack([each.mean() for each in counted.split(sizes.tolist())]).mean().item(), rel=1e-5
    )


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_the_binary_focal_loss_is_the_papers(gamma: float) -> None:
    """With 3 labels, and with one output as a column."""
    targets = (LOGITS.flip(0) > 0).float()
    p = LOGITS.double().sigmoid()
    p_t = torch.where(targets == 1, p, 1 - p)
    alpha_t = torch.where(targets == 1, 0.25, 0.75)
    expected = -alpha_t * (1 - p_t) ** gamma * p_t.log()
    loss = BinaryFocal(gamma, 0.25)
    found = loss.per_example(LOGITS, targets).double()
    assert torch.allclose(found, expected.mean(1), rtol=1e-5)
    one = loss.per_example(LOGITS[:, :1], targets[:, 0]).double()
    assert torch.allclose(one, expected[:, 0], rtol=1e-5)


@pytest.mark.parametrize("loss", [Focal(0.5), BinaryFocal(0.5)])
def test_a_focal_loss_has_a_gradient_where_the_prediction_is_certain(loss: Any) -> None:
    logits = torch.tensor([[500.0, -500.0]], requires_grad=True)
    targets = torch.tensor([[1.0, 0.0]]) if isinstance(loss, BinaryFocal) else torch.tensor([0])
    (gradient,) = torch.autograd.grad(loss.mean(logits, targets), logits)
    assert gradient.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("weight", [3.0, (3.0, 0.5, 1.0)])
def test_pos_weight_is_torchs(weight: Any) -> None:
    targets = (LOGITS.flip(0) > 0).float()
    expected = F.binary_cross_entropy_with_logits(
        LOGITS, targets, reduction="none", pos_weight=torch.tensor(weight)
    )
    found = BCEWithLogits(weight).per_example(LOGITS, targets)
    assert torch.allclose(found, expected.mean(1))


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    """A class without examples, which scikit-learn leaves out, weighs 1; padding does not count."""
    targets = np.array([0, 0, 0, 3, 1, 1, -100])
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=targets[:-1])
    asked = as_loss(("cross-entropy", {"weight": "balanced"}))
    loss = asked.for_targets([targets[:4], targets[4:]])
    assert loss.weight == pytest.approx((expected[0], expected[1], 1.0, expected[2]))
    nested = as_loss(("sam", {"of": ("focal", {"alpha": "balanced"})})).for_targets([targets])
    assert nested.of.alpha == loss.weight
    labels = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    of_labels = BCEWithLogits("balanced").for_targets([labels[:1], labels[1:]])
    assert of_labels.pos_weight == (3.0, pytest.approx(1 / 3))
    assert BCEWithLogits("balanced").for_targets([labels[:, 0]]).pos_weight == 3.0
    with pytest.raises(ConfigError, match="some targets are all the same; give a number"):
        BCEWithLogits("balanced").for_targets([np.ones(3)])


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (CrossEntropy(weight=(1.0, 2.0)), "there are 2 weights of classes, but 3 classes"),
        (CrossEntropy(weight="balanced"), "no population is known here; give numbers"),
    ],
)
def test_weights_that_fit_no_classes_are_refused(loss: CrossEntropy, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        loss.per_example(LOGITS, TARGETS)


SCENARIO: dict[str, Any] = {
    "rounds": 2,
    "data": {"source": "digits", "partition": {"kind": "dirichlet", "clients": 9, "alpha": 0.3}},
    "model": {"kind": "mlp", "hidden": [8]},
    "client": {"per_round": 8, "batch_size": 16, "optimizer": {"lrate": 0.1}},
    "evaluation": {"every": 0},
}
BALANCED = ["cross-entropy", {"weight": "balanced"}]


@pytest.mark.parametrize(
    ("loss", "sclip"),
    [
        (["focal", {"alpha": "balanced"}], None),
        (["cross-entropy", {"weight": "balanced", "over": "weights"}], None),
        (["balanced", {"of": "focal"}], None),
        (BALANCED, 1.0),
    ],
)
def test_stacks_train_with_weights_as_single_clients_do(
    loss: Any, sclip: float | None, tmp_path: Path
) -> None:
    """Sums are in another order there, which float32 shows after some steps."""
    scenario = {**SCENARIO, "model": {**SCENARIO["model"], "loss": loss}}
    one, stacks = (
        simfl.run(
            {**scenario, "client": {**SCENARIO["client"], "stack": size, "sclip": sclip}},
            out=tmp_path / str(size),
            backend="inline",
        )
        for size in (1, 4)
    )
    for name, array in one.weights.items():
        assert np.allclose(array, stacks.weights[name], rtol=1e-3, atol=1e-5)


def test_balanced_is_of_the_training_examples_of_all_clients() -> None:
    model = {"kind": "mlp", "loss": BALANCED}
    simulation = build(simfl.load_scenario({**SCENARIO, "model": model}))
    dataset = simulation.dataset
    rows = np.concatenate([dataset.train_rows(client) for client in range(9)])
    expected = compute_class_weight(
        "balanced", classes=np.arange(10), y=dataset.train.targets[rows]
    )
    assert simulation.client.loss.weight == pytest.approx(tuple(expected))
    assert simulation.server.loss == simulation.client.loss


def test_clipping_needs_losses_of_single_examples() -> None:
    loss = ["cross-entropy", {"weight": "balanced", "over": "weights"}]
    scenario = {**SCENARIO, "model": {"kind": "mlp", "loss": loss}}
    scenario["client"] = {**SCENARIO["client"], "sclip": 1.0}
    with pytest.raises(ScenarioError, match=r"client\.sclip: is 1.0, .* for a whole batch"):
        simfl.load_scenario(scenario)
