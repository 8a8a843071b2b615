"""Every registered module and regularizer keeps the contract; what breaks it is found out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

import simfl.aggregation
import simfl.optimizer
from simfl.optimizer import (
    Adam,
    AuxVar,
    Context,
    ContractError,
    GaussianNoise,
    Momentum,
    OptiModule,
    Regularizer,
    ScaffoldServer,
    State,
    Yogi,
    list_optim_modules,
    list_optim_regularizers,
)
from simfl.optimizer.trial import stack_fault
from simfl.testing import check_plugin
from simfl.vector import Vector

AUX: dict[str, Callable[[Vector], AuxVar]] = {
    "scaffold-client": lambda like: {"state": like * 0.5},
    "scaffold-server": lambda like: {"delta": like * 0.5, "num_new": 2.0},
}

PLUGINS = [
    *(cls() for cls in list_optim_modules().values() if cls.__module__.startswith("simfl.")),
    *(cls() for cls in list_optim_regularizers().values() if cls.__module__.startswith("simfl.")),
    Momentum(beta=0.5, nesterov=True),
    Adam(amsgrad=True),
    Yogi(amsgrad=True),
    GaussianNoise(seed=3),
    GaussianNoise(secure=True),
    ScaffoldServer(num_clients=10),
]


@pytest.mark.parametrize("plugin", PLUGINS, ids=str)
def test_every_plug_in_keeps_the_contract(plugin: OptiModule | Regularizer) -> None:
    check_plugin(plugin, aux=AUX.get(plugin.name))


@pytest.mark.parametrize("plugin", [p for p in PLUGINS if p.is_deterministic], ids=str)
def test_a_stack_has_the_bits_of_its_clients(plugin: OptiModule | Regularizer) -> None:
    """Stricter than the contract: built-in arithmetic is the same in a stack, bit for bit."""
    clients = (3, 0, 8)
    rows = [_random(client) for client in clients]
    stack, like = Vector.stack(rows), Vector.stack([rows[0]] * 3)
    states: list[State] = [plugin.init(rows[0]) for _ in clients]
    state = {key: _stack([one[key] for one in states]) for key in states[0]}
    for step in (1, 2, 3):
        context = Context(clients=clients, step=step)
        out, state = _update(plugin, stack * float(step), like, state, context)
        for row, client in enumerate(clients):
            alone = Context(clients=(client,), step=step)
            values = rows[row] * float(step)
            single, states[row] = _update(plugin, values, rows[0], states[row], alone)
            assert out.unstack()[row] == single


def _random(seed: int) -> Vector:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"kernel": (33, 7), "bias": (7,), "scale": ()}
    return Vector({n: torch.randn(shape, generator=generator) for n, shape in shapes.items()})


def _stack(leaves: list[Any]) -> Any:
    return Vector.stack(leaves) if isinstance(leaves[0], Vector) else torch.stack(leaves)


def _update(
    plugin: Any, gradients: Vector, weights: Vector, state: State, context: Context
) -> tuple[Vector, State]:
    if isinstance(plugin, Regularizer):
        return plugin.update(gradients, weights, state, context)
    return plugin.update(gradients, state, context)


# -- plug-ins that break it ----------------------------------------------------------------------

Step = tuple[Vector, State]


class NoDataclass(OptiModule):
    name: ClassVar[str] = "broken-no-dataclass"

    def update(self, gradients: Vector, state: State, context: Context) -> Step:
        return gradients, state


@dataclass(frozen=True)
class Nameless(Momentum):
    """Inherits a name that stands for another class."""


@dataclass(frozen=True)
class ConfigNotJson(OptiModule):
    name: ClassVar[str] = "broken-config"
    names: Any = frozenset({"a"})

    def update(self, gradients: Vector, state: State, context: Context) -> Step:
        return gradients, state


@dataclass(frozen=True)
class NumbersInState(OptiModule):
    name: ClassVar[str] = "broken-numbers"

    def init(self, like: Vector) -> State:
        return {"steps": 0}

    def update(self, gradients: Vector, state: State, context: Context) -> Step:
        return gradients, {"steps": state["steps"] + 1}


@dataclass(frozen=True)
class ForgetsState(OptiModule):
    name: ClassVar[str] = "broken-forgets"

    def init(self, like: Vector) -> State:
        return {"sum": like.zeros_like()}

    def update(self, gradients: Vector, state: State, context: Context) -> Step:
        return gradients, {}


@dataclass(frozen=True)
class Widens(OptiModule):
    name: ClassVar[str] = "broken-widens"

    def update(self, gradients: Vector, state: State, context: Context) -> Step:
        return gradients.map(torch.Tensor.double), state


@dataclass(frozen=True)
class DropsTensors(OptiModule):
    name: ClassVar[str] = "broken-drops"

    def update(self, gradients: Vector, state: State, context: Context) -> Step:
        return gradients.select(gradients.names[1:]), state


@dataclass(frozen=True)
class ChangesGradients(OptiModule):
    name: ClassVar[str] = "broken-gradients"

    def update(self, gradients: Vector, state: State, context: Context) -> Step:
        return gradients.mul_(0.5), state


@dataclass(frozen=True)
class ChangesState(OptiModule):
    name: ClassVar[str] = "broken-in-place"

    def init(self, like: Vector) -> State:
        return {"sum": like.zeros_like()}

    def update(self, gradients: Vector, state: State, context: Context) -> Step:
        return state["sum"].add_(gradients).clone(), state


@dataclass(frozen=True)
class ChangesWeights(Regularizer):
    name: ClassVar[str] = "broken-weights"

    def update(self, gradients: Vector, weights: Vector, state: State, context: Context) -> Step:
        return gradients + weights.mul_(0.1), state


@dataclass(frozen=True)
class SharesMemory(OptiModule):
    name: ClassVar[str] = "broken-memory"

    def init(self, like: Vector) -> State:
        return {"last": like.zeros_like()}

    def update(self, gradients: Vector, state: State, context: Context) -> Step:
        return gradients - state["last"], {"last": gradients}


@dataclass(frozen=True)
class RemembersItself(OptiModule):
    name: ClassVar[str] = "broken-remembers"
    _cache: ClassVar[list[int]] = []

    def update(self, gradients: Vector, state: State, context: Context) -> Step:
        self._cache.append(1)
        return gradients * float(len(self._cache)), state


@dataclass(frozen=True)
class GlobalNoise(OptiModule):
    name: ClassVar[str] = "broken-noise"

    def update(self, gradients: Vector, state: State, context: Context) -> Step:
        return gradients.map(lambda tensor: tensor + torch.randn_like(tensor)), state


@dataclass(frozen=True)
class ConfigBesideFields(OptiModule):
    """Keeps a number besides its fields, so that its config cannot reproduce it."""

    name: ClassVar[str] = "broken-beside"
    factors: ClassVar[dict[int, float]] = {}

    @classmethod
    def of(cls, factor: float) -> "ConfigBesideFields":
        module = cls()
        cls.factors[id(module)] = factor
        return module

    def update(self, gradients: Vector, state: State, context: Context) -> Step:
        return gradients * self.factors.get(id(self), 1.0), state


@dataclass(frozen=True)
class StackUnaware(OptiModule):
    name: ClassVar[str] = "broken-stack"

    def update(self, gradients: Vector, state: State, context: Context) -> Step:
        norm = torch.cat([tensor.flatten() for tensor in gradients.tensors]).norm()
        return gradients / norm, state


@dataclass(frozen=True)
class KeepsTooLittle(Momentum):
    name: ClassVar[str] = "broken-keeps"

    def between_rounds(self, state: State) -> State:
        return {}


@dataclass(frozen=True)
class SaysItKeepsNothing(Momentum):
    name: ClassVar[str] = "broken-says-nothing"
    keeps_nothing: ClassVar[bool] = True


@dataclass(frozen=True)
class KeepsWhatInitHasNot(OptiModule):
    name: ClassVar[str] = "broken-more-than-init"

    def update(self, gradients: Vector, state: State, context: Context) -> Step:
        return gradients - state.get("last", gradients), {"last": gradients * 1.0}


@dataclass(frozen=True)
class SharesTensors(Momentum):
    name: ClassVar[str] = "broken-shares"

    def collect_aux_var(self, state: State) -> AuxVar | None:
        return {"velocity": state["velocity"].tensors}


@dataclass(frozen=True)
class OverwritesWhatItGaveOut(OptiModule):
    name: ClassVar[str] = "broken-overwrites"

    def init(self, like: Vector) -> State:
        return {"sum": like.zeros_like()}

    def update(self, gradients: Vector, state: State, context: Context) -> Step:
        former: Vector = state["sum"]
        total = former.add_(gradients) if context.owns_state else former + gradients
        return total, {"sum": total}


@dataclass(frozen=True)
class Raises(OptiModule):
    name: ClassVar[str] = "broken-raises"

    def update(self, gradients: Vector, state: State, context: Context) -> Step:
        return gradients * state["factor"], state


BROKEN: list[tuple[OptiModule | Regularizer, str]] = [
    (NoDataclass(), "must be a @dataclass.*: it is no dataclass"),
    (Nameless(), "must be a @dataclass.*: the name 'momentum' is not this class's"),
    (ConfigNotJson(), "must have a config that goes through JSON: TypeError"),
    (NumbersInState(), "must have states .*: 'steps' in the state is of type int"),
    (ForgetsState(), r"must keep the entries of its state: .* without \['sum'\]"),
    (Widens(), "must keep names, order, shapes and dtypes.*float64"),
    (DropsTensors(), "must keep names, order, shapes and dtypes"),
    (ChangesGradients(), "must leave its inputs alone: it has changed the gradients"),
    (ChangesState(), "must leave its inputs alone: it has changed the state"),
    (ChangesWeights(), "must leave its inputs alone: .* or the weights"),
    (SharesMemory(), "must keep no reference to the gradients"),
    (RemembersItself(), "must depend on its arguments alone"),
    (GlobalNoise(), "must depend on its arguments alone"),
    (ConfigBesideFields.of(3.0), "must continue bit for bit from a restored state"),
    (StackUnaware(), "must treat a stack of clients as it does each client: row 0"),
    (
        KeepsWhatInitHasNot(),
        r"must treat a stack of clients as it does each client: VectorError: clients' states "
        r"differ: \['last'\] and \[\]; init\(\) must return every entry",
    ),
    (KeepsTooLittle(), "must continue in the next round from what it keeps"),
    (SaysItKeepsNothing(), "must continue in the next round from what it keeps"),
    (SharesTensors(), "must share numbers and Vectors.*'velocity' is of type tuple"),
    (OverwritesWhatItGaveOut(), "must overwrite only its own state: .* later overwrote"),
    (Raises(), "must have states .*: KeyError: 'factor'"),
]


@pytest.mark.parametrize(("plugin", "message"), BROKEN, ids=[type(p).__name__ for p, _ in BROKEN])
def test_a_plug_in_that_breaks_the_contract_is_found_out(
    plugin: OptiModule | Regularizer, message: str
) -> None:
    with pytest.raises(ContractError, match=f"^{type(plugin).__name__} {message}"):
        check_plugin(plugin)


@dataclass(frozen=True)
class Thaw(OptiModule):
    """Looks for a weight by its name, and at its shape."""

    name: ClassVar[str] = "thaw-of-a-test"

    def init(self, like: Vector) -> State:
        return {"mask": like.select(["head.weight"]).zeros_like() + 1.0}

    def update(self, gradients: Vector, state: State, context: Context) -> Step:
        assert gradients["head.weight"].shape[-2:] == (2, 3)
        return gradients | gradients.select(["head.weight"]) * state["mask"], state


def test_a_plug_in_is_checked_on_weights_of_names_and_shapes_that_it_wants() -> None:
    shapes = {"body.weight": (3, 3), "head.weight": (2, 3)}
    check_plugin(Thaw(), shapes=shapes)
    assert stack_fault(Thaw(), shapes) is None
    with pytest.raises(ContractError, match=r"head\.weight"):
        check_plugin(Thaw())


def test_a_plug_in_that_is_not_frozen_cannot_even_be_built() -> None:
    @dataclass
    class NotFrozen(OptiModule):
        name: ClassVar[str] = "broken-not-frozen"

    with pytest.raises(ValueError, match=r"NotFrozen must be a @dataclass\(frozen=True\)"):
        NotFrozen()


def test_the_suites_are_also_where_their_components_are() -> None:
    simfl.optimizer.check_plugin(Momentum(), shapes={"w": (2,)})
    with pytest.raises(ContractError, match="GlobalNoise must depend on its arguments alone"):
        simfl.optimizer.check_plugin(GlobalNoise())
    simfl.aggregation.check_aggregator(simfl.aggregation.Mean())
