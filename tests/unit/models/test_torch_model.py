"""TorchModel: gradients as torch computes them, weights by name, evaluation as sums."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from simfl.errors import ConfigError, DataError, VectorError
from simfl.models import Batch, Metric, Model, TorchModel
from simfl.vector import Vector

# Gradients of float32 losses of order 1: a few roundings of 6e-8 each.
CLOSE = {"rtol": 1e-5, "atol": 1e-7}
# Of a batch of 7.
PARTS = [slice(0, 1), slice(1, 5), slice(5, 7)]


def classifier(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def with_batch_norm(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def class_batch(num_examples: int = 6, *, weighted: bool = False) -> Batch:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(num_examples, 4, generator=generator)
    targets = torch.randint(3, (num_examples,), generator=generator)
    weights = torch.rand(num_examples, generator=generator) if weighted else None
    return Batch(inputs, targets, weights)


def one_weight(value: float = 1.0) -> nn.Module:
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, value)
    return module


def assert_gradients_are_those_of_backward(module: nn.Module, loss: Tensor, got: Vector) -> None:
    module.zero_grad()
    loss.backward()
    assert got.names == tuple(name for name, _ in module.named_parameters())
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(got[name], parameter.grad, **CLOSE)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(2, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.left(a) - self.right(b)


class Tied(nn.Module):
    """The output layer uses the embedding's matrix, so that it has two names."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 2)
        self.output = nn.Linear(2, 5, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.output(self.embedding(tokens))


# -- gradients -----------------------------------------------------------------------------


@pytest.mark.parametrize("make", [classifier, with_batch_norm])
def test_gradients_and_loss_are_those_of_backward(make) -> None:
    batch, module = class_batch(), make()
    loss, gradients = TorchModel(copy.deepcopy(module)).compute_loss_and_gradients(batch)
    expected = F.cross_entropy(module(batch.inputs), batch.targets)
    torch.testing.assert_close(loss, expected.detach(), **CLOSE)
    assert_gradients_are_those_of_backward(module, expected, gradients)


def test_gradients_are_the_mean_of_weight_times_gradient_and_not_divided_by_the_weights() -> None:
    """Model y = w x at w = 1, loss (y - t)^2, so the gradient of an example is 2 (x - t) x.

    x = 1, t = 0: 2, weight 3; x = 2, t = 1: 4, weight 0.5. Mean: (3*2 + 0.5*4) / 2 = 4, and for
    the losses (3*1 + 0.5*1) / 2 = 1.75.
    """
    weights = torch.tensor([3.0, 0.5])
    batch = Batch(torch.tensor([[1.0], [2.0]]), torch.tensor([0.0, 1.0]), weights)
    loss, gradients = TorchModel(one_weight(), "mse").compute_loss_and_gradients(batch)
    assert gradients["weight"].item() == 4.0
    assert loss.item() == 1.75


def test_weighted_cross_entropy_is_the_mean_of_weight_times_loss() -> None:
    batch, module = class_batch(weighted=True), classifier()
    loss, gradients = TorchModel(copy.deepcopy(module)).compute_loss_and_gradients(batch)
    losses = F.cross_entropy(module(batch.inputs), batch.targets, reduction="none")
    expected = (losses * batch.sample_weights).mean()
    torch.testing.assert_close(loss, expected.detach(), **CLOSE)
    assert_gradients_are_those_of_backward(module, expected, gradients)


def test_a_weight_of_zero_takes_an_example_out() -> None:
    two = class_batch(2)
    model = TorchModel(classifier())
    masked = two._replace(sample_weights=torch.tensor([1.0, 0.0]))
    alone = Batch(two.inputs[:1], two.targets[:1])
    got, expected = (model.compute_batch_gradients(b) for b in (masked, alone))
    for name in expected:  # the mean is over two examples, of which one counts
        torch.testing.assert_close(got[name] * 2, expected[name], **CLOSE)


def test_the_loss_is_a_detached_number() -> None:
    loss, gradients = TorchModel(classifier()).compute_loss_and_gradients(class_batch())
    assert loss.shape == ()
    assert not loss.requires_grad
    assert not any(tensor.requires_grad for tensor in gradients.tensors)


def test_an_unused_parameter_has_a_gradient_of_zeros() -> None:
    module = classifier()
    module.register_parameter("unused", nn.Parameter(torch.ones(2, 2)))
    gradients = TorchModel(module).compute_batch_gradients(class_batch())
    assert gradients["unused"].tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_frozen_parameters_take_no_part_in_training() -> None:
    module = classifier()
    module[0].requires_grad_(False)
    model = TorchModel(module)
    trained = ("2.weight", "2.bias")
    assert model.get_weights(trainable=True).names == trained
    assert model.compute_batch_gradients(class_batch()).names == trained
    assert model.shared_names == trained
    assert model.get_weights().names == ("0.weight", "0.bias", *trained)


def test_a_tensor_under_two_names_counts_once_and_has_the_whole_gradient() -> None:
    module = Tied()
    batch = Batch(torch.tensor([0, 1, 1]), torch.tensor([2, 3, 4]))
    model = TorchModel(module)
    assert model.get_weights().names == model.shared_names == ("embedding.weight",)
    gradients = model.compute_batch_gradients(batch)
    loss = F.cross_entropy(module(batch.inputs), batch.targets)
    assert_gradients_are_those_of_backward(module, loss, gradients)
    model.set_weights(Vector({"embedding.weight": torch.ones(5, 2)}))
    assert module.output.weight is module.embedding.weight
    assert module.output.weight.sum() == 10


@pytest.mark.parametrize("as_dict", [False, True])
def test_several_inputs_are_positional_or_keyword_arguments(as_dict: bool) -> None:
    module, batch, b = TwoInputs(), class_batch(), torch.ones(6, 2)
    a, targets = batch.inputs, batch.targets
    batch = Batch({"b": b, "a": a} if as_dict else (a, b), targets)
    gradients = TorchModel(copy.deepcopy(module)).compute_batch_gradients(batch)
    loss = F.cross_entropy(module(a, b), targets)
    assert_gradients_are_those_of_backward(module, loss, gradients)


def test_gradients_of_equal_parameters_do_not_share_memory() -> None:
    """Autograd hands one tensor to both operands of a sum, and an expanded one to a sum of all."""

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = (nn.Parameter(torch.zeros(3)) for _ in range(2))

        def forward(self, inputs: Tensor) -> Tensor:
            return inputs + (self.a + self.b).sum()

    model = TorchModel(Sum(), lambda outputs, targets: outputs - targets)
    gradients = model.compute_batch_gradients(Batch(torch.zeros(2), torch.zeros(2)))
    gradients["a"][0] = 5.0
    assert gradients["a"].tolist() == [5.0, 1.0, 1.0]
    assert gradients["b"].tolist() == [1.0, 1.0, 1.0]


def test_gradients_are_computed_in_training_mode_and_evaluation_is_not() -> None:
    """Dropout of everything: in training the outputs are 0 and so is w's gradient."""
    model = TorchModel(nn.Sequential(one_weight(2.0), nn.Dropout(1.0)), "mse")
    batch = Batch(torch.ones(1, 1), torch.zeros(1))
    for _ in range(2):
        assert model.compute_batch_gradients(batch)["0.weight"].item() == 0.0
        assert model.evaluate(batch)["loss"] == (4.0, 1.0)


def test_a_layer_put_in_evaluation_mode_before_stays_in_it() -> None:
    module = with_batch_norm()
    module[1].eval()
    model = TorchModel(module)
    for _ in range(2):
        model.compute_batch_gradients(class_batch())
        model.evaluate(class_batch())
    assert module[1].num_batches_tracked == 0
    model.compute_batch_gradients(class_batch())
    assert module.training


def test_a_module_given_in_evaluation_mode_is_trained_in_training_mode() -> None:
    module = with_batch_norm().eval()
    TorchModel(module).compute_batch_gradients(class_batch())
    assert module[1].num_batches_tracked == 1


# -- weights -------------------------------------------------------------------------------


def test_weights_hold_parameters_and_buffers_in_the_order_of_the_state_dict() -> None:
    module = with_batch_norm()
    model = TorchModel(module)
    weights = model.get_weights()
    assert weights.names == tuple(module.state_dict())
    assert weights["1.num_batches_tracked"].dtype == torch.int64
    buffers = ("1.running_mean", "1.running_var", "1.num_batches_tracked")
    assert model.shared_names == (*model.get_weights(trainable=True).names, *buffers)


def test_training_changes_the_buffers_in_the_weights() -> None:
    model = TorchModel(with_batch_norm())
    before = model.get_weights()
    model.compute_batch_gradients(class_batch())
    after = model.get_weights()
    assert after["1.num_batches_tracked"] == 1
    assert not torch.equal(after["1.running_mean"], before["1.running_mean"])


def test_buffers_that_are_not_persistent_stay_at_home() -> None:
    module = classifier()
    module.register_buffer("scratch", torch.zeros(2), persistent=False)
    assert "scratch" not in TorchModel(module).get_weights()


def test_a_buffer_that_the_module_binds_anew_is_read_as_it_is_now() -> None:
    class Counting(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 3)
            self.register_buffer("count", torch.zeros(()))

        def forward(self, inputs: Tensor) -> Tensor:
            self.count = self.count + 1
            return super().forward(inputs)

    model = TorchModel(Counting())
    model.compute_batch_gradients(class_batch())
    assert model.get_weights()["count"] == 1


def test_weights_are_copied_out_and_in() -> None:
    model = TorchModel(one_weight(1.0), "mse")
    weights = model.get_weights()
    weights.mul_(5.0)
    assert model.get_weights()["weight"].item() == 1.0
    model.set_weights(weights)
    weights.mul_(5.0)
    assert model.get_weights()["weight"].item() == 5.0


def test_setting_weights_writes_into_the_memory_of_the_module() -> None:
    module = with_batch_norm()
    places = {name: tensor.data_ptr() for name, tensor in module.state_dict().items()}
    other = TorchModel(with_batch_norm(seed=1)).get_weights()
    model = TorchModel(module)
    model.set_weights(other)
    assert model.get_weights() == other
    assert {name: tensor.data_ptr() for name, tensor in module.state_dict().items()} == places


def test_trainable_weights_can_be_set_alone_in_any_order() -> None:
    model, other = TorchModel(with_batch_norm()), TorchModel(with_batch_norm(seed=1))
    model.compute_batch_gradients(class_batch())
    buffers = model.get_weights().select(model.shared_names[-3:])
    weights = other.get_weights(trainable=True)
    model.set_weights(weights.select(reversed(weights.names)), trainable=True)
    assert model.get_weights(trainable=True) == weights
    assert model.get_weights().select(model.shared_names[-3:]) == buffers


class WithViews(nn.Module):
    """Holds a view of its weight and a list of its parameters, as torch's LSTM does."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, 1))
        self.view = self.weight.detach()[:1]
        self.parts = [self.weight]

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ self.weight[:1].T + 0 * self.view


def test_attributes_that_share_the_memory_of_weights_follow_these() -> None:
    module = WithViews()
    model = TorchModel(module, "mse")
    model.set_weights(Vector({"weight": torch.ones(2, 1)}))
    assert module.view.tolist() == [[1.0]]
    assert module.parts[0] is module.weight


def test_an_averaged_count_is_rounded_to_the_nearest_integer() -> None:
    model = TorchModel(with_batch_norm())
    weights = model.get_weights()
    model.set_weights(weights | Vector({"1.num_batches_tracked": torch.tensor(2.9999998)}))
    assert model.get_weights()["1.num_batches_tracked"] == 3


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"weigth": torch.zeros(1, 1)}, r"missing \['weight'\], unknown \['weigth'\]"),
        ({"weight": torch.zeros(2, 1)}, r"'weight' has shape \[2, 1\], the model's is \[1, 1\]"),
        ({"weight": torch.zeros(1)}, r"'weight' has shape \[1\], the model's is \[1, 1\]"),
    ],
)
def test_weights_and_updates_that_do_not_fit_are_named_and_change_nothing(weights, message) -> None:
    model = TorchModel(one_weight(3.0), "mse")
    with pytest.raises(VectorError, match=f"weights.*{message}"):
        model.set_weights(Vector(weights))
    with pytest.raises(VectorError, match=f"updates.*{message}"):
        model.apply_updates(Vector(weights))
    assert model.get_weights()["weight"].item() == 3.0


def test_updates_are_added_in_place_to_the_trainable_weights() -> None:
    module = classifier()
    module[0].requires_grad_(False)
    model, place = TorchModel(module), module[2].weight.data_ptr()
    before = model.get_weights()
    updates = before.select(model.shared_names) * 0 + 1.0
    model.apply_updates(updates.select(reversed(updates.names)))
    assert model.get_weights() == before | (before.select(model.shared_names) + 1.0)
    assert module[2].weight.data_ptr() == place


def test_a_step_along_the_negative_gradient_is_that_of_sgd() -> None:
    """y = w x, w = 1, x = 2, t = 0: gradient 2 * 2 * 2 = 8, so w becomes 1 - 0.1 * 8 = 0.2."""
    model = TorchModel(one_weight(), "mse")
    batch = Batch(torch.tensor([[2.0]]), torch.tensor([0.0]))
    model.apply_updates(model.compute_batch_gradients(batch) * -0.1)
    # 0.1 is not a float32; the error is one rounding of 0.8.
    assert model.get_weights()["weight"].item() == pytest.approx(0.2, abs=1e-7)


def test_scaled_updates_have_the_bits_of_torchs_own_sgd() -> None:
    ours, theirs = classifier(), classifier()
    theirs.load_state_dict(ours.state_dict())
    gradients = [torch.randn_like(parameter) for parameter in theirs.parameters()]
    for parameter, gradient in zip(theirs.parameters(), gradients, strict=True):
        parameter.grad = gradient.clone()
    torch.optim.SGD(theirs.parameters(), lr=0.3, foreach=True).step()
    model = TorchModel(ours)
    names = model.get_weights(trainable=True).names
    model.apply_scaled_updates(Vector(dict(zip(names, gradients, strict=True))), -0.3)
    assert model.get_weights() == TorchModel(theirs).get_weights()


def test_a_delta_is_start_minus_end_with_counts_as_float64() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model = TorchModel(module)
    start = model.get_weights()
    model.set_weights(start.map(lambda tensor: tensor + 1))
    delta = model.compute_delta(start)
    assert delta.names == model.shared_names
    assert delta["1.num_batches_tracked"].dtype == torch.float64
    assert torch.equal(delta["1.num_batches_tracked"], torch.tensor(-1.0, dtype=torch.float64))
    assert torch.equal(delta["0.bias"], start["0.bias"] - (start["0.bias"] + 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_have_float32_gradients_steps_and_deltas(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module = nn.Linear(4, 3).to(dtype)
    model = TorchModel(module, "mse")
    start = model.get_weights()
    gradients = model.compute_batch_gradients(Batch(torch.randn(6, 4).to(dtype), torch.zeros(6, 3)))
    model.apply_scaled_updates(gradients, -0.3)
    for name, parameter in module.named_parameters():
        assert gradients[name].dtype == torch.float32
        stepped = start[name].float() - 0.3 * gradients[name]
        torch.testing.assert_close(parameter.detach(), stepped.to(dtype))
        delta = model.compute_delta(start)[name]
        assert torch.equal(delta, start[name].float() - parameter.detach().float())


def test_half_precision_gradients_are_clipped_by_norms_that_float16_cannot_hold() -> None:
    """The one example's gradient is (60000, 60000), its norm 84853; clipped to norm 1."""
    module = nn.Linear(2, 1, bias=False).half()
    nn.init.zeros_(module.weight)
    model = TorchModel(module, lambda outputs, targets: outputs.squeeze(1))
    batch = Batch(torch.full((1, 2), 60000.0, dtype=torch.float16), torch.zeros(1))
    clipped = model.compute_batch_gradients(batch, max_norm=1.0)["weight"]
    torch.testing.assert_close(clipped, torch.full((1, 2), 2**-0.5))


def test_a_mask_of_infinities_or_of_booleans_has_a_delta_of_zero() -> None:
    module = nn.Linear(2, 2)
    module.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    module.register_buffer("kept", torch.tensor([True, False]))
    module.register_buffer("seed", torch.tensor(2**62 + 1))
    model = TorchModel(module, "mse")
    delta = model.compute_delta(model.get_weights())
    assert delta["mask"].tolist() == delta["kept"].tolist() == [0.0, 0.0]
    assert delta["seed"].item() == 0.0


def test_a_count_above_2_to_the_53_has_an_exact_delta() -> None:
    module = nn.Linear(2, 2)
    module.register_buffer("count", torch.tensor([2**62 + 1]))
    model = TorchModel(module, "mse")
    start = model.get_weights()
    module.count += 3
    assert model.compute_delta(start)["count"].tolist() == [-3.0]


def test_complex_buffers_stay_as_they_are_built_and_are_not_averaged() -> None:
    module = nn.Linear(2, 2)
    module.register_buffer("phases", torch.tensor([1j, 2 + 1j]))
    model = TorchModel(module, "mse")
    assert model.shared_names == ("weight", "bias")
    assert model.get_weights()["phases"].tolist() == [1j, 2 + 1j]


@pytest.mark.parametrize(
    ("dtype", "is_trained", "message"),
    [
        (torch.complex64, True, r"'odd' is torch.complex64, .* real and imaginary parts"),
        (torch.float8_e4m3fn, True, r"'odd' is torch.float8_e4m3fn, but trained weights must"),
        (torch.complex128, False, r"'odd' is torch.complex128, but weights and buffers must be"),
        (torch.uint16, False, r"'odd' is torch.uint16, but weights and buffers must be"),
    ],
)
def test_weights_of_other_types_are_refused_by_name(
    dtype: torch.dtype, is_trained: bool, message: str
) -> None:
    module = nn.Linear(2, 2)
    module.odd = nn.Parameter(torch.zeros(2).to(dtype), requires_grad=is_trained)
    with pytest.raises(ConfigError, match=message):
        TorchModel(module, "mse")


# -- evaluation ----------------------------------------------------------------------------


def test_evaluation_returns_the_sums_of_loss_and_metrics() -> None:
    """Logits are [0, 0] twice: the loss is log 2 each, and the first class is predicted."""
    model = TorchModel(nn.Linear(2, 2, bias=False), metrics=["accuracy", ("top-k", {"k": 2})])
    sums = model.evaluate(Batch(torch.zeros(2, 2), torch.tensor([0, 1])))
    assert sums["accuracy"] == (1.0, 2.0)
    assert sums["top-2"] == (2.0, 2.0)
    # float32 logarithm: relative error 1e-7.
    assert sums["loss"] == (pytest.approx(2 * 0.693147180559945, rel=1e-6), 2.0)


@pytest.mark.parametrize("weighted", [False, True])
def test_sums_over_the_parts_of_a_batch_add_up_to_those_of_the_whole(weighted: bool) -> None:
    whole = class_batch(7, weighted=weighted)
    model = TorchModel(classifier(), metrics=["accuracy", "top-k"])
    parts = [
        model.evaluate(Batch(*(None if t is None else t[cut] for t in whole))) for cut in PARTS
    ]
    for key, (total, weight) in model.evaluate(whole).items():
        # Losses are float32: matrix products of other sizes round differently, 1e-7 of 1 each.
        assert sum(part[key][0] for part in parts) == pytest.approx(total, rel=1e-5)
        assert sum(part[key][1] for part in parts) == pytest.approx(weight, rel=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_parts_of_a_batch_are_evaluated_in_one_call_as_each_is_alone(weighted: bool) -> None:
    batch, module = class_batch(7, weighted=weighted), classifier()
    calls: list[int] = []
    module.register_forward_hook(lambda _, inputs, outputs: calls.append(len(outputs)))
    parts = TorchModel(module, metrics=["accuracy"]).evaluate_parts(batch, [1, 4, 2])
    assert calls == [7]
    for part, cut in zip(parts, PARTS, strict=True):
        outputs, targets = module(batch.inputs[cut]), batch.targets[cut]
        weights = torch.ones(len(targets)) if batch.sample_weights is None else batch[2][cut]
        losses = F.cross_entropy(outputs, targets, reduction="none") * weights
        right = (outputs.argmax(dim=1) == targets) * weights
        expected = {"loss": losses.sum().item(), "accuracy": right.sum().item()}
        # float32: matrix products of other sizes round differently.
        assert {key: total for key, (total, _) in part.items()} == pytest.approx(expected, rel=1e-6)
        assert [weight for _, weight in part.values()] == pytest.approx([weights.sum().item()] * 2)


@dataclass(frozen=True)
class Span(Metric):
    """What is no sum over examples: the largest output less the smallest."""

    name: ClassVar[str] = "span-of-a-test"

    def sums(
        self, outputs: Tensor, targets: Tensor, sample_weights: Tensor | None = None
    ) -> tuple[float, float]:
        return (outputs.max() - outputs.min()).item(), 1.0


@pytest.mark.parametrize("what", ["a metric's own sums", "statistics of the batch"])
def test_parts_are_evaluated_one_by_one_if_examples_are_mixed(what: str) -> None:
    batch, module = class_batch(7), classifier()
    if what == "statistics of the batch":
        module = nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False), module)
        model = TorchModel(module)
    else:
        model = TorchModel(module, metrics=[Span()])
    alone = [model.evaluate(Batch(batch.inputs[cut], batch.targets[cut])) for cut in PARTS[1:]]
    rest = Batch(batch.inputs[1:], batch.targets[1:])
    assert model.evaluate_parts(rest, [4, 2]) == alone


def test_sample_weights_weight_the_sums() -> None:
    model = TorchModel(one_weight(1.0), "mse", metrics=["mae"])
    batch = Batch(torch.tensor([[1.0], [3.0]]), torch.zeros(2), torch.tensor([0.5, 2.0]))
    assert model.evaluate(batch) == {"loss": (0.5 * 1 + 2 * 9, 2.5), "mae": (0.5 * 1 + 2 * 3, 2.5)}


def test_evaluation_changes_no_weight_and_tracks_no_gradient() -> None:
    model = TorchModel(with_batch_norm())
    before = model.get_weights()
    model.evaluate(class_batch())
    assert model.get_weights() == before


@pytest.mark.parametrize(
    ("loss", "metric"),
    [("cross-entropy", "accuracy"), ("mse", "mae"), ("bce-with-logits", "accuracy")],
)
def test_a_loss_brings_the_metric_that_suits_it(loss: str, metric: str) -> None:
    assert [m.key for m in TorchModel(one_weight(), loss).metrics] == [metric]
    assert TorchModel(one_weight(), loss, metrics=[]).metrics == ()


# -- errors and surroundings ---------------------------------------------------------------


def test_a_loss_that_is_already_a_mean_is_a_clear_error() -> None:
    model = TorchModel(one_weight(), lambda outputs, targets: (outputs[:, 0] - targets).mean())
    with pytest.raises(ConfigError, match=r"returned \[\] for targets of shape \[2\].*shape \[2\]"):
        model.compute_batch_gradients(Batch(torch.ones(2, 1), torch.zeros(2)))


def test_sample_weights_of_another_shape_are_an_error() -> None:
    batch = class_batch(2)._replace(sample_weights=torch.ones(2, 1))
    with pytest.raises(DataError, match=r"have shape \[2, 1\], but there are 2 examples"):
        TorchModel(classifier()).compute_batch_gradients(batch)


def test_a_module_without_trainable_parameters_is_refused() -> None:
    with pytest.raises(ConfigError, match="Linear has no parameter to train"):
        TorchModel(nn.Linear(2, 2).requires_grad_(False))


def test_lazy_layers_and_sparse_gradients_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"'0.weight' has no shape yet"):
        TorchModel(nn.Sequential(nn.LazyLinear(2)))
    with pytest.raises(ConfigError, match="layer '0' has sparse gradients"):
        TorchModel(nn.Sequential(nn.Embedding(3, 2, sparse=True)))


def test_a_model_moves_to_a_device_with_its_loss() -> None:
    loss = nn.CrossEntropyLoss(weight=torch.ones(3))
    model = TorchModel(with_batch_norm(), loss)
    assert model.device == torch.device("cpu")
    assert model.to("meta") is model
    assert model.device == torch.device("meta")
    assert {t.device.type for t in model.get_weights().tensors} == {"meta"}
    assert model.loss.function.weight.device == torch.device("meta")
    batch = Batch(torch.zeros(2, 4, device="meta"), torch.zeros(2, device="meta").long())
    assert model.compute_batch_gradients(batch)["0.weight"].device == torch.device("meta")


def test_a_pickled_model_computes_the_same() -> None:
    model = TorchModel(with_batch_norm(), ("cross-entropy", {"label_smoothing": 0.1}))
    restored = pickle.loads(pickle.dumps(model))
    assert isinstance(restored, Model)
    batch = class_batch()
    assert restored.compute_batch_gradients(batch) == model.compute_batch_gradients(batch)
    restored.apply_updates(restored.get_weights(trainable=True))
    assert restored.get_weights(trainable=True) == model.get_weights(trainable=True) * 2


class LeavingThingsBehind(nn.Linear):
    def __init__(self) -> None:
        super().__init__(2, 1)
        self.register_buffer("mean", torch.zeros(2), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        self.mean = self.mean + inputs
        self.last = inputs
        return super().forward(inputs)


def test_tensors_that_vmap_leaves_in_a_module_are_reset() -> None:
    """It can be neither read nor compared."""
    module = LeavingThingsBehind()
    model = TorchModel(module, "mse")
    torch.vmap(module)(torch.ones(3, 2))
    model.held.restore()
    assert torch.equal(module.mean, torch.zeros(2))
    assert "last" not in vars(module)
