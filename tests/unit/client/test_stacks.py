"""Clients trained in a stack get the numbers that each gets alone.

One client at a time is the reference; it is tested against plain PyTorch in
``test_client_and_server.py``. Stacks add up in another order, so numbers agree up to a few units in
the last place of float32, which a few steps of training may make some ten times larger: hence the
relative tolerance of 2e-5, and as much absolutely for numbers near zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from simfl.aggregation import Mean, Median, TreeSum
from simfl.client import ClientHost, ClientRecipe, LocalWork
from simfl.data import Examples, FederatedDataset
from simfl.errors import ClientError, NonFiniteUpdateError
from simfl.messages import Broadcast, Chunk, ChunkResult, Partial
from simfl.models import (
    CNN28,
    CNN32,
    MLP,
    Batch,
    Logistic,
    ModelSpec,
    PythonModel,
    ResNet,
    StackedModel,
    TorchModel,
    data_shape,
)
from simfl.models.losses import as_loss
from simfl.models.stacked_layers import batch_by_hand
from simfl.optimizer import (
    Context,
    Optimizer,
    OptiModule,
    State,
    list_optim_modules,
    list_optim_regularizers,
)
from simfl.sampling import Choice
from simfl.states import Dropped, Kept, KeptState
from simfl.vector import Vector
from tests.unit.client.client_cases import changed, client_section

Result: TypeAlias = ChunkResult[Partial, KeptState]

CLOSE: dict[str, float] = {"rtol": 2e-5, "atol": 2e-5}


def dataset(sizes: list[int], shape: tuple[int, ...] = (6,), classes: int = 3) -> FederatedDataset:
    """Give each client so many random examples."""
    rng = np.random.default_rng(0)
    num = sum(sizes)
    inputs = rng.normal(size=(num, *shape)).astype(np.float32)
    targets = rng.integers(classes, size=num)
    targets[:classes] = np.arange(classes)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    return FederatedDataset(Examples(inputs, targets), rng.permutation(num), offsets, offsets[1:])


def recipe(data: FederatedDataset, *, stack: int = 1, **changes: Any) -> ClientRecipe:
    made = ClientRecipe(
        spec=MLP(hidden=(5,)),
        shape=data_shape(data.train.inputs, data.train.targets),
        loss=as_loss("cross-entropy"),
        metrics=None,
        optimizer=Optimizer(lrate=0.1),
        aggregator=Mean(),
        work=client_section(LocalWork(epochs=2, batch_size=4)),
        seed=7,
        stack=stack,
    )
    return changed(made, **changes)


def train(
    data: FederatedDataset,
    *,
    stack: int,
    clients: tuple[int, ...] = (0, 1, 2, 3, 4),
    aux: dict[str, Any] | None = None,
    states: Any = None,
    round: int = 1,
    **changes: Any,
) -> Result:
    """Train a cohort."""
    made = recipe(data, stack=stack, **changes)
    host = ClientHost(made, data)
    torch.manual_seed(0)
    weights = made.build_model().get_weights()
    broadcast = Broadcast(round, weights, aux or {})
    chunk = Chunk(round, 0, clients, len(clients))
    return host.train_chunk(chunk, broadcast, states or [None] * len(clients))


def whole(result: Result) -> Any:
    """Return what the chunk of the whole cohort has contributed."""
    (contribution,) = result.partial.nodes.values()
    return contribution


def kept(result: Result) -> list[Any]:
    """Return each client's state, None where it has none."""
    return [one.state if isinstance(one, Kept) else None for one in result.states.values()]


def assert_same(stacked: Result, single: Result) -> None:
    one, other = whole(stacked), whole(single)
    assert_close(one.total, other.total)
    assert_close(one.aux, other.aux)
    assert one.weight == other.weight
    for name, value in one.sums.items():
        assert value == pytest.approx(other.sums[name], rel=2e-5), name
    assert list(stacked.states) == list(single.states)
    assert_close(kept(stacked), kept(single))
    ours, theirs = stacked.report.clients, single.report.clients
    for column in ("client", "num_examples", "num_steps"):
        assert getattr(ours, column).tolist() == getattr(theirs, column).tolist()
    for column in ("train_loss", "first_loss", "last_loss", "delta_norm"):
        np.testing.assert_allclose(getattr(ours, column), getattr(theirs, column), rtol=2e-5)


def assert_close(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, Vector):
        assert one.names == other.names
        for name, tensor in one.items():
            torch.testing.assert_close(tensor, other[name], **CLOSE)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_close(one[key], other[key])
    elif isinstance(one, tuple | list):
        for left, right in zip(one, other, strict=True):
            assert_close(left, right)
    elif hasattr(one, "__dataclass_fields__"):
        assert_close(vars(one), vars(other))
    elif isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, other, **CLOSE)
    else:
        assert one == pytest.approx(other)


RAGGED = [11, 9, 9, 4, 3]
"""Steps of two epochs in batches of 4: 6, 6, 6, 2, 2, each with short last batches."""


@pytest.mark.parametrize("stack", [2, 4, 8])
def test_ragged_clients_are_stacked_to_the_numbers_of_one_at_a_time(stack: int) -> None:
    data = dataset(RAGGED)
    assert_same(train(data, stack=stack), train(data, stack=1))


def test_clients_of_one_length_and_without_a_short_batch_are_stacked_too() -> None:
    data = dataset([8] * 5)
    assert_same(train(data, stack=8), train(data, stack=1))


MODULES = [
    (name, {}) for name, cls in list_optim_modules().items() if cls.__module__.startswith("simfl.")
]
MODULES += [(name, {"bias_correction": False, "eps": 0.01}) for name in ("adam", "yogi")]
REGULARIZERS = [
    n for n, c in list_optim_regularizers().items() if c.__module__.startswith("simfl.")
]
AUX = {
    "scaffold-client": lambda like: {"scaffold": {"state": like * 0.01}},
    "scaffold-server": lambda like: {"scaffold": {"delta": like * 0.01, "num_new": 1.0}},
}


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m[0])
def test_every_module_is_stacked_over_two_rounds_with_what_clients_keep(module: Any) -> None:
    """In round 2 client 5 is new, next to four that have kept states."""
    data = dataset([*RAGGED, 3])
    like = recipe(data).build_model().get_weights()
    options: dict[str, Any] = {"optimizer": Optimizer(0.02, modules=[module])}
    options["aux"] = AUX[module[0]](like) if module[0] in AUX else {}

    def two_rounds(stack: int) -> list[Result]:
        first = train(data, stack=stack, **options)
        known = [*kept(first)[:4], None]
        clients = (0, 1, 2, 3, 5)
        again = train(data, stack=stack, clients=clients, states=known, round=2, **options)
        return [first, again]

    for stacked, single in zip(two_rounds(4), two_rounds(1), strict=True):
        assert_same(stacked, single)


@pytest.mark.parametrize("regularizer", REGULARIZERS)
def test_every_regularizer_is_stacked(regularizer: str) -> None:
    data = dataset(RAGGED)
    optimizer = Optimizer(0.1, regularizers=[(regularizer, {"alpha": 0.3})], w_decay=0.01)
    assert_same(
        train(data, stack=4, optimizer=optimizer), train(data, stack=1, optimizer=optimizer)
    )


def test_rates_by_a_clients_own_steps_are_stacked() -> None:
    """In the second round clients stand at 6, 6, 6, 2 and 2 steps."""
    data = dataset(RAGGED)
    rate = ("exponential", {"base": 0.2, "factor": 0.7, "unit": "step"})
    optimizer = Optimizer(rate, w_decay=rate, modules=["momentum"])
    results = {}
    for stack in (1, 4):
        first = train(data, stack=stack, optimizer=optimizer)
        assert [state.num_steps for state in kept(first)] == [6, 6, 6, 2, 2]
        results[stack] = train(data, stack=stack, optimizer=optimizer, states=kept(first), round=2)
    assert_same(results[4], results[1])


ZOO: list[tuple[ModelSpec, tuple[int, ...]]] = [
    (Logistic(), (6,)),
    (MLP(hidden=(7, 5), activation="gelu"), (2, 3)),
    (MLP(hidden=(7,), dropout=0.3), (6,)),
    (CNN28(), (8, 8)),
    (CNN32(), (3, 8, 8)),
    (ResNet(width=8, groups=4), (3, 8, 8)),
]


@pytest.mark.parametrize(("spec", "shape"), ZOO, ids=[spec.name for spec, _ in ZOO])
def test_every_model_of_the_zoo_is_stacked(spec: ModelSpec, shape: tuple[int, ...]) -> None:
    """Dropout included. The LSTM has no batched form: see ``test_stacking.py``."""
    data = dataset([5, 4, 3], shape)
    options: dict[str, Any] = {"spec": spec, "clients": (0, 1, 2)}
    options["work"] = LocalWork(epochs=1, batch_size=2)
    assert_same(train(data, stack=4, **options), train(data, stack=1, **options))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_each_examples_gradient_is_clipped_in_a_stack(dropout: float) -> None:
    data = dataset(RAGGED)
    spec, free = MLP(hidden=(7, 5), dropout=dropout), LocalWork(epochs=2, batch_size=4)
    options: dict[str, Any] = {"spec": spec, "work": replace(free, sclip=0.5)}
    clipped = train(data, stack=1, **options)
    assert_same(train(data, stack=4, **options), clipped)
    unclipped = whole(train(data, stack=1, spec=spec, work=free)).total
    assert float(whole(clipped).total.norm()) < 0.8 * float(unclipped.norm())


def chain() -> nn.Sequential:
    """Make a chain with every kind of layer, several rows an example, and a frozen bias."""
    module = nn.Sequential(
        nn.Sequential(nn.Linear(6, 5), nn.ReLU(inplace=True)),
        nn.Linear(5, 5, bias=False),
        nn.SiLU(inplace=True),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(10, 3),
    )
    module[-1].bias.requires_grad_(False)
    return module


def twice() -> nn.Sequential:
    """Make a chain that has a layer twice."""
    layer = nn.Linear(6, 6)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Flatten(), nn.Linear(12, 3))


@pytest.mark.parametrize("make", [chain, twice], ids=["chain", "a layer twice"])
def test_a_chain_batched_by_hand_has_the_gradients_that_vmap_finds(
    make: Callable[[], nn.Sequential],
) -> None:
    """torch.func is the reference, of three clients with four examples; the last is half there."""
    torch.manual_seed(0)
    module = make()
    model = TorchModel(module, "cross-entropy")
    stack = StackedModel(model, 3)
    stack.begin(model.get_weights(), 3)
    stack.apply_updates(stack.get_weights().map(torch.randn_like))
    by = torch.tensor([[1.0] * 4, [1.0] * 4, [2.0, 2.0, 0.0, 0.0]])
    batch = Batch(torch.randn(3, 4, 2, 6), torch.randint(3, (3, 4)), by)

    def loss(own: dict[str, Tensor], inputs: Tensor, targets: Tensor, by: Tensor) -> Tensor:
        outputs = torch.func.functional_call(module, own, (inputs,))
        return (nn.functional.cross_entropy(outputs, targets, reduction="none") * by).mean()

    before = stack.get_weights()
    assert batch_by_hand(module) is not None
    found = torch.func.vmap(torch.func.grad_and_value(loss))(dict(before.items()), *batch[:3])
    expected, losses = Vector(found[0], stacked=True), found[1]
    ours, gradients = stack.compute_loss_and_gradients(batch)
    torch.testing.assert_close(ours, losses)
    assert_close(gradients, expected)


@pytest.mark.parametrize(
    "spec", [MLP(hidden=(7,)), ResNet(width=8, groups=4)], ids=["dense", "convolutions"]
)
def test_a_stack_in_bfloat16_has_each_clients_own_gradients(spec: ModelSpec) -> None:
    """Those of torch's autocast for one client at a time, up to the roundings of its products."""
    data = dataset([4, 4], (3, 8, 8))
    batch = Batch(
        torch.tensor(data.train.inputs).unflatten(0, (2, 4)),
        torch.tensor(data.train.targets).unflatten(0, (2, 4)),
    )
    model = recipe(data, spec=spec, precision="bf16").build_model()
    stack = StackedModel(model, 2)
    stack.begin(model.get_weights(), 2)
    losses, gradients = stack.compute_loss_and_gradients(batch)
    for client, mine in enumerate(gradients.unstack()):
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model.module(batch.inputs[client])
        loss = nn.functional.cross_entropy(outputs.float(), batch.targets[client])
        own = torch.autograd.grad(loss, list(model.trainable.values()))
        # bfloat16 has 8 bits: a product is off by 2^-9 of itself.
        assert losses[client].item() == pytest.approx(loss.item(), rel=2**-8)
        expected = Vector(dict(zip(model.trainable, own, strict=True)))
        assert float((mine - expected).norm() / expected.norm()) < 2**-5


def test_a_chain_with_several_rows_an_example_is_clipped_as_each_client_alone() -> None:
    torch.manual_seed(0)
    module = chain()
    for layer in module.modules():  # those that work in place are left to one client at a time
        if hasattr(layer, "inplace"):
            layer.inplace = False
    model = TorchModel(module, "cross-entropy")
    stack = StackedModel(model, 3)
    assert model.clips_by_norms
    stack.begin(model.get_weights(), 3)
    batch = Batch(torch.randn(3, 4, 2, 6), torch.randint(3, (3, 4)))
    losses, gradients = stack.compute_loss_and_gradients(batch, 0.3)
    for client, mine in enumerate(gradients.unstack()):
        own = Batch(batch.inputs[client], batch.targets[client])  # type: ignore[index]
        loss, expected = model.compute_loss_and_gradients(own, 0.3)
        torch.testing.assert_close(losses[client], loss)
        assert_close(mine, expected)


def test_a_layer_that_is_there_twice_is_not_clipped_in_a_stack() -> None:
    assert not TorchModel(twice(), "cross-entropy").clips_by_norms


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Conv1d(3, 3, 1)),
        nn.Sequential(nn.Flatten(2), nn.Linear(6, 5)),
        nn.Sequential(nn.Linear(6, 5), nn.Softmax(dim=1)),
        nn.utils.parametrizations.weight_norm(nn.Linear(6, 5)),
    ],
    ids=["convolution", "another flattening", "not element-wise", "parametrised"],
)
def test_what_is_not_known_layer_by_layer_is_left_to_vmap(module: nn.Module) -> None:
    assert batch_by_hand(module) is None


CHANGES: dict[str, Callable[[nn.Sequential], Any]] = {
    "after the call": lambda m: m[0].register_forward_hook(lambda *_: None),
    "before the call": lambda m: m[0].register_forward_pre_hook(lambda *_: None),
    "on the way back": lambda m: m[0].register_full_backward_hook(lambda *_: None),
    "before the way back": lambda m: m[0].register_full_backward_pre_hook(lambda *_: None),
    "on a gradient": lambda m: m[0].weight.register_hook(lambda gradient: gradient),
    "forward": lambda m: setattr(m[0], "forward", lambda inputs: inputs),
    "forward of the chain": lambda m: setattr(m, "forward", lambda inputs: inputs),
    "a further weight": lambda m: m.register_parameter("scale", nn.Parameter(torch.ones(1))),
    "a further layer": lambda m: m[0].add_module("adapter", nn.Linear(2, 2)),
    "no parameter": lambda m: vars(m[0]).update(weight=m[0]._parameters.pop("weight").detach()),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_a_layer_that_is_not_as_its_class_has_it_is_not_batched_by_hand(
    change: Callable[[nn.Sequential], Any],
) -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    assert batch_by_hand(module) is not None
    change(module)
    assert batch_by_hand(module) is None


def test_a_hook_on_all_modules_is_seen_too() -> None:
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert batch_by_hand(nn.Sequential(nn.Linear(2, 2))) is None
    finally:
        handle.remove()


def test_robust_rules_see_every_client_of_a_stack() -> None:
    data = dataset(RAGGED)
    stacked, single = (whole(train(data, stack=s, aggregator=Median())) for s in (4, 1))
    assert [weight for _, weight in stacked.total] == [weight for _, weight in single.total]
    for (ours, _), (theirs, _) in zip(stacked.total, single.total, strict=True):
        assert_close(ours, theirs)


@dataclass(frozen=True)
class ClippedMean(Mean):
    """Scales each delta to a norm of 0.01 at most."""

    name: ClassVar[str] = "clipped-mean-of-a-test-of-stacks"

    def lift(self, delta: Vector, weight: float) -> Vector:
        return super().lift(delta.mul_(0.01 / max(float(delta.norm()), 0.01)), weight)


def test_a_rule_derived_from_the_mean_lifts_each_client_of_a_stack() -> None:
    stacked, single = (train(dataset(RAGGED), stack=s, aggregator=ClippedMean()) for s in (4, 1))
    assert_same(stacked, single)
    assert float(whole(stacked).total.norm()) <= 0.01 * sum(RAGGED)


@dataclass(frozen=True)
class Poison(OptiModule):
    """Makes client 1's gradients NaN."""

    name: ClassVar[str] = "poison-of-a-test"

    def update(self, gradients: Vector, state: State, context: Context) -> tuple[Vector, State]:
        poison = [float("nan") if client == 1 else 1.0 for client in context.clients]
        scale = torch.tensor(poison) if gradients.stacked else poison[0]
        return gradients * scale, state


def test_an_update_that_is_not_finite_is_dropped_from_its_stack_alone() -> None:
    data = dataset(RAGGED)
    options: dict[str, Any] = {"optimizer": Optimizer(0.1, modules=["momentum", Poison()])}
    options["on_nonfinite"] = "drop"
    stacked = train(data, stack=8, **options)
    assert stacked.report.clients.dropped == {1: "not finite"}
    assert [type(state) for state in stacked.states.values()] == [Kept, Dropped, *[Kept] * 3]
    assert stacked.report.keeping == (0, 2, 3, 4)
    single = train(data, stack=1, **options)
    assert_close(whole(stacked).total, whole(single).total)
    assert whole(stacked).weight == 11 + 9 + 4 + 3
    assert whole(stacked).sums["clients"] == 4


class OwnMLP(nn.Module):
    """A dense model that is no chain, and so left to vmap."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.output = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.output(self.hidden(inputs).relu())


@pytest.mark.parametrize("spec", [MLP(hidden=(5,)), PythonModel(path=f"{__name__}:OwnMLP")])
@pytest.mark.parametrize("sclip", [None, 0.5])
@pytest.mark.parametrize("bad", [0, 3])
def test_infinite_examples_do_not_reach_the_rest_of_the_stack(
    spec: ModelSpec, sclip: float | None, bad: int
) -> None:
    """0 times infinite is NaN, and short batches are filled up with examples of weight 0."""
    if sclip and spec.name == "python":
        pytest.skip("examples' gradients are clipped in stacks of dense chains alone")
    data = dataset(RAGGED)
    data.train.inputs[data.train_rows(bad)] = np.inf
    options: dict[str, Any] = {"spec": spec, "on_nonfinite": "drop"}
    options["work"] = LocalWork(epochs=2, batch_size=4, sclip=sclip)
    stacked, single = (train(data, stack=s, **options) for s in (8, 1))
    assert stacked.report.clients.dropped == single.report.clients.dropped == {bad: "not finite"}
    assert_close(whole(stacked).total, whole(single).total)
    good = [client for client in range(5) if client != bad]
    for column in ("train_loss", "delta_norm"):
        ours, theirs = (getattr(r.report.clients, column)[good] for r in (stacked, single))
        np.testing.assert_allclose(ours, theirs, rtol=2e-5)


@dataclass(frozen=True)
class Sharing(OptiModule):
    """Scales step n by the n-th of the factors that arrive; shares NaN as a number at client 1."""

    name: ClassVar[str] = "sharing-of-a-test"

    def process_aux_var(self, state: State, aux: dict[str, Any]) -> State:
        return {"factors": torch.arange(1.0, 7.0) * aux["unit"]}

    def init(self, like: Vector) -> State:
        return {"client": torch.tensor(0)}

    def update(self, gradients: Vector, state: State, context: Context) -> tuple[Vector, State]:
        clients = torch.tensor(context.clients if gradients.stacked else context.clients[0])
        scaled = gradients * state["factors"][..., context.step - 1]
        return scaled, {**state, "client": clients}

    def collect_aux_var(self, state: State) -> dict[str, Any]:
        share = torch.where(state["client"] == 1, float("nan"), 2.0)
        return {"share": share if share.dim() else share.item()}


@pytest.mark.parametrize("stack", [1, 8])
def test_a_number_that_is_nan_is_left_out_like_a_vector(stack: int) -> None:
    """And a tensor that auxiliary variables put into the state is each client's own in a stack."""
    options: dict[str, Any] = {"optimizer": Optimizer(0.1, modules=[Sharing()])}
    options |= {"aux": {"sharing-of-a-test": {"unit": 0.1}}, "on_nonfinite": "drop"}
    result = train(dataset(RAGGED), stack=stack, **options)
    assert result.report.clients.dropped == {1: "not finite"}
    assert whole(result).aux == {"sharing-of-a-test": {"share": 4 * 2.0}}
    assert_close(whole(result).total, whole(train(dataset(RAGGED), stack=1, **options)).total)


def test_an_update_that_is_not_finite_ends_the_run_with_its_clients_name() -> None:
    options: dict[str, Any] = {"optimizer": Optimizer(0.1, modules=[Poison()])}
    with pytest.raises(NonFiniteUpdateError, match="client 1 sent"):
        train(dataset(RAGGED), stack=8, **options)


@dataclass(frozen=True)
class Choosy(OptiModule):
    """Remembers how many steps there were, if there were three at least."""

    name: ClassVar[str] = "choosy-of-a-test"

    def init(self, like: Vector) -> State:
        return {"count": torch.zeros((), dtype=torch.int64)}

    def update(self, gradients: Vector, state: State, context: Context) -> tuple[Vector, State]:
        count = state["count"] + 1
        return gradients / count, {"count": count}

    def between_rounds(self, state: State) -> State:
        return state if int(state["count"]) >= 3 else {}


def test_each_client_of_a_stack_decides_for_itself_whether_it_keeps_anything() -> None:
    """Clients have 6, 6, 6, 2 and 2 steps; in the second round 2, the same, and one is new."""
    data = dataset([*RAGGED, 3])
    options: dict[str, Any] = {"optimizer": Optimizer(0.1, modules=[Choosy()])}
    rounds = {}
    for stack in (1, 4):
        first = train(data, stack=stack, **options)
        assert first.report.keeping == (0, 1, 2)
        known = [*kept(first)[:4], None]
        clients = (0, 1, 2, 3, 5)
        again = train(data, stack=stack, clients=clients, states=known, round=2, **options)
        rounds[stack] = first, again
    for stacked, single in zip(rounds[4], rounds[1], strict=True):
        assert_same(stacked, single)


@dataclass(frozen=True)
class Faulty(OptiModule):
    """Raises for client 3."""

    name: ClassVar[str] = "faulty-of-a-test"

    def update(self, gradients: Vector, state: State, context: Context) -> tuple[Vector, State]:
        if 3 in context.clients:
            raise ValueError("no luck")
        return gradients, state


@dataclass(frozen=True)
class Unstackable(OptiModule):
    """Raises in a stack only."""

    name: ClassVar[str] = "unstackable-of-a-test"

    def update(self, gradients: Vector, state: State, context: Context) -> tuple[Vector, State]:
        if gradients.stacked:
            raise ValueError("one at a time, please")
        return gradients, state


def test_what_fails_in_a_stack_only_is_trained_one_at_a_time_with_a_warning() -> None:
    options: dict[str, Any] = {"optimizer": Optimizer(0.1, modules=[Unstackable()])}
    with pytest.warns(RuntimeWarning, match="fail together, but not one at a time: ValueError"):
        stacked = train(dataset(RAGGED), stack=8, **options)
    assert_same(stacked, train(dataset(RAGGED), stack=1))


def test_an_error_in_a_stack_is_told_of_the_client_that_raised_it() -> None:
    options: dict[str, Any] = {"optimizer": Optimizer(0.1, modules=[Faulty()])}
    with pytest.raises(ClientError, match="client 3 failed in round 1: ValueError: no luck"):
        train(dataset(RAGGED), stack=8, **options)
    dropped = train(dataset(RAGGED), stack=8, on_failure="drop", **options)
    assert dropped.report.clients.dropped == {3: "ValueError: no luck"}
    assert whole(dropped).sums["clients"] == 4


def test_clients_without_examples_take_no_part_in_a_stack_but_are_counted() -> None:
    data = dataset([6, 5, 0, 0])
    clients = (0, 1, 2, 3)
    assert whole(train(data, stack=4, clients=clients)).sums["clients"] == 4
    stacked, single = (train(data, stack=s, clients=clients) for s in (4, 1))
    assert_close(whole(stacked).total, whole(single).total)
    assert stacked.report.clients.num_steps.tolist() == [4, 4, 0, 0]


@pytest.mark.parametrize("stack", [1, 2, 8])
def test_clients_make_the_steps_that_were_drawn_and_are_dropped_without_any(stack: int) -> None:
    """Clients of 9, 8, 7, 6 and 0 examples. One without examples does nothing, as ever."""
    data, work = dataset([9, 8, 7, 6, 0]), LocalWork(epochs=Choice(values=(0, 1)), batch_size=4)
    made = recipe(data, stack=stack, work=work)
    broadcast = Broadcast(1, made.build_model().get_weights(), {})
    chunk = Chunk(1, 0, (2, 0, 1, 3, 4), 5, num_steps=(7, 3, 1, 0, 0))
    result = ClientHost(made, data).train_chunk(chunk, broadcast, [None] * 5)
    assert result.report.clients.num_steps.tolist() == [7, 3, 1, 0, 0]
    assert result.report.clients.dropped == {3: "straggler"}
    expected = [
        train(data, stack=1, clients=(client,), work=LocalWork(steps=steps, batch_size=4))
        for client, steps in ((2, 7), (0, 3), (1, 1))
    ]
    total = sum((whole(one).total for one in expected[1:]), whole(expected[0]).total)
    for name, value in total.items():
        torch.testing.assert_close(whole(result).total[name], value, rtol=1e-4, atol=1e-5)
    assert whole(result).weight == 9 + 8 + 7
    assert whole(result).sums["clients"] == 4


def test_chunks_of_whole_stacks_give_the_bits_of_one_chunk() -> None:
    data = dataset([9, 8, 8, 7, 6, 6, 5, 4, 4, 3, 2])
    made = recipe(data, stack=2)
    host = ClientHost(made, data)
    broadcast = Broadcast(1, made.build_model().get_weights(), {})
    clients = tuple(range(11))
    (expected,) = host.train_chunk(
        Chunk(1, 0, clients, 11), broadcast, [None] * 11
    ).partial.nodes.values()
    tree = TreeSum(11, host._merge)
    for start in (6, 0, 10, 4):
        part = clients[start : {0: 4, 4: 6, 6: 10, 10: 11}[start]]
        result = host.train_chunk(Chunk(1, start, part, 11), broadcast, [None] * len(part))
        for node, contribution in result.partial.nodes.items():
            tree.add_node(node, contribution)
    assert tree.result() == expected


def test_python_models_with_several_inputs_are_stacked() -> None:
    rng = np.random.default_rng(1)
    inputs = tuple(rng.normal(size=(20, 3)).astype(np.float32) for _ in range(2))
    targets = rng.integers(2, size=20)
    offsets = np.array([0, 8, 15, 20])
    data = FederatedDataset(Examples(inputs, targets), np.arange(20), offsets, offsets[1:])
    path = f"{__name__}:TwoInputs"
    options: dict[str, Any] = {"spec": PythonModel(path=path), "clients": (0, 1, 2)}
    assert_same(train(data, stack=4, **options), train(data, stack=1, **options))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return self.layer(one * other)
