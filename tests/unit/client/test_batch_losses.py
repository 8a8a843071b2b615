"""Losses of a whole batch: several steps of a client's training, against the papers' formulas.

The references are loops in plain PyTorch on formulas written here from the papers. Steps are the
same arithmetic in another order, so float64 must agree to 1e-10 and float32 to 1e-6.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F  # noqa: N812

from simfl.aggregation import Mean
from simfl.client import ClientHost, ClientRecipe, LocalWork, choose_stack
from simfl.data import Examples, FederatedDataset
from simfl.errors import ConfigError
from simfl.messages import Broadcast, Chunk, ChunkResult, Partial
from simfl.models import (
    MLP,
    Batch,
    CrossEntropy,
    Dropout,
    Loss,
    PythonModel,
    TorchModel,
    as_loss,
    data_shape,
)
from simfl.optimizer import Optimizer
from simfl.states import KeptState
from simfl.vector import Vector
from tests.unit.client.client_cases import changed, client_section

Weights: TypeAlias = dict[str, Tensor]
Reference: TypeAlias = Callable[[Callable[..., Tensor], Weights, Batch, Tensor], Tensor]
"""(network, weights, batch, counts of the client's classes) -> the loss."""

CLASSES = 4
SIZES = (11, 6, 5, 3, 1)
"""The clients' examples: with batches of 4, most have a short last batch."""
LRATE = 0.5


class Network(nn.Module):
    """Two layers; the input of ``last`` is the representation."""

    def __init__(self, *, double: bool = False, share: float = 0.0) -> None:
        super().__init__()
        self.first = nn.Linear(6, 5)
        self.dropout = Dropout(share)
        self.last = nn.Linear(5, CLASSES)
        if double:
            self.double()

    def represent(self, inputs: Tensor) -> Tensor:
        return torch.tanh(self.first(inputs))

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.last(self.dropout(self.represent(inputs)))
        return outputs


def dataset(*, double: bool = False) -> FederatedDataset:
    """Return clients who each lack a class at least."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(sum(SIZES), 6))
    targets = np.concatenate([rng.integers(3, size=size) + i % 2 for i, size in enumerate(SIZES)])
    targets[:3] = np.arange(3)  # so that the first one has three of the four
    offsets = np.concatenate([[0], np.cumsum(SIZES)])
    examples = Examples(inputs.astype(np.float64 if double else np.float32), targets)
    return FederatedDataset(examples, np.arange(sum(SIZES)), offsets, offsets[1:])


def recipe(data: FederatedDataset, loss: Any, **changes: Any) -> ClientRecipe:
    arguments = {"double": data.train.inputs.dtype == np.float64}  # type: ignore[union-attr]
    made = ClientRecipe(
        spec=PythonModel(f"{__name__}:Network", arguments),
        shape=data_shape(data.train.inputs, data.train.targets),
        loss=as_loss(loss),
        metrics=(),
        optimizer=Optimizer(lrate=LRATE),
        aggregator=Mean(),
        work=client_section(LocalWork(epochs=2, batch_size=4)),
        seed=7,
        weighting="uniform",
    )
    return changed(made, **changes)


def train(
    data: FederatedDataset,
    made: ClientRecipe,
    clients: tuple[int, ...],
    states: Any = None,
) -> ChunkResult[Partial, KeptState]:
    host = ClientHost(made, data)
    broadcast = Broadcast(1, made.build_model().get_weights(), {})
    chunk = Chunk(1, 0, clients, len(clients))
    return host.train_chunk(chunk, broadcast, states or [None] * len(clients))


def total(result: ChunkResult[Partial, KeptState]) -> Vector:
    (contribution,) = result.partial.nodes.values()
    found: Vector = contribution.total
    return found


# -- the papers' formulas --------------------------------------------------------------------


def cross_entropy(network: Any, weights: Weights, batch: Batch, counts: Tensor) -> Tensor:
    return F.cross_entropy(network(weights, batch.inputs), batch.targets)


def sam(network: Any, weights: Weights, batch: Batch, counts: Tensor) -> Tensor:
    """Foret et al., 2021, Algorithm 1, with rho = 0.3."""
    loss = cross_entropy(network, weights, batch, counts)
    gradients = torch.autograd.grad(loss, list(weights.values()))
    norm = sum(float(gradient.square().sum()) for gradient in gradients) ** 0.5
    moved = {
        name: weight + 0.3 * gradient / norm
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
    }
    return cross_entropy(network, moved, batch, counts)


def fedlc(network: Any, weights: Weights, batch: Batch, counts: Tensor) -> Tensor:
    """Zhang et al., 2022: log(1 + sum of exp(f_i - f_y + margin(y, i)) over i), tau = 0.7."""
    losses = []
    for logits, target in zip(network(weights, batch.inputs), batch.targets, strict=True):
        others = [c for c in range(CLASSES) if c != target and counts[c] > 0]
        margins = [
            0.7 * (float(counts[target]) ** -0.25 - float(counts[c]) ** -0.25) for c in others
        ]
        gaps = [
            (logits[c] - logits[target] + m).exp() for c, m in zip(others, margins, strict=True)
        ]
        losses.append(torch.log1p(torch.stack(gaps).sum()) if gaps else 0.0 * logits.sum())
    return torch.stack(losses).mean()


def fedrs(network: Any, weights: Weights, batch: Batch, counts: Tensor) -> Tensor:
    """Li and Zhan, 2021: p_c = exp(a_c f_c) / sum of exp(a_j f_j), a = 0.4 for missing classes."""
    factors = torch.tensor([1.0 if count else 0.4 for count in counts])
    exponentials = (network(weights, batch.inputs) * factors).exp()
    shares = exponentials / exponentials.sum(dim=1, keepdim=True)
    return -shares[torch.arange(len(batch.targets)), batch.targets].log().mean()


def feddecorr(network: Any, weights: Weights, batch: Batch, counts: Tensor) -> Tensor:
    """Shi et al., 2023: beta / d^2 times the squared norm of K = z'z / B, beta = 0.6."""
    first = batch.inputs @ weights["first.weight"].T + weights["first.bias"]  # type: ignore[operator]
    features = torch.tanh(first)
    loss = cross_entropy(network, weights, batch, counts)
    if len(features) == 1:
        return loss
    centred = features - features.mean(dim=0)
    standard = centred / (centred**2).mean(dim=0).sqrt()
    correlations = standard.T @ standard / len(features)
    return loss + 0.6 / features.shape[1] ** 2 * (correlations**2).sum()


def distillation(network: Any, weights: Weights, batch: Batch, counts: Tensor) -> Tensor:
    """Hinton et al., 2015, temperature 2, strength 0.8; the teacher has the first weights."""
    student = F.log_softmax(network(weights, batch.inputs) / 2.0, dim=1)
    teacher = F.softmax(network(network.start, batch.inputs) / 2.0, dim=1)
    term = F.kl_div(student, teacher, reduction="batchmean")
    return cross_entropy(network, weights, batch, counts) + 0.8 * 4.0 * term


def fedntd(network: Any, weights: Weights, batch: Batch, counts: Tensor) -> Tensor:
    """Lee et al., 2022: the same without the true class's logit; temperature 2, strength 0.8."""
    is_other = F.one_hot(batch.targets, CLASSES) == 0
    student, teacher = (
        (network(w, batch.inputs)[is_other]).reshape(-1, CLASSES - 1) / 2.0
        for w in (weights, network.start)
    )
    term = F.kl_div(F.log_softmax(student, 1), F.softmax(teacher, 1), reduction="batchmean")
    return cross_entropy(network, weights, batch, counts) + 0.8 * 4.0 * term


def sam_of_fedlc(network: Any, weights: Weights, batch: Batch, counts: Tensor) -> Tensor:
    loss = fedlc(network, weights, batch, counts)
    gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    if norm == 0:  # there is a single class, whose probability is 1
        return fedlc(network, weights, batch, counts)
    moved = {
        name: weight + 0.1 * gradient / norm
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
    }
    return fedlc(network, moved, batch, counts)


CASES: dict[str, tuple[Any, Reference]] = {
    "sam": (("sam", {"rho": 0.3}), sam),
    "fedlc": (("fedlc", {"tau": 0.7}), fedlc),
    "fedrs": (("fedrs", {"alpha": 0.4}), fedrs),
    "feddecorr": (("feddecorr", {"layer": "last", "beta": 0.6}), feddecorr),
    "distillation": (("distillation", {"strength": 0.8, "temperature": 2.0}), distillation),
    "fedntd": (
        ("distillation", {"strength": 0.8, "temperature": 2.0, "not_true": True}),
        fedntd,
    ),
    "sam of fedlc": (("sam", {"rho": 0.1, "of": ("fedlc", {"tau": 0.7})}), sam_of_fedlc),
}


def steps_of(data: FederatedDataset, made: ClientRecipe, client: int, loss: Reference) -> Weights:
    """Train a client by a loop of gradient descent on a formula; return start minus end."""
    module = made.build_model().module
    start = {name: weight.detach().clone() for name, weight in module.named_parameters()}

    def network(weights: Weights, inputs: Tensor) -> Tensor:
        outputs: Tensor = functional_call(module, weights, (inputs,))
        return outputs

    network.start = start  # type: ignore[attr-defined]
    rows = data.train_rows(client)
    counts = torch.bincount(torch.from_numpy(data.train.targets[rows]), minlength=CLASSES)
    weights = start
    for rows_B in made.work.draw_batches(rows, seed=made.seed, round=1, client=client):
        inputs = torch.from_numpy(data.train.inputs[rows_B])  # type: ignore[call-overload,index]
        batch = Batch(inputs, torch.from_numpy(data.train.targets[rows_B]))
        leaves = {name: weight.clone().requires_grad_() for name, weight in weights.items()}
        gradients = torch.autograd.grad(loss(network, leaves, batch, counts), [*leaves.values()])
        pairs = zip(weights.items(), gradients, strict=True)
        weights = {name: weight - LRATE * gradient for (name, weight), gradient in pairs}
    return {name: start[name] - weight for name, weight in weights.items()}


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_a_client_takes_the_papers_steps(name: str, double: bool) -> None:
    loss, formula = CASES[name]
    data = dataset(double=double)
    made = recipe(data, loss)
    tolerance = 1e-10 if double else 1e-6
    for client in (0, 3, 4):
        found = total(train(data, made, (client,)))
        for weight, expected in steps_of(data, made, client, formula).items():
            torch.testing.assert_close(found[weight], expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("share", [0.0, 0.4])
@pytest.mark.parametrize("name", CASES)
def test_a_stack_of_unequal_clients_is_what_each_is_alone(name: str, share: float) -> None:
    data = dataset()
    made = recipe(data, CASES[name][0], spec=PythonModel(f"{__name__}:Network", {"share": share}))
    clients = (0, 1, 2, 3, 4)
    stacked, single = (train(data, replace(made, stack=n), clients) for n in (8, 1))
    for weight, tensor in total(single).items():
        torch.testing.assert_close(total(stacked)[weight], tensor, rtol=1e-5, atol=2e-6)
    assert choose_stack(8, made, data, cohort_size=5, uses_gpu=False).size == 8


@pytest.mark.parametrize("share", [0.0, 0.4])
@pytest.mark.parametrize("loss", ["fedlc", "fedrs", ("sam", {"of": "fedlc"}), "spread-of-a-test"])
def test_a_stack_of_dense_layers_is_what_each_client_is_alone(loss: Any, share: float) -> None:
    """Where only the loss is mapped over clients, and their layers are batched by hand."""
    data = dataset()
    made = recipe(data, loss, spec=MLP(hidden=(5,), dropout=share))
    assert choose_stack(8, made, data, cohort_size=5, uses_gpu=False).size == 8
    stacked, single = (train(data, replace(made, stack=n), (0, 1, 2, 3, 4)) for n in (8, 1))
    for weight, tensor in total(single).items():
        torch.testing.assert_close(total(stacked)[weight], tensor, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", CASES)
def test_bfloat16_trains_to_about_the_same_weights(name: str) -> None:
    data = dataset()
    made = recipe(data, CASES[name][0])
    exact = total(train(data, made, (0,)))
    for stack in (1, 2):
        rough = total(train(data, changed(made, precision="bf16", stack=stack), (0, 1)))
        both = total(train(data, changed(made, stack=stack), (0, 1)))
        # bfloat16 has 8 bits: a per cent of what is computed, in each of six steps.
        assert float((rough - both).norm()) < 0.1 * float(both.norm())
        assert exact.names == rough.names


@pytest.mark.parametrize("name", CASES)
def test_what_is_evaluated_is_the_loss_that_is_changed(name: str) -> None:
    data = dataset()
    batch = Batch(torch.from_numpy(data.train.inputs), torch.from_numpy(data.train.targets))  # type: ignore[arg-type]
    changed_model, plain = (
        recipe(data, loss).build_model() for loss in (CASES[name][0], "cross-entropy")
    )
    assert changed_model.evaluate(batch) == plain.evaluate(batch)
    assert changed_model.loss.default_metrics == ("accuracy",)


# -- what is special to one of them -----------------------------------------------------------


def test_batch_norm_follows_the_weights_and_not_those_nearby() -> None:
    module = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, CLASSES))
    model = TorchModel(module, ("sam", {"rho": 5.0}))
    batch = Batch(torch.randn(8, 6), torch.arange(8) % CLASSES)
    inputs = module[0](batch.inputs).detach()
    model.compute_loss_and_gradients(batch)
    torch.testing.assert_close(module[1].running_mean, 0.1 * inputs.mean(dim=0))
    assert module[1].num_batches_tracked == 1


def test_a_gradient_of_zero_moves_sam_nowhere() -> None:
    model = TorchModel(nn.Linear(2, 2), "sam")
    model.set_weights(model.get_weights().map(torch.zeros_like))
    batch = Batch(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1]))
    loss, gradients = model.compute_loss_and_gradients(batch)
    assert loss.item() == pytest.approx(np.log(2.0))
    assert not any(tensor.any() for tensor in gradients.tensors)


@pytest.mark.parametrize("constant", [0.0, 1.7])
def test_what_does_not_vary_counts_as_uncorrelated(constant: float) -> None:
    module = nn.Sequential(nn.Identity(), nn.Linear(3, 2))
    model = TorchModel(module, ("feddecorr", {"layer": "1", "beta": 9.0}))
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(7, 3, generator=generator)
    features[:, 1] = constant
    batch = Batch(features, torch.arange(7) % 2)
    loss, gradients = model.compute_loss_and_gradients(batch)
    plain = F.cross_entropy(module(features), batch.targets).item()
    correlations = np.corrcoef(features.numpy()[:, [0, 2]], rowvar=False)
    assert loss.item() == pytest.approx(plain + np.square(correlations).sum(), rel=1e-6)
    assert bool(gradients.is_finite())


def test_statistics_are_computed_once_for_each_client(monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset()
    made = recipe(data, "fedlc")
    host = ClientHost(made, data)
    seen: list[int] = []
    counted = type(made.loss).statistics

    def count(loss: Loss, model: TorchModel, batch: Batch) -> Any:
        seen.append(len(batch.targets))
        return counted(loss, model, batch)

    monkeypatch.setattr(type(made.loss), "statistics", count)
    weights = made.build_model().get_weights()
    for round in (1, 2):
        host.train_chunk(Chunk(round, 0, (0, 1), 2), Broadcast(round, weights, {}), [None] * 2)
    assert seen == [*SIZES[:2]]


# -- losses of one's own ----------------------------------------------------------------------


@dataclass(frozen=True)
class Spread(CrossEntropy):
    """Adds the variance of each output over the batch, in one of several ways."""

    name: ClassVar[str] = "spread-of-a-test"
    how: str = "weighted"

    def of_outputs(self, outputs: Any, batch: Batch, given: Mapping[str, Any]) -> Tensor:
        weights = batch.sample_weights
        if self.how == "branching" and outputs.sum() > 0:
            return outputs.sum() * 0.0
        if weights is None or self.how == "unweighted":
            weights = outputs.new_ones(len(outputs))
        centred = outputs - (weights[:, None] * outputs).mean(dim=0)
        variance = (weights[:, None] * centred.square()).mean()
        return self.mean(outputs, batch.targets, batch.sample_weights) + variance


def test_a_loss_of_ones_own_that_weights_examples_is_stacked() -> None:
    data = dataset()
    made = recipe(data, Spread())
    assert choose_stack(4, made, data, cohort_size=5, uses_gpu=False).note is None
    stacked, single = (train(data, replace(made, stack=n), (0, 1, 2, 3, 4)) for n in (8, 1))
    for weight, tensor in total(single).items():
        torch.testing.assert_close(total(stacked)[weight], tensor, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("unweighted", "gives a client other results in a stack than alone"),
        ("branching", "fails in a stack: RuntimeError: vmap: "),
    ],
)
def test_a_loss_of_ones_own_that_does_not_fit_a_stack_is_named(how: str, reason: str) -> None:
    data = dataset()
    choice = choose_stack(4, recipe(data, Spread(how=how)), data, cohort_size=5, uses_gpu=False)
    before = "clients are trained one at a time, not in stacks: loss 'spread-of-a-test' "
    assert choice.size == 1
    assert str(choice.note).startswith(before + reason)


def test_an_unknown_loss_within_another_is_tried_out_as_it_is_alone() -> None:
    def mixing(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs - outputs.mean(dim=0), targets, reduction="none")

    data = dataset()
    made = recipe(data, ("sam", {"of": as_loss(mixing)}))
    choice = choose_stack(4, made, data, cohort_size=5, uses_gpu=False)
    assert "depend on the other examples in the batch" in str(choice.note)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (("fedlc", {"of": "sam"}), r"fedlc: of is 'sam', which needs .* \[sam, \{of: fedlc\}\]"),
        (("fedlc", {"of": ("cross-entropy", {"label_smoothing": 0.1})}), "label_smoothing 0.1"),
        (("feddecorr", {"layer": "last", "of": "sam"}), r"feddecorr: of is 'sam'.*only 'sam'"),
        (("distillation", {"of": "sam"}), "distillation: of is 'sam'"),
        (("distillation", {"of": "mse"}), "of is 'mse', which compares one output with each"),
        (("fedrs", {"of": "bce-with-logits"}), "of is 'bce-with-logits'.*use cross-entropy"),
        (("sam", {"rho": 0.0}), "rho is 0.0"),
        (("sam", {"of": "crossentropy"}), "Did you mean 'cross-entropy'"),
    ],
)
def test_losses_that_do_not_fit_into_each_other_are_refused(loss: Any, message: str) -> None:
    with pytest.raises((ConfigError, KeyError), match=message):
        as_loss(loss)


def test_a_layer_that_the_model_does_not_have_is_named_with_those_that_it_has() -> None:
    data = dataset()
    model = recipe(data, ("feddecorr", {"layer": "head"})).build_model()
    with pytest.raises(ConfigError, match="no layer 'head'; it has 'first', 'dropout', 'last'"):
        model.compute_loss_and_gradients(Batch(torch.randn(2, 6), torch.tensor([0, 1])))
