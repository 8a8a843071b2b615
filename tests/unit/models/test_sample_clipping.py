"""Clipped gradients against a plain loop over the examples with torch.autograd.

Shapes: B examples.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from simfl.errors import ConfigError
from simfl.models import Batch, Dropout, ResNet, TorchModel, data_shape
from simfl.models.clipping import layers_with_norms
from simfl.vector import Vector

# The loop multiplies matrices of other shapes: sums of up to some 100 float32 products in another
# order differ by about 1e-6 of their terms.
CLOSE = {"rtol": 1e-4, "atol": 1e-6}


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(2, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.left(a) - self.right(b)


class LastStep(nn.Module):
    """A recurrent layer of the given kind, then a linear layer on its last step."""

    def __init__(self, recurrent: nn.Module) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.recurrent = recurrent
        self.output = nn.Linear(5, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.output(self.recurrent(self.embedding(tokens))[0][:, -1])


class Cell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.output = nn.GRUCell(4, 5), nn.Linear(5, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.output(self.cell(inputs))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def cnn() -> nn.Module:
    convolution, norm = nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4)
    return nn.Sequential(
        convolution, norm, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)
    )


def strided() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, stride=2, dilation=2, padding=1, bias=False),
        nn.GELU(),
        nn.Unflatten(1, (3, 1)),
        nn.Flatten(),
        nn.Linear(27, 3),
    )


def depthwise() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False),
        nn.ReLU6(),
        nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=4),
        nn.Flatten(),
        nn.Linear(72, 3),
    )


def patches() -> nn.Module:
    """One with four positions and 1,024 weights, which is dense on patches."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2),
        nn.AdaptiveAvgPool2d(3),
        nn.Conv2d(8, 32, 2),
        nn.Flatten(),
        nn.Linear(128, 3),
    )


def positions() -> nn.Module:
    """Tokens, with more positions than weights in one layer and fewer in the other."""
    return nn.Sequential(
        nn.Embedding(7, 2, padding_idx=0),
        nn.LayerNorm(2),
        nn.Linear(2, 2),
        nn.Tanh(),
        nn.Linear(2, 20),
        nn.Flatten(),
        nn.Linear(120, 3),
    )


def inputs_of(kind: str, num_examples: int, generator: torch.Generator) -> object:
    def normal(*shape: int) -> Tensor:
        return torch.randn(num_examples, *shape, generator=generator)

    return {
        "mlp": lambda: normal(4),
        "cell": lambda: normal(4),
        "renormalised": lambda: torch.randint(7, (num_examples,), generator=generator),
        "cnn": lambda: normal(1, 8, 8),
        "strided": lambda: normal(1, 8, 8),
        "depthwise": lambda: normal(1, 8, 8),
        "patches": lambda: normal(1, 8, 8),
        "positions": lambda: torch.randint(7, (num_examples, 6), generator=generator),
        "token": lambda: torch.randint(7, (num_examples,), generator=generator),
        "residual": lambda: normal(3, 8, 8),
        "lstm": lambda: torch.randint(7, (num_examples, 6), generator=generator),
        "gru": lambda: torch.randint(7, (num_examples, 6), generator=generator),
        "positional": lambda: (normal(4), normal(2)),
        "keyword": lambda: {"b": normal(2), "a": normal(4)},
    }[kind]()


MODULES = {
    "mlp": mlp,
    "cnn": cnn,
    "strided": strided,
    "depthwise": depthwise,
    "patches": patches,
    "positions": positions,
    "token": lambda: nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 3)),
    "residual": lambda: ResNet(width=4, groups=2, outputs=3).build(
        data_shape(np.zeros((3, 3, 8, 8), np.float32), np.arange(3))
    ),
    "lstm": lambda: LastStep(nn.LSTM(4, 5, 2, batch_first=True)),
    "gru": lambda: LastStep(nn.GRU(4, 5, batch_first=True)),
    "cell": Cell,
    "renormalised": lambda: nn.Sequential(nn.Embedding(7, 4, max_norm=1.0), nn.Linear(4, 3)),
    "positional": TwoInputs,
    "keyword": TwoInputs,
}


def make(kind: str, *, num_examples: int = 5, weighted: bool = False) -> tuple[nn.Module, Batch]:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    inputs = inputs_of(kind, num_examples, generator)
    targets = torch.randint(3, (num_examples,), generator=generator)
    weights = torch.rand(num_examples, generator=generator) * 3 if weighted else None
    return MODULES[kind](), Batch(inputs, targets, weights)


def row(inputs: object, b: int) -> object:
    if isinstance(inputs, dict):
        return {name: tensor[b : b + 1] for name, tensor in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(tensor[b : b + 1] for tensor in inputs)
    return inputs[b : b + 1]


def call(module: nn.Module, inputs: object) -> Tensor:
    if isinstance(inputs, dict):
        return module(**inputs)
    return module(*inputs) if isinstance(inputs, tuple) else module(inputs)


def trained(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def example_gradients(
    module: nn.Module, batch: Batch, loss: Callable[..., Tensor] = F.cross_entropy
) -> list[list[Tensor]]:
    gradients = []
    for b in range(len(batch.targets)):
        own = loss(call(module, row(batch.inputs, b)), batch.targets[b : b + 1])
        gradients.append(list(torch.autograd.grad(own, trained(module))))
    return gradients


def norm_of(gradients: list[Tensor]) -> float:
    return torch.cat([gradient.flatten() for gradient in gradients]).norm().item()


def clipped_by_a_loop(
    module: nn.Module,
    batch: Batch,
    max_norm: float,
    loss: Callable[..., Tensor] = F.cross_entropy,
) -> list[Tensor]:
    num_examples = len(batch.targets)
    totals = [torch.zeros_like(parameter) for parameter in trained(module)]
    for b, gradients in enumerate(example_gradients(module, batch, loss)):
        factor = min(1.0, max_norm / norm_of(gradients))
        weight = 1.0 if batch.sample_weights is None else batch.sample_weights[b].item()
        for total, gradient in zip(totals, gradients, strict=True):
            total += gradient * factor * weight / num_examples
    return totals


def median_norm(module: nn.Module, batch: Batch) -> float:
    """A bound that some of the examples exceed and others do not."""
    norms = sorted(norm_of(gradients) for gradients in example_gradients(module, batch))
    return norms[len(norms) // 2] * 0.99


@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("kind", MODULES)
def test_clipped_gradients_are_those_of_a_loop_over_the_examples(kind: str, weighted: bool) -> None:
    module, batch = make(kind, weighted=weighted)
    max_norm = median_norm(module, batch)
    expected = clipped_by_a_loop(copy.deepcopy(module), batch, max_norm)
    gradients = TorchModel(module).compute_batch_gradients(batch, max_norm)
    for got, tensor in zip(gradients.tensors, expected, strict=True):
        torch.testing.assert_close(got, tensor, **CLOSE)


WITH_NORMS = ["mlp", "cnn", "strided", "depthwise", "patches", "positions", "token", "residual"]


@pytest.mark.parametrize("kind", MODULES)
def test_norms_are_found_without_gradients_where_all_layers_are_known(kind: str) -> None:
    assert bool(layers_with_norms(make(kind)[0])) == (kind in WITH_NORMS)


class Centred(nn.Module):
    """Subtracts the mean of the batch."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs - inputs.mean(dim=0)


@pytest.mark.parametrize(
    "layer",
    [Centred(), nn.ReLU(inplace=True), nn.Flatten(0), nn.Softmax(dim=0), nn.Dropout()],
    ids=["code of others", "in place", "flattens examples", "unknown", "draws"],
)
def test_norms_are_not_found_where_a_layer_may_mix_examples(layer: nn.Module) -> None:
    assert not layers_with_norms(nn.Sequential(nn.Linear(4, 3), layer, nn.Linear(3, 3)))


def test_a_loss_of_others_has_one_example_at_a_time() -> None:
    """It mixes a batch's examples, and squares the loss of one that is alone."""

    def mixing(outputs: Tensor, targets: Tensor) -> Tensor:
        losses = F.cross_entropy(outputs, targets, reduction="none")
        return losses * losses.mean()

    module, batch = make("mlp")
    expected = clipped_by_a_loop(module, batch, 0.5, lambda o, t: F.cross_entropy(o, t) ** 2)
    gradients = TorchModel(module, mixing).compute_batch_gradients(batch, 0.5)
    for got, tensor in zip(gradients.tensors, expected, strict=True):
        torch.testing.assert_close(got, tensor, **CLOSE)


@pytest.mark.parametrize("kind", WITH_NORMS)
def test_some_weights_may_be_frozen(kind: str) -> None:
    """Every second tensor of each layer, so biases here and weights there."""
    module, batch = make(kind)
    for index, parameter in enumerate(module.parameters()):
        parameter.requires_grad_(index % 2 == 0)
    expected = clipped_by_a_loop(module, batch, 0.5)
    gradients = TorchModel(module).compute_batch_gradients(batch, 0.5)
    for got, tensor in zip(gradients.tensors, expected, strict=True):
        torch.testing.assert_close(got, tensor, **CLOSE)


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_the_size_of_the_micro_batches_changes_only_the_rounding(size: int) -> None:
    module, batch = make("mlp", weighted=True)
    expected = clipped_by_a_loop(module, batch, 0.5)
    model = TorchModel(module, microbatch_size=size)
    for got, tensor in zip(
        model.compute_batch_gradients(batch, 0.5).tensors, expected, strict=True
    ):
        torch.testing.assert_close(got, tensor, **CLOSE)


def test_a_micro_batch_holds_one_example_at_least() -> None:
    with pytest.raises(ConfigError, match="microbatch_size is 0, but must be 1 or more"):
        TorchModel(mlp(), microbatch_size=0)


@pytest.mark.parametrize("max_norm", [1e-3, 0.1, 1.0])
def test_the_gradient_of_one_example_never_exceeds_the_bound(max_norm: float) -> None:
    module, batch = make("mlp", num_examples=1)
    model = TorchModel(module)
    unclipped = model.compute_batch_gradients(batch).norm().item()
    clipped = model.compute_batch_gradients(batch, max_norm).norm().item()
    # The norm of some 60 float32 numbers: relative error 1e-6.
    assert clipped == pytest.approx(min(unclipped, max_norm), rel=1e-5)


def test_a_bound_by_hand_scales_one_example_and_leaves_the_other() -> None:
    """y = w1 x1 + w2 x2 - t with loss y itself: the gradient of an example is its x.

    x = (3, 4) has norm 5 and is scaled by 2/5 to (1.2, 1.6), weight 1; x = (1, 0) stays, weight 3.
    Mean: ((1.2, 1.6) + 3 * (1, 0)) / 2 = (2.1, 0.8). A weight is applied after clipping.
    """
    module = nn.Linear(2, 1, bias=False)
    model = TorchModel(module, lambda outputs, targets: outputs[:, 0] - targets)
    inputs = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    batch = Batch(inputs, torch.zeros(2), torch.tensor([1.0, 3.0]))
    gradients = model.compute_batch_gradients(batch, max_norm=2.0)["weight"]
    # float32 roundings of numbers of order 1.
    torch.testing.assert_close(gradients, torch.tensor([[2.1, 0.8]]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("max_norm", [None, 0.0, 0])
def test_no_bound_is_off(max_norm: float | None) -> None:
    module, batch = make("mlp")
    model = TorchModel(module)
    assert model.compute_batch_gradients(batch, max_norm) == model.compute_batch_gradients(batch)


@pytest.mark.parametrize("kind", ["mlp", "lstm"])
def test_a_bound_that_nothing_exceeds_leaves_gradients_and_loss_alone(kind: str) -> None:
    module, batch = make(kind, weighted=True)
    model = TorchModel(module)
    plain_loss, plain = model.compute_loss_and_gradients(batch)
    loss, clipped = model.compute_loss_and_gradients(batch, 1e6)
    torch.testing.assert_close(loss, plain_loss, **CLOSE)
    for name in plain:
        torch.testing.assert_close(clipped[name], plain[name], **CLOSE)


def test_an_example_without_gradient_stays_without() -> None:
    model = TorchModel(nn.Linear(2, 1, bias=False), "mse")
    batch = Batch(torch.zeros(3, 2), torch.ones(3))
    assert model.compute_batch_gradients(batch, 1.0) == Vector({"weight": torch.zeros(1, 2)})


def test_a_negative_bound_is_an_error() -> None:
    module, batch = make("mlp")
    with pytest.raises(ConfigError, match=r"sclip is -1.0, but a norm is positive"):
        TorchModel(module).compute_batch_gradients(batch, -1.0)


def test_frozen_and_unused_parameters_are_handled_as_without_clipping() -> None:
    module, batch = make("mlp")
    module[0].requires_grad_(False)
    module.register_parameter("unused", nn.Parameter(torch.ones(2)))
    gradients = TorchModel(module).compute_batch_gradients(batch, 0.1)
    assert gradients.names == ("unused", "2.weight", "2.bias")
    assert gradients["unused"].tolist() == [0.0, 0.0]
    # Each of 5 examples is bounded by 0.1, so their mean is; 1e-6 for rounding.
    assert 0 < gradients.norm().item() <= 0.1 + 1e-6


def test_tied_weights_have_their_whole_gradient_clipped_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.output = nn.Embedding(3, 2), nn.Linear(2, 3, bias=False)
            self.output.weight = self.embedding.weight

        def forward(self, tokens: Tensor) -> Tensor:
            return self.output(self.embedding(tokens))

    torch.manual_seed(0)
    module, batch = Tied(), Batch(torch.tensor([0, 1, 2, 2]), torch.tensor([1, 1, 0, 2]))
    max_norm = median_norm(module, batch)
    expected = clipped_by_a_loop(module, batch, max_norm)
    gradients = TorchModel(module).compute_batch_gradients(batch, max_norm)
    assert gradients.names == ("embedding.weight",)
    torch.testing.assert_close(gradients["embedding.weight"], expected[0], **CLOSE)


def test_each_example_drops_units_of_its_own() -> None:
    """Were the mask shared, 64 equal examples would all keep or all drop the one input."""
    module = nn.Sequential(nn.Dropout(0.5), nn.Linear(1, 1, bias=False))
    model = TorchModel(module, lambda outputs, targets: outputs[:, 0] - targets)
    torch.manual_seed(0)
    batch = Batch(torch.ones(64, 1), torch.zeros(64))
    kept_share = model.compute_batch_gradients(batch, 100.0)["1.weight"].item() / 2
    assert 0.2 < kept_share < 0.8


def test_each_example_has_a_mask_of_its_own_where_norms_are_found_without_gradients() -> None:
    """Of 64 equal examples x = 1 with y = w x and loss y², those that are kept see x = 2.

    Their gradients are 2 w 2² = 8 w, the others' 0.
    """
    model = TorchModel(nn.Sequential(Dropout(0.5), nn.Linear(1, 1, bias=False)), "mse")
    assert model.clips_by_norms
    model.set_weights(Vector({"1.weight": torch.ones(1, 1)}))
    model.seed_step(torch.tensor(3), 0)
    batch = Batch(torch.ones(64, 1), torch.zeros(64))
    kept_share = model.compute_batch_gradients(batch, 100.0)["1.weight"].item() / 8
    assert 0.2 < kept_share < 0.8


def masked_by_a_hook(module: nn.Sequential, mask: Tensor) -> None:
    module[0].weight.register_hook(lambda gradient: gradient * mask)


def masked_on_the_way_back(module: nn.Sequential, mask: Tensor) -> None:
    """Mask whole rows of the first layer by the gradients that come to it through the second."""
    module[1].register_full_backward_pre_hook(lambda _, outer: (outer[0] * mask[:, 0],))


def test_a_forward_that_holds_on_to_its_weights_is_clipped() -> None:
    """The gradient of x w, with x = 3, is clipped to 1."""
    layer = nn.Linear(1, 1, bias=False)
    weight = layer.weight
    layer.forward = lambda inputs: inputs @ weight.T  # type: ignore[method-assign]
    model = TorchModel(nn.Sequential(layer), lambda outputs, targets: outputs[:, 0])
    gradients = model.compute_batch_gradients(Batch(torch.full((2, 1), 3.0), torch.zeros(2)), 1.0)
    assert gradients["0.weight"].item() == 1.0


@pytest.mark.parametrize("hook", [masked_by_a_hook, masked_on_the_way_back])
@pytest.mark.parametrize("microbatch_size", [None, 4])
def test_hooks_on_gradients_change_each_examples_own_before_it_is_clipped(
    hook: Callable[[nn.Sequential, Tensor], None], microbatch_size: int | None
) -> None:
    """The reference is the module without hooks, whose gradients are masked one by one."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    mask = (torch.arange(8) % 2.0).unsqueeze(1).expand(8, 4)
    inputs, targets = torch.randn(6, 4), torch.randint(3, (6,))
    expected = [torch.zeros_like(weight) for weight in plain.parameters()]
    for x, y in zip(inputs, targets, strict=True):
        loss = F.cross_entropy(plain(x.unsqueeze(0)), y.unsqueeze(0))
        gradients = list(torch.autograd.grad(loss, list(plain.parameters())))
        gradients[0] = gradients[0] * mask
        if hook is masked_on_the_way_back:
            gradients[1] = gradients[1] * mask[:, 0]
        norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        for total, gradient in zip(expected, gradients, strict=True):
            total += gradient * min(1.0, 0.3 / float(norm)) / 6
    hooked = copy.deepcopy(plain)
    hook(hooked, mask)
    model = TorchModel(hooked, "cross-entropy", microbatch_size=microbatch_size)
    found = model.compute_batch_gradients(Batch(inputs, targets), 0.3)
    for ours, theirs in zip(found.tensors, expected, strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


def test_norms_are_found_without_gradients_of_layers_as_their_class_has_them_alone() -> None:
    """Further weights, too, would be passed over."""

    def names_of(change: Callable[[nn.Linear], None]) -> list[nn.Module]:
        module = mlp()
        change(module[0])
        return layers_with_norms(module)

    assert names_of(lambda layer: None)
    assert not names_of(lambda layer: layer.weight.register_hook(lambda gradient: gradient))
    assert not names_of(lambda layer: layer.register_full_backward_hook(lambda *_: None))
    assert not names_of(lambda layer: layer.register_forward_hook(lambda *_: None))
    assert not names_of(lambda layer: setattr(layer, "forward", lambda inputs: inputs))
    assert not names_of(
        lambda layer: layer.register_parameter("further", nn.Parameter(torch.ones(1)))
    )


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(8), nn.BatchNorm1d(8, track_running_stats=False)])
def test_batch_statistics_are_a_clear_error(layer: nn.Module) -> None:
    module = nn.Sequential(nn.Linear(4, 8), layer, nn.Linear(8, 3))
    _, batch = make("mlp")
    with pytest.raises(ConfigError, match=r"layer '1' \(BatchNorm1d\).*use GroupNorm"):
        TorchModel(module).compute_batch_gradients(batch, 1.0)


def test_batch_norm_with_frozen_statistics_can_be_clipped() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    module[1].eval()
    _, batch = make("mlp")
    expected = clipped_by_a_loop(copy.deepcopy(module), batch, 0.5)
    model = TorchModel(module)
    model.evaluate(batch)
    gradients = model.compute_batch_gradients(batch, 0.5)
    for got, tensor in zip(gradients.tensors, expected, strict=True):
        torch.testing.assert_close(got, tensor, **CLOSE)


def test_instance_norm_needs_its_own_statistics() -> None:
    tracking = nn.Sequential(nn.InstanceNorm1d(1, track_running_stats=True), nn.Linear(4, 3))
    batch = Batch(torch.randn(2, 1, 4), torch.zeros(2, 1, dtype=torch.int64))
    with pytest.raises(ConfigError, match=r"layer '0' \(InstanceNorm1d\)"):
        TorchModel(tracking).compute_batch_gradients(batch, 1.0)
    plain = nn.Sequential(nn.InstanceNorm1d(1), nn.Linear(4, 3))
    # The mean of two gradients of norm 0.1 at most; 1e-6 for rounding.
    assert TorchModel(plain).compute_batch_gradients(batch, 0.1).norm().item() <= 0.1 + 1e-6
