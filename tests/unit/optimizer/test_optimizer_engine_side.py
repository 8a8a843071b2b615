from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from toy_models import Quadratic, vector

from simfl.optimizer import (
    AuxVar,
    Context,
    Exponential,
    L2Clipping,
    LocalOptimizer,
    Optimizer,
    OptiModule,
    State,
)
from simfl.seeding import SERVER
from simfl.states import KeptState
from simfl.vector import Vector


@dataclass(frozen=True)
class Largest(OptiModule):
    """Shares a number whose rule is the maximum instead of the sum."""

    name: ClassVar[str] = "test-engine-largest"
    aux_name: ClassVar[str] = "largest"

    def update(self, gradients: Vector, state: State, context: Context) -> tuple[Vector, State]:
        return gradients, state

    def process_aux_var(self, state: State, aux: AuxVar) -> State:
        return dict(aux)

    def merge_aux(self, left: AuxVar, right: AuxVar) -> AuxVar:
        return {"value": max(left["value"], right["value"])}


def run_round(optimizer: Optimizer, gradients: list[float]) -> list[float]:
    optimizer.start_round()
    return [
        optimizer.compute_updates_from_gradients(Quadratic({}), vector(w=[g]))["w"].item()
        for g in gradients
    ]


class Client:
    """A client in a round, which may have kept a state."""

    def __init__(
        self, optimizer: Optimizer, client: int, *, round: int = 1, kept: KeptState | None = None
    ) -> None:
        self.local = LocalOptimizer(optimizer, stacked=False)
        self.local.begin((client,), round=round, kept=[kept], aux={})
        self.num_steps = 0

    def run(self, gradients: list[float]) -> list[float]:
        """Return the updates of some steps."""
        return [self.step(g) for g in gradients]

    def step(self, gradient: float) -> float:
        self.num_steps += 1
        model = Quadratic({"w": [0.0]})
        self.local.apply_gradients(model, vector(w=[gradient]))
        return model.weights["w"].item()

    def end(self) -> KeptState | None:
        return self.local.end([self.num_steps])[0]


def test_an_optimizer_is_at_first_the_server_s() -> None:
    optimizer = Optimizer(1.0)
    assert (optimizer.client, optimizer.seed, optimizer.round) == (SERVER, 0, 0)


def test_a_client_goes_on_where_it_ended_whoever_came_between() -> None:
    """Momentum of beta 0.5 and a rate of 1, client 1 with gradients 4, 4 | 0 and client 2 with 8.

    Client 1: v = 4, 6 | 3. Client 2: v = 8.
    """
    optimizer = Optimizer(1.0, modules=[("momentum", {"beta": 0.5})])
    client = Client(optimizer, 1)
    assert client.run([4.0, 4.0]) == [-4.0, -6.0]
    kept = client.end()
    assert Client(optimizer, 2).run([8.0]) == [-8.0]
    assert Client(optimizer, 1, round=2, kept=kept).run([0.0]) == [-3.0]


def test_schedules_by_rounds_follow_the_run_for_a_client_that_comes_late() -> None:
    # Round 3 has the rate 1 · 0.5²
    optimizer = Optimizer(Exponential(base=1.0, factor=0.5))
    client = Client(optimizer, 1, round=3)
    assert client.run([-1.0, -1.0]) == [0.25, 0.25]
    assert client.end() is None


def test_schedules_by_steps_follow_each_client_s_own_steps() -> None:
    # Client 1 takes steps 1, 2 | 3 whatever round it is in, with the rates 1, 1/2 | 1/4.
    optimizer = Optimizer(Exponential(base=1.0, factor=0.5, unit="step"))
    client = Client(optimizer, 1)
    assert client.run([-1.0, -1.0]) == [1.0, 0.5]
    kept = client.end()
    assert kept == KeptState(num_steps=2, modules=(), regularizers=())
    assert Client(optimizer, 2, round=4).run([-1.0]) == [1.0]
    assert Client(optimizer, 1, round=5, kept=kept).run([-1.0]) == [0.25]


def test_a_client_s_noise_depends_on_its_id_and_the_round_alone() -> None:
    optimizer = Optimizer(1.0, modules=["gaussian-noise"])
    optimizer.seed = 3
    drawn = {}
    for client, number in [(1, 1), (2, 1), (1, 2), (1, 1)]:
        one = Client(optimizer, client, round=number)
        drawn.setdefault((client, number), []).append(one.step(0.0))
    assert drawn[1, 1][0] == drawn[1, 1][1]
    assert len({values[0] for values in drawn.values()}) == 3
    assert optimizer.seed == 3


@pytest.mark.parametrize(
    ("options", "keeps"),
    [
        ({}, False),
        ({"regularizers": ["fedprox", "ridge"]}, False),
        ({"modules": ["l2-clipping", "gaussian-noise"]}, False),
        ({"modules": ["momentum"]}, True),
        ({"modules": ["scaffold-client"]}, True),
        ({"w_decay": ("constant", {"base": 0.1, "unit": "step"})}, True),
    ],
)
def test_what_is_to_be_kept_is_known_beforehand(options: dict[str, Any], keeps: bool) -> None:
    optimizer = Optimizer(0.1, **options)
    assert optimizer.keeps_state is keeps
    client = Client(optimizer, 1)
    client.step(1.0)
    assert (client.end() is not None) is keeps


@dataclass(frozen=True)
class Averaging(L2Clipping):
    """Derived from a module that keeps nothing; looks at a weight by its name."""

    name: ClassVar[str] = "test-engine-averaging"

    def update(self, gradients: Vector, state: State, context: Context) -> tuple[Vector, State]:
        return gradients, {"last": gradients["w"]}


@dataclass(frozen=True)
class Forgetful(Averaging):
    name: ClassVar[str] = "test-engine-forgetful"
    keeps_nothing: ClassVar[bool] = True


def test_what_is_kept_is_what_the_class_itself_says_and_no_weight_is_made_up_to_find_out() -> None:
    for plugin, keeps in ((Averaging(), True), (Forgetful(), False)):
        optimizer = Optimizer(0.1, modules=[plugin])
        assert optimizer.keeps_state is keeps
        client = Client(optimizer, 1)
        client.step(1.0)
        assert (client.end() is not None) is keeps


def test_what_scaffold_keeps_is_one_vector() -> None:
    optimizer = Optimizer(0.1, modules=["scaffold-client"])
    client = Client(optimizer, 1)
    client.run([2.0, 4.0])
    kept = client.end()
    assert kept is not None
    assert kept.modules[0]["own"] == vector(w=[3.0])
    assert kept.modules[0].keys() == {"own", "is_new"}


def test_a_kept_state_of_other_plug_ins_is_a_key_error() -> None:
    optimizer = Optimizer(0.1, modules=["momentum"])
    with pytest.raises(KeyError, match="modules: 0 states for 1 plug-ins"):
        Client(optimizer, 1, kept=KeptState(0, (), ()))


def test_variables_come_and_go_by_aux_name() -> None:
    client = Optimizer(1.0, modules=["scaffold-client", "momentum"])
    server = Optimizer(1.0, modules=["momentum", "scaffold-server"])
    assert client.aux_names == server.aux_names == {"scaffold"}
    assert server.collect_aux_var() == {}
    run_round(client, [2.0])
    server.process_aux_var(client.collect_aux_var())
    assert server.collect_aux_var() == {"scaffold": {"state": vector(w=[2.0])}}


def test_variables_that_no_module_takes_are_a_key_error_and_change_nothing() -> None:
    server = Optimizer(1.0, modules=["scaffold-server"])
    aux = {"delta": vector(w=[2.0]), "num_new": 1.0}
    with pytest.raises(KeyError, match="no module takes the auxiliary variables 'scafold'"):
        server.process_aux_var({"scaffold": aux, "scafold": aux})
    assert server.collect_aux_var() == {}


def test_variables_are_merged_by_the_rule_of_their_module() -> None:
    optimizer = Optimizer(1.0, modules=["scaffold-client", Largest()])
    left = {"scaffold": {"delta": vector(w=[1.0]), "num_new": 1.0}, "largest": {"value": 5.0}}
    right = {"scaffold": {"delta": vector(w=[2.0]), "num_new": 0.0}, "largest": {"value": 3.0}}
    merged = optimizer.merge_aux(left, right)
    assert merged == {
        "scaffold": {"delta": vector(w=[3.0]), "num_new": 1.0},
        "largest": {"value": 5.0},
    }


def test_variables_of_one_side_pass_through_a_merge() -> None:
    optimizer = Optimizer(1.0, modules=["scaffold-client", Largest()])
    scaffold, largest = {"delta": vector(w=[1.0]), "num_new": 1.0}, {"value": 5.0}
    merged = optimizer.merge_aux({"scaffold": scaffold}, {"largest": largest})
    assert merged == {"scaffold": scaffold, "largest": largest}
    with pytest.raises(KeyError, match="'other'"):
        optimizer.merge_aux({"other": largest}, {"other": largest})


@dataclass(frozen=True)
class Owner(OptiModule):
    """Gives out whether it owns its state."""

    name: ClassVar[str] = "test-engine-owner"

    def update(self, gradients: Vector, state: State, context: Context) -> tuple[Vector, State]:
        return gradients * 0.0 - float(context.owns_state), state


def test_steps_of_a_client_s_round_own_what_the_step_before_them_left() -> None:
    optimizer = Optimizer(1.0, modules=[Owner()])
    assert run_round(optimizer, [0.0, 0.0]) == [0, 0]
    assert Client(optimizer, 1).run([0.0] * 3) == [0, 1, 1]


def test_an_exported_state_outlives_later_steps() -> None:
    optimizer = Optimizer(1.0, modules=["scaffold-client", "adam", ("rmsprop", {"beta": 0.5})])
    run_round(optimizer, [1.0, 2.0])
    exported = optimizer.export_state()
    ahead = run_round(optimizer, [0.0] * 3)
    optimizer.import_state(exported)
    assert run_round(optimizer, [0.0] * 3) == ahead


def test_a_kept_state_outlives_rounds_that_overwrite_theirs() -> None:
    optimizer = Optimizer(1.0, modules=["scaffold-client", "adam", ("rmsprop", {"beta": 0.5})])
    first = Client(optimizer, 1)
    first.run([1.0, 2.0])
    kept = first.end()
    ahead = Client(optimizer, 1, round=2, kept=kept).run([0.0] * 3)
    assert Client(optimizer, 1, round=2, kept=kept).run([0.0] * 3) == ahead
