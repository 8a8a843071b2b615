"""A client's round as an algorithm sees it: each verb against a loop in plain PyTorch or numpy.

Steps are the same arithmetic in another order, so float64 agrees to 1e-10.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from simfl.aggregation import Mean
from simfl.algorithms import Algorithm, FedAvg, Local, LocalOnly, Update
from simfl.client import ClientHost, ClientRecipe, LocalWork, choose_stack
from simfl.data import Examples, FederatedDataset
from simfl.errors import ClientError, ConfigError
from simfl.messages import Broadcast, Chunk, ChunkResult, Contribution, Partial
from simfl.models import ModelFunction, PythonModel, as_loss, data_shape
from simfl.optimizer import Optimizer
from simfl.states import Dropped, Kept, KeptState, State
from simfl.states.codec import decode_tree, encode_tree
from simfl.vector import Vector
from tests.unit.client.client_cases import changed, client_section

SIZES = (11, 9, 6, 5, 3)
"""The clients' examples, longest first; with batches of 4, most have a short last batch."""
LRATE = 0.25
SEED = 7


class Network(nn.Module):
    """Two layers in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 3)
        self.head = nn.Linear(3, 3)
        self.double()

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(torch.tanh(self.body(inputs)))
        return outputs


def dataset() -> FederatedDataset:
    rng = np.random.default_rng(1)
    num = sum(SIZES)
    inputs, targets = rng.normal(size=(num, 4)), rng.integers(3, size=num)
    offsets = np.concatenate([[0], np.cumsum(SIZES)])
    return FederatedDataset(Examples(inputs, targets), rng.permutation(num), offsets, offsets[1:])


DATA = dataset()


def recipe(algorithm: Algorithm, **changes: Any) -> ClientRecipe:
    made = ClientRecipe(
        spec=PythonModel(f"{__name__}:Network"),
        shape=data_shape(DATA.train.inputs, DATA.train.targets),
        loss=as_loss("cross-entropy"),
        metrics=None,
        optimizer=Optimizer(lrate=LRATE),
        aggregator=Mean(),
        work=client_section(LocalWork(epochs=2, batch_size=4)),
        seed=SEED,
        algorithm=algorithm,
    )
    return changed(made, **changes)


def start() -> Vector:
    return recipe(FedAvg()).build_model().get_weights()


def run(
    algorithm: Algorithm,
    *,
    stack: int = 1,
    round: int = 1,
    states: list[KeptState | None] | None = None,
    sent: State | None = None,
    clients: tuple[int, ...] = tuple(range(len(SIZES))),
    **changes: Any,
) -> ChunkResult[Partial, KeptState]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # a stack that is trained one by one
        return ClientHost(recipe(algorithm, stack=stack, **changes), DATA).train_chunk(
            Chunk(round, 0, clients, len(clients)),
            Broadcast(round, start(), {}, sent or {}),
            states or [None] * len(clients),
        )


def root(result: ChunkResult[Partial, KeptState]) -> Contribution:
    roots = [node for node in result.partial.nodes.values() if node is not None]
    (one,) = roots
    return one


def kept(result: ChunkResult[Partial, KeptState]) -> list[KeptState | None]:
    return [one.state if isinstance(one, Kept) else None for one in result.states.values()]


def batches(client: int, *, seed: int = SEED, **work: Any) -> list[np.ndarray[Any, Any]]:
    drawn = LocalWork(**{"epochs": 2, **work}, batch_size=4)
    return drawn.draw_batches(DATA.train_rows(client), seed=seed, round=1, client=client)


def loss_of(weights: dict[str, Tensor], rows: np.ndarray[Any, Any]) -> Tensor:
    inputs = torch.from_numpy(DATA.train.inputs[rows])  # type: ignore[index, call-overload]
    outputs = functional_call(Network(), weights, (inputs,))
    targets = torch.from_numpy(DATA.train.targets[rows])
    return nn.functional.cross_entropy(outputs, targets)


def gradients(
    weights: dict[str, Tensor], rows: np.ndarray[Any, Any], loss: Callable[..., Tensor] = loss_of
) -> dict[str, Tensor]:
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in weights.items()}
    found = torch.autograd.grad(loss(leaves, rows), list(leaves.values()))
    return dict(zip(leaves, found, strict=True))


def assert_near(found: Vector, expected: dict[str, Tensor]) -> None:
    assert set(found.names) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-10, atol=1e-12)


def mean_delta(expected: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the sum of deltas, each times its client's examples, as the mean lifts them."""
    return {n: sum(s * d[n] for s, d in zip(SIZES, expected, strict=True)) for n in expected[0]}  # type: ignore[misc]


@dataclass(frozen=True)
class Proximal(Algorithm):
    """Two trainings: one with an added term, one of its own with other work, kept."""

    name: ClassVar[str] = "test-proximal"

    def init(self, weights: Vector) -> State:
        return {"v": weights * 1.5}

    def client(self, local: Local) -> tuple[Update, State]:
        v = local.train(
            local.kept["v"],
            phase="own",
            epochs=1,
            add=lambda v, w: (v - w) * 0.5,
            given=(local.weights,),
        )
        end = local.train(local.weights, only=local.names(["head"]))
        return Update(local.weights - end, sums={"n": local.num_examples, "v": v}), {"v": v}


@pytest.mark.parametrize("stack", [1, 4, 8])
def test_training_with_an_added_term_and_of_some_layers(stack: int) -> None:
    result = run(Proximal(), stack=stack)
    w = dict(start().items())
    deltas, owns = [], []
    for client in range(len(SIZES)):
        own = {name: tensor * 1.5 for name, tensor in w.items()}
        for rows in batches(client, seed=phase_seed("own"), epochs=1):
            g = gradients(own, rows)
            own = {n: own[n] - LRATE * (g[n] + 0.5 * (own[n] - w[n])) for n in own}
        owns.append(own)
        end = dict(w)
        for rows in batches(client):
            g = gradients(end, rows)
            end |= {n: end[n] - LRATE * g[n] for n in end if n.startswith("head")}
        deltas.append({n: w[n] - end[n] for n in w})
    assert_near(root(result).total, mean_delta(deltas))
    assert root(result).update_sums["n"] == sum(SIZES)
    assert_near(root(result).update_sums["v"], {n: sum(o[n] for o in owns) for n in w})  # type: ignore[misc]
    for state, own in zip(kept(result), owns, strict=True):
        assert state is not None
        assert_near(state.algorithm["v"], own)


def phase_seed(phase: str) -> int:
    from simfl.seeding import derive_seed

    return derive_seed(SEED, f"phase {phase}")


@dataclass(frozen=True)
class Anchored(Algorithm):
    """An objective of its own, with values of the client."""

    name: ClassVar[str] = "test-anchored"

    def client(self, local: Local) -> tuple[Update, State]:
        w = local.weights
        end = local.train(w, objective=self.objective, given=(w, local.num_examples))
        return Update(w - end, weight=1.0), {}

    @staticmethod
    def objective(model: ModelFunction, v: Any, batch: Any, w: Any, n: Any) -> Tensor:
        near: Tensor = sum(((v[name] - w[name]) ** 2).sum() for name in v)  # type: ignore[assignment]
        return model.loss(v, batch) + near / n


@pytest.mark.parametrize("stack", [1, 8])
def test_an_objective_is_differentiated_for_each_client(stack: int) -> None:
    result = run(Anchored(), stack=stack)
    w = dict(start().items())
    total = {n: torch.zeros_like(t) for n, t in w.items()}
    for client, size in enumerate(SIZES):

        def loss(v: dict[str, Tensor], rows: Any, size: int = size) -> Tensor:
            near = sum(((v[name] - w[name]) ** 2).sum() for name in v)
            return loss_of(v, rows) + near / size

        end = dict(w)
        for rows in batches(client):
            g = gradients(end, rows, loss)
            end = {n: end[n] - LRATE * g[n] for n in end}
        total = {n: total[n] + w[n] - end[n] for n in w}
    assert_near(root(result).total, total)
    assert root(result).weight == len(SIZES)


@dataclass(frozen=True)
class Passes(Algorithm):
    """Steps of its own, and sums over all examples; it sends no weights."""

    name: ClassVar[str] = "test-passes"
    uses_optimizer: ClassVar[bool] = False

    def client(self, local: Local) -> tuple[Update, State]:
        def step(carry: State, batch: Any, w: Vector) -> State:
            g = local.gradients(carry["v"], batch) - local.gradients(w, batch) * 0.5
            return {"v": carry["v"] - g * 0.1, "count": carry["count"] + 1}

        w = local.weights
        zero = torch.zeros_like(local.num_examples)
        end = local.scan(step, {"v": w, "count": zero}, given=(w,), steps=5)
        found = local.total(self.counts, w)
        sums = {"v": end["v"], "count": end["count"], "loss": local.loss(end["v"]), **found}
        return Update(sums=sums), {}

    @staticmethod
    def counts(model: ModelFunction, batch: Any, w: Any) -> dict[str, Tensor]:
        ones = nn.functional.one_hot(batch.targets, 3) * batch.sample_weights[:, None]
        losses = model.per_example(w, batch) * batch.sample_weights
        return {"classes": ones.sum(dim=0), "losses": losses.sum()}


@pytest.mark.parametrize("stack", [1, 4])
def test_steps_of_its_own_and_sums_over_all_examples(stack: int) -> None:
    sums = root(run(Passes(), stack=stack)).update_sums
    w = dict(start().items())
    ends, losses = [], 0.0
    for client in range(len(SIZES)):
        v = dict(w)
        for rows in batches(client, epochs=None, steps=5):
            g, other = gradients(v, rows), gradients(w, rows)
            v = {n: v[n] - 0.1 * (g[n] - 0.5 * other[n]) for n in v}
        ends.append(v)
        losses += float(loss_of(v, DATA.train_rows(client)))
    assert_near(sums["v"], {n: sum(v[n] for v in ends) for n in w})  # type: ignore[misc]
    assert sums["count"] == 5 * len(SIZES)
    assert sums["loss"] == pytest.approx(losses, rel=1e-10)
    rows = np.concatenate([DATA.train_rows(client) for client in range(len(SIZES))])
    assert sums["classes"].tolist() == np.bincount(DATA.train.targets[rows], minlength=3).tolist()
    each = [float(loss_of(w, DATA.train_rows(c))) * size for c, size in enumerate(SIZES)]
    assert sums["losses"] == pytest.approx(sum(each), rel=1e-10)


@pytest.mark.parametrize("stack", [1, 8])
def test_no_weights_are_sent(stack: int) -> None:
    contribution = root(run(Passes(), stack=stack))
    assert contribution.total is None
    vector = sum(t.nbytes for t in start().tensors)
    classes = contribution.update_sums["classes"].nbytes
    assert contribution.sums["bytes"] == len(SIZES) * (vector + classes)


@dataclass(frozen=True)
class Longer(Algorithm):
    """A phase whose work is in another order than the round's: all clients take equal steps."""

    name: ClassVar[str] = "test-longer"

    def init(self, weights: Vector) -> State:
        return {"id": torch.tensor(0), "v": weights}

    def client(self, local: Local) -> tuple[Update, State]:
        v = local.train(
            local.kept["v"],
            phase="own",
            epochs=1,
            add=lambda v, number: v * (0.01 * number),
            given=(local.clients,),
        )
        return Update(local.train_delta(local.weights)), {"id": local.clients, "v": v}


def test_a_phase_in_another_order_of_lengths() -> None:
    """Every client takes 3 steps, but goes through its examples in 1 to 3 in the phase."""
    work = LocalWork(steps=3, batch_size=4)
    clients = (4, 0, 2, 1)
    options: dict[str, Any] = {"work": work, "clients": clients}
    options["optimizer"] = Optimizer(lrate=LRATE, modules=["momentum"])
    singles, stacked = (run(Longer(), stack=stack, **options) for stack in (1, 4))
    assert [int(s.algorithm["id"]) for s in kept(stacked) if s] == list(clients)
    for round in (2, 3):
        assert_near(root(stacked).total, dict(root(singles).total.items()))
        for one, other in zip(kept(singles), kept(stacked), strict=True):
            assert one is not None
            assert other is not None
            assert_near(other.algorithm["v"], dict(one.algorithm["v"].items()))
            own = one.phases["own"].modules[0]["velocity"]
            assert_near(other.phases["own"].modules[0]["velocity"], dict(own.items()))
        singles, stacked = (
            run(Longer(), stack=stack, round=round, states=kept(result), **options)
            for stack, result in ((1, singles), (4, stacked))
        )


def test_new_and_returning_clients_meet_in_a_stack() -> None:
    first = run(Longer(), clients=(0, 1), optimizer=Optimizer(LRATE, modules=["momentum"]))
    states = [*kept(first), None, None]
    options: dict[str, Any] = {"clients": (0, 1, 2, 3), "round": 2, "states": states}
    options["optimizer"] = Optimizer(LRATE, modules=["momentum"])
    one, other = (run(Longer(), stack=stack, **options) for stack in (1, 4))
    assert_near(root(other).total, dict(root(one).total.items()))
    for a, b in zip(kept(one), kept(other), strict=True):
        assert a is not None
        assert b is not None
        assert_near(b.algorithm["v"], dict(a.algorithm["v"].items()))


def test_kept_states_go_through_the_codec_of_checkpoints() -> None:
    states = kept(run(Longer(), stack=4, optimizer=Optimizer(LRATE, modules=["momentum"])))
    skeleton, tensors = encode_tree(states)
    restored = decode_tree(json.loads(json.dumps(skeleton)), tensors)
    assert restored == states
    assert restored[0].phases["own"].modules[0].keys() == {"velocity"}


@dataclass(frozen=True)
class Diverges(Algorithm):
    """Sends a sum that is not finite of client 2."""

    name: ClassVar[str] = "test-diverges"

    def init(self, weights: Vector) -> State:
        return {"v": weights}

    def client(self, local: Local) -> tuple[Update, State]:
        bad = torch.where(local.clients == 2, torch.inf, 1.0)
        return Update(local.train_delta(local.weights), sums={"bad": bad}), {"v": local.weights}


@pytest.mark.parametrize("stack", [1, 8])
def test_a_client_whose_sums_are_not_finite_is_dropped(stack: int) -> None:
    result = run(Diverges(), stack=stack, on_nonfinite="drop")
    assert isinstance(result.states[2], Dropped)
    assert isinstance(result.states[1], Kept)
    assert root(result).update_sums["bad"] == len(SIZES) - 1
    assert root(result).weight == sum(SIZES) - SIZES[2]


@dataclass(frozen=True)
class Breaks(Algorithm):
    """Breaks its contract in one of several ways."""

    name: ClassVar[str] = "test-breaks"
    how: str = ""

    def init(self, weights: Vector) -> State:
        return {"v": weights}

    def client(self, local: Local) -> tuple[Update, State]:
        delta = local.train_delta(local.weights)
        if self.how == "twice":
            local.train(local.weights)
        if self.how == "unknown":
            delta = Vector({"other": torch.zeros(1)})
        if self.how == "layer":
            local.names(["haed"])
        if self.how == "name":
            local.train(local.weights, phase="own", only="body")
        if self.how == "shape":
            delta = delta.map(lambda tensor: tensor.sum(dim=-1))
        if self.how == "dict":
            delta = dict(delta.items())  # type: ignore[assignment]
        kept: State = {"u": delta} if self.how == "entries" else {"v": local.weights}
        weight: Any = {"negative": -2.0, "text": "1", "vector": torch.ones(3)}.get(self.how)
        return Update(delta, weight=weight), {"v": 1.0} if self.how == "number" else kept


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("twice", "trains the phase '' twice"),
        ("unknown", "sends 'other', which is no weight"),
        ("entries", r"keeps \['u'\] of a client, but its init\(\) returns \['v'\]"),
        ("number", "keeps 'v', which is float; it must be a Vector or a tensor"),
        ("layer", "the model has no layer 'haed'; it has 'body', 'head'"),
        ("name", r"trains only \['body'\], none of which is a trained weight"),
        ("shape", r"sends 'body.weight' of shape \[3\]; the weight's is \[3, 4\]"),
        ("dict", "sends a delta of type dict; it must be a Vector, or None"),
        ("negative", "the weight of an update is -2, but must not be negative"),
        ("text", "the weight of an update is a str; it must be a number or a tensor"),
        ("vector", r"has shape \[3\]; it must be one number for each client"),
    ],
)
def test_a_broken_contract_is_reported(how: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        run(Breaks(how), clients=(0,))


@pytest.mark.parametrize("stack", [1, 8])
def test_a_client_whose_own_weights_are_not_finite_is_dropped(stack: int) -> None:
    """It sends nothing: what it keeps is all there is. Logits of 1e308 and more overflow."""
    states: list[KeptState | None] = [None] * len(SIZES)
    far = start().map(lambda tensor: torch.full_like(tensor, 1e308))
    states[2] = KeptState(0, (), (), algorithm={"v": far})
    result = run(LocalOnly(), stack=stack, states=states, on_nonfinite="drop")
    assert isinstance(result.states[2], Dropped)
    assert isinstance(result.states[1], Kept)


@dataclass(frozen=True)
class Weighs(Algorithm):
    """Client 2's weight is no number; all send a whole number and a truth value."""

    name: ClassVar[str] = "test-weighs"

    def client(self, local: Local) -> tuple[Update, State]:
        ids = local.clients
        sums = {"id": ids, "is_odd": ids % 2 == 1}
        weight = torch.where(ids == 2, torch.nan, 1.0)
        return Update(local.train_delta(local.weights), weight=weight, sums=sums), {}


@pytest.mark.parametrize("stack", [1, 8])
def test_a_weight_that_is_nan_drops_its_client_and_sums_of_numbers_are_floats(stack: int) -> None:
    result = run(Weighs(), stack=stack, on_nonfinite="drop")
    assert isinstance(result.states[2], Dropped)
    assert root(result).update_sums == {"id": 0.0 + 1 + 3 + 4, "is_odd": 2.0}
    assert all(type(value) is float for value in root(result).update_sums.values())


@dataclass(frozen=True)
class AddsInPlace(Algorithm):
    """Changes the weights, which are the model's own, instead of returning a term."""

    name: ClassVar[str] = "test-adds-in-place"

    def client(self, local: Local) -> tuple[Update, State]:
        return Update(local.train_delta(local.weights, add=lambda v: v.mul_(0.5))), {}


def test_a_term_cannot_change_the_weights() -> None:
    with pytest.raises(ClientError, match="this Vector is read-only"):
        run(AddsInPlace(), clients=(0,))


@dataclass(frozen=True)
class WritesToAll(Algorithm):
    """Writes to a tensor that other clients start from, too."""

    name: ClassVar[str] = "test-writes-to-all"

    def client(self, local: Local) -> tuple[Update, State]:
        delta = local.train_delta(local.weights)
        local.weights["body.bias"].mul_(0.5)
        return Update(delta), {}


@pytest.mark.parametrize("stack", [1, 2])
def test_no_client_changes_what_others_start_from(stack: int) -> None:
    with pytest.raises(ConfigError, match="client 0 has written to what the server sent"):
        run(WritesToAll(), stack=stack)


class Plain(FedAvg):
    """FedAvg as code of others, which is not known to leave alone what is sent."""

    name: ClassVar[str] = "test-plain"


def test_what_is_sent_may_have_been_computed_in_inference_mode() -> None:
    with torch.inference_mode():
        sent = {"factor": torch.ones(2) * 0.5}
    assert root(run(Plain(), sent=sent)).total == root(run(FedAvg(), sent=sent)).total


@dataclass(frozen=True)
class Works(Algorithm):
    """Trains by an amount that is none."""

    name: ClassVar[str] = "test-works"
    epochs: Any = None
    steps: Any = None

    def client(self, local: Local) -> tuple[Update, State]:
        amount = {"epochs": self.epochs, "steps": self.steps}
        return Update(local.train_delta(local.weights, **amount)), {}


@pytest.mark.parametrize(
    ("amount", "says"),
    [
        ({"epochs": -1}, "epochs=-1; it must be a number above 0"),
        ({"epochs": float("inf")}, "epochs=inf; it must be a number above 0"),
        ({"steps": 0}, "steps=0; it must be a whole number of at least 1"),
        ({"steps": 2.5}, "steps=float; it must be a whole number"),
        ({"epochs": 1, "steps": 1}, "epochs and steps; give it one of the two"),
    ],
)
def test_an_amount_of_work_that_is_none_is_refused(amount: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        run(Works(**amount), clients=(0,))


@dataclass(frozen=True)
class Mixes(Algorithm):
    """Mixes the clients of a stack."""

    name: ClassVar[str] = "test-mixes"

    def client(self, local: Local) -> tuple[Update, State]:
        delta = local.train_delta(local.weights)
        return Update(delta, sums={"n": local.num_examples / local.num_examples.sum()}), {}


@dataclass(frozen=True)
class Closes(Algorithm):
    """Closes over values that must leave a stack with their clients."""

    name: ClassVar[str] = "test-closes"

    def client(self, local: Local) -> tuple[Update, State]:
        n = local.num_examples
        return Update(local.train_delta(local.weights, add=lambda v: v * n)), {}


@pytest.mark.parametrize(
    ("algorithm", "says"),
    [(Proximal(), None), (Mixes(), "gives clients other results"), (Closes(), "fails in a stack")],
)
def test_an_algorithm_is_tried_out_in_a_stack_first(algorithm: Algorithm, says: str | None) -> None:
    choice = choose_stack(4, recipe(algorithm), DATA, cohort_size=5, uses_gpu=False)
    assert choice.size == (4 if says is None else 1)
    assert (says is None) == (choice.note is None)
    assert says is None or says in str(choice.note)


def test_it_is_tried_out_with_clients_that_end_at_different_steps() -> None:
    """A closure goes unnoticed as long as all clients of a stack take as many steps."""
    equal = np.arange(0, 25, 5)
    alike = FederatedDataset(DATA.train, np.arange(20), equal, equal[1:])
    choice = choose_stack(4, recipe(Closes()), alike, cohort_size=4, uses_gpu=False)
    assert "fails in a stack" in str(choice.note)


def test_the_default_algorithm_keeps_nothing() -> None:
    assert kept(run(FedAvg(), stack=4)) == [None] * len(SIZES)
