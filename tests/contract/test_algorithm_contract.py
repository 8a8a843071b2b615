"""Every registered algorithm keeps the contract; what breaks it is found out, clause by clause."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

from simfl.algorithms import Algorithm, FedAvg, FedDyn, Local, ServerSide, State, Total, Update
from simfl.models import Loss, ModelSpec
from simfl.testing import ContractError, check_algorithm
from simfl.vector import Vector
from tests.unit.algorithms.federation import Adapted64, Given

NAMES = sorted(n for n, c in Algorithm.registry.items() if c.__module__.startswith("simfl."))

FIELDS: dict[str, dict[str, Any]] = {
    "feddf": {"steps": 3},
    "flexlora": {"ranks": [2, 1]},
    "flora": {"ranks": [1, 2], "scale": 2.0},
    "gossip": {"nodes": 3},
}
"""Those that an algorithm needs, and so few steps of Adam that rounding stays rounding."""

MODELS = {"em": "gaussian-mixture", "histograms": "histogram", "k-means": "centers"}
"""By algorithm, the only model that it is for; its loss is the model's output."""

ADAPTERS = ("flexlora", "flora")
"""They are for models with low-rank adapters."""


@pytest.mark.parametrize("name", NAMES)
def test_every_algorithm_keeps_the_contract(name: str) -> None:
    algorithm = Algorithm.from_name(name, FIELDS.get(name))
    if name in MODELS:
        model = ModelSpec.from_name(MODELS[name])
        check_algorithm(algorithm, model=model, loss=Loss.from_name("output"))
    elif name in ADAPTERS:
        frozen = () if name == "flora" else ("layer.base_layer.weight",)
        spec = Given(module=Adapted64(frozen=frozen))
        check_algorithm(algorithm, model=spec, features=4)
    else:
        check_algorithm(algorithm)


# -- what breaks it -------------------------------------------------------------------------------


@dataclass(frozen=True)
class WritesReceived(FedDyn):
    name: ClassVar[str] = "broken-writes-kept"

    def client(self, local: Local) -> tuple[Update, State]:
        update, kept = super().client(local)
        local.kept["g"].tensors[0].add_(1.0)
        return update, kept


_CALLS = []


@dataclass(frozen=True)
class Counts(Algorithm):
    name: ClassVar[str] = "broken-counts-calls"

    def client(self, local: Local) -> tuple[Update, State]:
        _CALLS.append(None)
        return Update(local.train_delta(local.weights) * float(len(_CALLS))), {}


@dataclass(frozen=True)
class ByHost(Algorithm):
    name: ClassVar[str] = "broken-by-host"

    def client(self, local: Local) -> tuple[Update, State]:
        seen = vars(self).setdefault("seen", len(_HOSTS))
        _HOSTS.add(id(self))
        return Update(local.train_delta(local.weights) * (1.0 + seen)), {}


_HOSTS: set[int] = set()


@dataclass(frozen=True)
class Grows(FedDyn):
    name: ClassVar[str] = "broken-grows"

    def client(self, local: Local) -> tuple[Update, State]:
        update, kept = super().client(local)
        return update, {"g": kept["g"].map(lambda tensor: tensor.double())}


class Marked(torch.Tensor):
    """A tensor with an attribute that no file keeps."""


@dataclass(frozen=True)
class ByAttribute(Algorithm):
    name: ClassVar[str] = "broken-by-attribute"

    def init(self, weights: Vector) -> State:
        return {"mark": torch.zeros(())}

    def client(self, local: Local) -> tuple[Update, State]:
        mark = torch.zeros(local.num_steps.shape)
        if not isinstance(local.kept["mark"], Marked):
            mark = mark.as_subclass(Marked)
        scale = 2.0 if isinstance(local.kept["mark"], Marked) else 1.0
        return Update(local.train_delta(local.weights) * scale), {"mark": mark}


@dataclass(frozen=True)
class SomeNames(Algorithm):
    name: ClassVar[str] = "broken-some-names"

    def client(self, local: Local) -> tuple[Update, State]:
        names = local.weights.names
        few = names[:2] if bool((local.num_examples > 4).all()) else names
        return Update(local.train_delta(local.weights).select(few)), {}


@dataclass(frozen=True)
class OfTheFirst(Algorithm):
    """In a stack, all clients send the first one's number of examples."""

    name: ClassVar[str] = "broken-of-the-first"

    def client(self, local: Local) -> tuple[Update, State]:
        n = local.num_examples
        delta = local.train_delta(local.weights)
        return Update(delta, sums={"n": n if n.dim() == 0 else n[:1].expand(n.shape)}), {}


@dataclass(frozen=True)
class SkipsNew(FedDyn):
    """In a stack, what is kept counts only if all clients have kept something."""

    name: ClassVar[str] = "broken-skips-new"

    def client(self, local: Local) -> tuple[Update, State]:
        w, g = local.weights, local.kept["g"]
        if bool((g.norm() == 0).any()):
            g = g * 0.0
        centre = w * self.alpha + g
        delta = local.train_delta(w, add=self._pull, given=(centre,))
        return Update(delta, weight=1.0), {"g": g + delta * self.alpha}


@dataclass(frozen=True)
class Closure(Algorithm):
    """Uses a client's Vector without giving it: clients that end early do not leave it."""

    name: ClassVar[str] = "broken-closure"

    def init(self, weights: Vector) -> State:
        return {"g": weights.zeros_like()}

    def client(self, local: Local) -> tuple[Update, State]:
        g = local.kept["g"]
        return Update(local.train_delta(local.weights, add=lambda v: g)), {"g": g}


@dataclass(frozen=True)
class WritesTotal(FedAvg):
    name: ClassVar[str] = "broken-writes-total"

    def server(self, total: Total, state: State, here: ServerSide) -> tuple[Vector, State]:
        return total.delta.mul_(0.5), state


@dataclass(frozen=True)
class LosesState(FedDyn):
    name: ClassVar[str] = "broken-loses-state"

    def server(self, total: Total, state: State, here: ServerSide) -> tuple[Vector, State]:
        return super().server(total, state, here)[0], {}


@dataclass(frozen=True)
class WritesSent(FedDyn):
    name: ClassVar[str] = "broken-writes-sent"

    def send(self, state: State) -> State:
        return {"h": state["h"].map(lambda tensor: tensor.add_(1.0))}


@dataclass(frozen=True)
class WritesPersonal(FedDyn):
    name: ClassVar[str] = "broken-writes-personal"

    def personal(self, local: Local) -> Vector:
        return local.kept["g"].mul_(2.0)


@dataclass(frozen=True)
class OtherPersonal(FedDyn):
    name: ClassVar[str] = "broken-other-personal"

    def personal(self, local: Local) -> Vector:
        return Vector({"foreign": torch.zeros(3)})


@dataclass(frozen=True)
class UpdateAlone(Algorithm):
    name: ClassVar[str] = "broken-update-alone"

    def client(self, local: Local) -> Any:
        return Update(local.train_delta(local.weights))


@dataclass(frozen=True)
class KeepsWithoutInit(Algorithm):
    name: ClassVar[str] = "broken-keeps-without-init"

    def client(self, local: Local) -> tuple[Update, State]:
        return Update(local.train_delta(local.weights)), {"w": local.weights}


@dataclass(frozen=True)
class Converts(Algorithm):
    name: ClassVar[str] = "broken-converts"

    def client(self, local: Local) -> tuple[Update, State]:
        return Update(local.train_delta(local.weights), weight=float(local.num_examples)), {}


@dataclass(frozen=True)
class GradientAlone(Algorithm):
    name: ClassVar[str] = "broken-gradient-alone"

    def server(self, total: Total, state: State, here: ServerSide) -> Any:
        return total.delta


@dataclass(frozen=True)
class SendsNothing(Algorithm):
    name: ClassVar[str] = "broken-sends-nothing"

    def send(self, state: State) -> Any:
        return None


BROKEN: list[tuple[Any, str]] = [
    (WritesReceived(), "leave what it is given as it is: client() has changed what the clients"),
    (Counts(), "depend on its arguments alone: the same round, run again"),
    (ByHost(), "depend on its arguments alone: another host gave other bits"),
    (Grows(), "keep what init() returns: the same entries, names, shapes and dtypes: {'g': "),
    (ByAttribute(), "continue bit for bit from what it keeps: with states read back"),
    (SomeNames(), "send the same names and shapes from every client: one client sends"),
    (OfTheFirst(), "treat a stack of clients as it does each client: of a stack, in round 1"),
    (SkipsNew(), "treat new and returning clients of a stack as it does each: of a stack"),
    (Closure(), "treat a stack of clients as it does each client: clients 2, 0, 1 fail together"),
    (WritesTotal(), "have a server() that is a function of values: server() has changed"),
    (LosesState(), "have a server() that is a function of values: the server's state ['h']"),
    (WritesSent(), "have a send() that is a function of values: send() has changed"),
    (WritesPersonal(), "have a personal() that is a function of values: personal() has changed"),
    (OtherPersonal(), "have a personal() that is a function of values: personal() returns"),
]

RETURNED: list[tuple[Algorithm, str]] = [
    (SendsNothing(), "send() returns NoneType; it must return a dict"),
    (UpdateAlone(), "client() returns Update; it must return an Update, and a dict of what the"),
    (KeepsWithoutInit(), "keeps ['w'] of a client, but has no init(), which returns the same"),
    (GradientAlone(), "server() returns Vector; it must return a Vector, which the server's"),
]


@pytest.mark.parametrize(("algorithm", "clause"), BROKEN, ids=[b.name for b, _ in BROKEN])
def test_what_breaks_the_contract_is_named(algorithm: Algorithm, clause: str) -> None:
    with pytest.raises(ContractError) as caught:
        check_algorithm(algorithm)
    assert str(caught.value).startswith(f"{type(algorithm).__name__} must {clause}")


@pytest.mark.parametrize(("algorithm", "says"), RETURNED, ids=[b.name for b, _ in RETURNED])
def test_what_is_returned_instead_is_named(algorithm: Algorithm, says: str) -> None:
    with pytest.raises(ContractError) as caught:
        check_algorithm(algorithm)
    assert f"algorithm {algorithm.name!r}" in str(caught.value)
    assert says in str(caught.value)


def test_an_exception_comes_with_its_line() -> None:
    with pytest.raises(
        ContractError, match=r"one element.*test_algorithm_contract.py, line .*given="
    ):
        check_algorithm(Converts())
