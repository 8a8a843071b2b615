"""Losses per example, against torch's reductions and by hand.

Shapes: B examples, T positions, V classes.
"""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from simfl.errors import ConfigError, ImportPathError, UnknownNameError
from simfl.models import MSE, CrossEntropy, Loss, PythonLoss, as_loss

# One float32 reduction in another order.
CLOSE = {"rtol": 1e-6, "atol": 1e-7}

TORCH_LOSSES = {
    "mse": F.mse_loss,
    "mae": F.l1_loss,
    "huber": F.huber_loss,
    "bce-with-logits": F.binary_cross_entropy_with_logits,
}


def squared_error(outputs: Tensor, targets: Tensor, *, factor: float = 1.0) -> Tensor:
    return factor * (outputs - targets) ** 2


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def classes(*shape: int, num_classes: int) -> Tensor:
    return torch.randint(num_classes, shape, generator=torch.Generator().manual_seed(1))


def test_cross_entropy_by_hand() -> None:
    """Logits (0, log 3) are probabilities 1/4 and 3/4."""
    logits = torch.tensor([[0.0, math.log(3)]] * 2)
    losses = CrossEntropy()(logits, torch.tensor([0, 1]))
    expected = torch.tensor([math.log(4), math.log(4 / 3)])
    torch.testing.assert_close(losses, expected, **CLOSE)


def test_label_smoothing_by_hand() -> None:
    """Of 0.2, each of two classes gets 0.1: 0.9 log 4 + 0.1 log 4/3 for the first class."""
    losses = CrossEntropy(label_smoothing=0.2)(
        torch.tensor([[0.0, math.log(3)]]), torch.tensor([0])
    )
    assert losses.item() == pytest.approx(0.9 * math.log(4) + 0.1 * math.log(4 / 3), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cross_entropy_of_many_rows_of_few_classes_is_torchs(dtype: torch.dtype) -> None:
    """With its gradients, for 300 rows of 10, a row whose numbers are large, and one left out."""
    torch.manual_seed(0)
    outputs = torch.randn(300, 10, dtype=dtype)
    outputs[0] *= 1e4
    targets = torch.randint(10, (300,))
    targets[1] = -100
    by = torch.rand(300, dtype=dtype)
    ours, theirs = outputs.clone().requires_grad_(), outputs.clone().requires_grad_()
    losses = CrossEntropy()(ours, targets)
    expected = F.cross_entropy(theirs, targets, reduction="none")
    torch.testing.assert_close(losses, expected)
    (losses * by).sum().backward()
    (expected * by).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_positions_with_target_minus_100_do_not_count() -> None:
    """Their number differs by example, as padding and prompts do; of the last, none counts."""
    outputs_BTV, targets_BT = random(3, 6, 5), classes(3, 6, num_classes=5)
    targets_BT[0, 4:] = targets_BT[1, :1] = targets_BT[2] = -100
    losses_B = CrossEntropy()(outputs_BTV, targets_BT)
    for b in range(2):
        expected = F.cross_entropy(outputs_BTV[b], targets_BT[b], ignore_index=-100)
        torch.testing.assert_close(losses_B[b], expected, **CLOSE)
    assert losses_B[2] == 0


def test_without_them_the_loss_and_its_gradients_have_the_bits_of_a_mean() -> None:
    outputs_BTV, targets_BT = random(4, 7, 5), classes(4, 7, num_classes=5)
    ours, theirs = outputs_BTV.clone().requires_grad_(), outputs_BTV.clone().requires_grad_()
    losses_B = CrossEntropy()(ours, targets_BT)
    flat = F.cross_entropy(theirs.flatten(0, 1), targets_BT.flatten(), reduction="none")
    expected_B = flat.reshape(4, 7).mean(dim=1)
    assert torch.equal(losses_B, expected_B)
    losses_B.mean().backward()
    expected_B.mean().backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    assert torch.equal(ours.grad, theirs.grad)


def test_cross_entropy_of_a_sequence_is_the_mean_over_its_positions() -> None:
    outputs_BTV, targets_BT = random(2, 3, 5), classes(2, 3, num_classes=5)
    losses_B = CrossEntropy()(outputs_BTV, targets_BT)
    for b in range(2):
        expected = F.cross_entropy(outputs_BTV[b], targets_BT[b])
        torch.testing.assert_close(losses_B[b], expected, **CLOSE)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(4,), (4, 3)])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_mean_is_the_weighted_mean_of_the_losses(smoothing, shape, weighted) -> None:
    loss = CrossEntropy(label_smoothing=smoothing)
    outputs, targets = random(*shape, 5), classes(*shape, num_classes=5)
    weights = torch.tensor([0.5, 0.0, 2.0, 1.0]) if weighted else None
    factors = torch.ones(4) if weights is None else weights
    expected = sum(factors * loss(outputs, targets)) / 4
    torch.testing.assert_close(loss.mean(outputs, targets, weights), expected, **CLOSE)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.bool])
def test_classes_may_be_of_any_integer_type(dtype: torch.dtype) -> None:
    targets, outputs = torch.tensor([0, 1]), random(2, 2)
    assert torch.equal(CrossEntropy()(outputs, targets.to(dtype)), CrossEntropy()(outputs, targets))


@pytest.mark.parametrize("name", TORCH_LOSSES)
@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 3, 2)])
def test_elementwise_losses_are_those_of_torch_for_each_example(name: str, shape) -> None:
    outputs, targets = random(*shape), random(*shape, seed=1).sigmoid()
    losses = Loss.from_name(name)(outputs, targets)
    for b in range(4):
        torch.testing.assert_close(losses[b], TORCH_LOSSES[name](outputs[b], targets[b]), **CLOSE)


def test_the_huber_loss_is_linear_beyond_delta() -> None:
    """delta 2: a difference of 1 gives 1/2, one of 5 gives 2 * (5 - 1)."""
    losses = Loss.from_name("huber", {"delta": 2.0})(torch.tensor([1.0, -5.0]), torch.zeros(2))
    assert losses.tolist() == [0.5, 8.0]


@pytest.mark.parametrize("name", TORCH_LOSSES)
def test_a_column_of_outputs_is_not_broadcast_against_a_row_of_targets(name: str) -> None:
    outputs, targets = random(4), random(4, seed=1).sigmoid()
    loss = Loss.from_name(name)
    assert torch.equal(loss(outputs.unsqueeze(1), targets), loss(outputs, targets))


def test_integer_targets_are_numbers_to_an_elementwise_loss() -> None:
    assert MSE()(torch.tensor([0.5, 3.0]), torch.tensor([1, 1])).tolist() == [0.25, 4.0]


@pytest.mark.parametrize(
    ("name", "outputs", "targets", "message"),
    [
        (
            "mse",
            (2, 3),
            (2,),
            r"mse: outputs of shape \[2, 3\].*targets of shape \[2\].*outputs: 1",
        ),
        ("bce-with-logits", (2, 2), (2,), r"from a model with outputs: 1"),
        ("cross-entropy", (2, 5), (2, 3), r"targets of shape \[2, 3\].*one of the classes"),
        ("cross-entropy", (2, 3, 5), (2,), r"outputs of shape \[2, 3, 5\]"),
    ],
)
def test_shapes_that_do_not_fit_are_an_error(name, outputs, targets, message) -> None:
    wanted = torch.zeros(targets) if name != "cross-entropy" else torch.zeros(targets).long()
    with pytest.raises(ConfigError, match=message):
        Loss.from_name(name)(torch.zeros(outputs), wanted)


def test_float_targets_are_no_classes() -> None:
    with pytest.raises(
        ConfigError, match=r"targets are torch.float32, but classes must be integers"
    ):
        CrossEntropy()(torch.zeros(2, 2), torch.zeros(2))


# -- losses given in other ways ------------------------------------------------------------


def test_a_loss_is_given_as_an_instance_a_name_or_a_pair() -> None:
    assert as_loss(CrossEntropy()) == as_loss("cross-entropy") == CrossEntropy()
    smoothed = CrossEntropy(label_smoothing=0.1)
    assert as_loss(("cross-entropy", {"label_smoothing": 0.1})) == smoothed
    assert as_loss(["cross-entropy", {"label_smoothing": 0.1}]) == smoothed


def test_an_unknown_loss_suggests_the_nearest_one() -> None:
    with pytest.raises(UnknownNameError, match=r"no loss named 'cross-entropi'.*'cross-entropy'"):
        as_loss("cross-entropi")


@pytest.mark.parametrize("given", [3, None, nn.MSELoss, ("mse",)])
def test_values_that_are_not_losses_are_refused(given) -> None:
    with pytest.raises(ConfigError, match="loss: "):
        as_loss(given)


def test_a_loss_module_is_copied_and_its_mean_is_taken_within_each_example() -> None:
    module, outputs, targets = nn.MSELoss(), random(4, 3), random(4, 3, seed=1)
    losses = as_loss(module)(outputs, targets)
    assert module.reduction == "mean"
    torch.testing.assert_close(losses.mean(), module(outputs, targets), **CLOSE)
    assert losses.shape == (4,)


def test_a_loss_module_that_sums_sums_within_each_example() -> None:
    outputs, targets = random(4, 3), random(4, 3, seed=1)
    losses = as_loss(nn.MSELoss(reduction="sum"))(outputs, targets)
    torch.testing.assert_close(losses.sum(), F.mse_loss(outputs, targets, reduction="sum"), **CLOSE)


def test_the_options_of_a_loss_module_are_kept() -> None:
    outputs, targets = random(4, 3), classes(4, num_classes=3)
    options = {"weight": torch.tensor([1.0, 2.0, 3.0]), "label_smoothing": 0.1}
    expected = F.cross_entropy(outputs, targets, reduction="none", **options)
    assert torch.equal(as_loss(nn.CrossEntropyLoss(**options))(outputs, targets), expected)


def test_a_module_of_ones_own_may_return_one_number_per_example() -> None:
    class Own(nn.Module):
        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return (outputs - targets).abs()

    assert as_loss(Own())(torch.tensor([1.0, 2.0]), torch.zeros(2)).tolist() == [1.0, 2.0]


def test_a_function_of_torch_is_called_without_reduction() -> None:
    outputs, targets = random(4, 3), classes(4, num_classes=3)
    expected = F.cross_entropy(outputs, targets, reduction="none")
    assert torch.equal(as_loss(F.cross_entropy)(outputs, targets), expected)
    assert as_loss(F.mse_loss)(torch.ones(2, 3), torch.zeros(2, 3)).tolist() == [1.0, 1.0]


def test_a_function_without_reduction_is_called_as_it_is() -> None:
    losses = as_loss(squared_error)(torch.tensor([1.0, 3.0]), torch.zeros(2))
    assert losses.tolist() == [1.0, 9.0]


@pytest.mark.parametrize(
    ("function", "returned"),
    [
        (lambda outputs, targets: outputs.sum(), r"\[\]"),
        (lambda outputs, targets: outputs, r"\[2, 3\]"),
        (lambda outputs, targets: 1.0, "float"),
    ],
)
def test_a_function_must_return_one_number_per_example(function, returned: str) -> None:
    with pytest.raises(ConfigError, match=f"returned {returned} for targets of shape .*shape .2."):
        as_loss(function)(torch.zeros(2, 3), torch.zeros(2, 3))


# -- kind: python --------------------------------------------------------------------------


def test_a_python_loss_calls_the_function_at_its_path_with_arguments() -> None:
    loss = PythonLoss(path=f"{__name__}:squared_error", arguments={"factor": 3.0})
    assert loss(torch.tensor([1.0, 2.0]), torch.zeros(2)).tolist() == [3.0, 12.0]


def test_a_python_loss_of_torch_is_called_without_reduction() -> None:
    """Huber with delta 1: differences 3 and 1 give 2.5 and 0.5, whose mean is 1.5."""
    loss = PythonLoss(path="torch.nn.functional:huber_loss", arguments={"delta": 1.0})
    assert loss(torch.tensor([[3.0, 1.0]]), torch.zeros(1, 2)).tolist() == [1.5]


def test_a_python_loss_tells_of_a_wrong_path_when_it_is_made() -> None:
    with pytest.raises(ImportPathError, match="has no 'mse_los'"):
        PythonLoss(path="torch.nn.functional:mse_los")
    with pytest.raises(ConfigError, match="'math:pi' is not a function"):
        PythonLoss(path="math:pi")


def test_a_python_loss_of_a_class_of_torch_is_made_with_the_arguments_and_called() -> None:
    arguments = {"label_smoothing": 0.1}
    loss = PythonLoss(path="torch.nn:CrossEntropyLoss", arguments=arguments)
    outputs, targets = random(4, 3), classes(4, num_classes=3)
    expected = F.cross_entropy(outputs, targets, label_smoothing=0.1, reduction="none")
    torch.testing.assert_close(loss(outputs, targets), expected, **CLOSE)
    restored = pickle.loads(pickle.dumps(loss))
    assert torch.equal(restored(outputs, targets), loss(outputs, targets))
    assert restored == loss


@pytest.mark.parametrize(
    ("path", "arguments", "message"),
    [
        (
            "torch.nn:CrossEntropyLoss",
            {"smoothing": 0.1},
            "CrossEntropyLoss' with .*smoothing",
        ),
        ("fractions:Fraction", {}, "'fractions:Fraction' is a class; name a function of outputs"),
    ],
)
def test_a_class_that_cannot_be_a_loss_is_reported_when_it_is_named(
    path: str, arguments: dict[str, float], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        PythonLoss(path=path, arguments=arguments)


MODULE = nn.L1Loss()


def test_a_python_loss_may_be_a_module_that_is_made_already() -> None:
    loss = PythonLoss(path=f"{__name__}:MODULE")
    assert loss(torch.tensor([[3.0, 1.0]]), torch.zeros(1, 2)).tolist() == [2.0]


@pytest.mark.parametrize("given", [F.mse_loss, nn.MSELoss()])
@pytest.mark.parametrize("shapes", [((4, 1), (4,)), ((4,), (4, 1))])
def test_a_column_is_not_broadcast_against_a_row_by_a_loss_of_torch(given, shapes) -> None:
    """torch makes [4, 4] of them with a warning, and the mean of a row is no example's loss."""
    outputs, targets = (torch.zeros(shape) for shape in shapes)
    with (
        pytest.warns(UserWarning, match="different to the input size"),
        pytest.raises(ConfigError, match=r"has shape \[4, 4\] for .*squeeze"),
    ):
        as_loss(given)(outputs, targets)


@pytest.mark.parametrize("name", ["cross-entropy", "mse", "bce-with-logits"])
def test_outputs_that_are_no_tensor_are_refused_with_the_remedy(name: str) -> None:
    outputs = {"logits": torch.zeros(2, 3), "loss": torch.zeros(())}
    with pytest.raises(
        ConfigError, match=rf"{name}: the model returned a dict of 'logits', 'loss'.*kind python"
    ):
        as_loss(name)(outputs, torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize("given", ["cross-entropy", nn.CrossEntropyLoss(), F.cross_entropy])
def test_losses_pickle(given) -> None:
    outputs, targets = random(4, 3), classes(4, num_classes=3)
    restored = pickle.loads(pickle.dumps(as_loss(given)))
    assert torch.equal(restored(outputs, targets), as_loss(given)(outputs, targets))
