"""The order of things within a step. The arithmetic is exact: powers of two and small integers."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from toy_models import Quadratic, vector

from simfl.optimizer import (
    Constant,
    Context,
    Exponential,
    Optimizer,
    OptiModule,
    Regularizer,
    Ridge,
    State,
)
from simfl.vector import Vector


@dataclass(frozen=True)
class Plus(OptiModule):
    """Adds a number, so that the order of modules shows."""

    name: ClassVar[str] = "test-pipeline-plus"
    number: float = 1.0

    def update(self, gradients: Vector, state: State, context: Context) -> tuple[Vector, State]:
        return gradients + self.number, state


@dataclass(frozen=True)
class Failing(OptiModule):
    name: ClassVar[str] = "test-pipeline-failing"

    def update(self, gradients: Vector, state: State, context: Context) -> tuple[Vector, State]:
        raise RuntimeError("on purpose")


@dataclass(frozen=True)
class Widening(OptiModule):
    """Turns the order of tensors round and makes them float64."""

    name: ClassVar[str] = "test-pipeline-widening"

    def update(self, gradients: Vector, state: State, context: Context) -> tuple[Vector, State]:
        return gradients.select(reversed(gradients.names)).map(torch.Tensor.double), state


@dataclass(frozen=True)
class Recorder(Regularizer):
    """Puts where it is called into its state."""

    name: ClassVar[str] = "test-pipeline-recorder"

    def update(
        self, gradients: Vector, weights: Vector, state: State, context: Context
    ) -> tuple[Vector, State]:
        where = torch.tensor([context.seed, *context.clients, context.round, context.step])
        return gradients, {"where": where}


def test_updates_are_minus_the_learning_rate_times_the_gradients() -> None:
    updates = Optimizer(0.5).compute_updates_from_gradients(Quadratic({}), vector(w=[4.0, -2.0]))
    assert updates == vector(w=[-2.0, 1.0])


def test_regularizers_come_before_modules_and_each_in_list_order() -> None:
    """g = 1, w = 4: ridge 1 + 2 · 0.5 · 4 = 5; clipping to norm 1 gives 1; plus 3 gives 4.

    The other way round, plus 3 gives 8, and clipping gives 1. Times a rate of 0.5.
    """
    model, gradients = Quadratic({"w": [4.0]}), vector(w=[1.0])
    plugins = [("l2-clipping", {"max_norm": 1.0}), Plus(3.0)]
    ridge = [Ridge(alpha=0.5)]
    first = Optimizer(0.5, regularizers=ridge, modules=plugins)
    second = Optimizer(0.5, regularizers=ridge, modules=plugins[::-1])
    assert first.compute_updates_from_gradients(model, gradients) == vector(w=[-2.0])
    assert second.compute_updates_from_gradients(model, gradients) == vector(w=[-0.5])


def test_decay_is_decoupled_and_within_the_learning_rate() -> None:
    # Clipping leaves 1 of g = 8; -0.5 · (1 + 0.25 · 4) = -1. Decay takes no part in clipping.
    optimizer = Optimizer(0.5, w_decay=0.25, modules=["l2-clipping"])
    updates = optimizer.compute_updates_from_gradients(Quadratic({"w": [4.0]}), vector(w=[8.0]))
    assert updates == vector(w=[-1.0])


@pytest.mark.parametrize(
    ("options", "num_reads"),
    [
        ({}, 0),
        ({"modules": ["adam"]}, 0),
        ({"w_decay": ("constant", {"base": 0.0})}, 0),
        ({"w_decay": 0.1}, 1),
        ({"w_decay": 0.1, "regularizers": ["ridge", "lasso", "fedprox"]}, 1),
    ],
)
def test_weights_are_read_once_and_only_if_needed(
    options: dict[str, object], num_reads: int
) -> None:
    model = Quadratic({"w": [4.0]})
    Optimizer(0.1, **options).compute_updates_from_gradients(model, vector(w=[1.0]))
    assert model.num_reads == num_reads


def test_inputs_stay_as_they_are() -> None:
    plugins = ["momentum", "adam", "l2-clipping", "gaussian-noise", "scaffold-client"]
    optimizer = Optimizer(0.1, 0.1, ["fedprox", "lasso", "ridge"], plugins)
    model, gradients = Quadratic({"w": [4.0, 1.0]}), vector(w=[3.0, -1.0])
    for _ in range(2):
        optimizer.compute_updates_from_gradients(model, gradients)
    assert gradients == vector(w=[3.0, -1.0])
    assert model.weights == vector(w=[4.0, 1.0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_updates_have_the_form_of_the_gradients(dtype: torch.dtype) -> None:
    gradients = Vector({"b": torch.ones(2, dtype=dtype), "a": torch.ones((), dtype=dtype)})
    model = Quadratic({})
    model.weights = gradients.select(["a", "b"])  # in another order
    optimizer = Optimizer(0.1, 0.1, ["ridge"], ["momentum", "l2-global-clipping", Widening()])
    updates = optimizer.compute_updates_from_gradients(model, gradients)
    assert updates.names == ("b", "a")
    assert {tensor.dtype for tensor in updates.tensors} == {dtype}


def test_gradients_that_require_gradients_leave_no_graph_behind() -> None:
    gradients = vector(w=[1.0]).map(lambda tensor: tensor.requires_grad_())
    optimizer = Optimizer(0.1, modules=["momentum"])
    updates = optimizer.compute_updates_from_gradients(Quadratic({}), gradients)
    assert not updates["w"].requires_grad
    assert not optimizer.export_state().modules[0]["velocity"]["w"].requires_grad


def test_apply_gradients_adds_the_updates_to_the_weights() -> None:
    model = Quadratic({"w": [4.0]})
    Optimizer(0.5).apply_gradients(model, vector(w=[2.0]))
    assert model.weights == vector(w=[3.0])


def test_a_train_step_computes_gradients_and_applies_them() -> None:
    # The gradient is 2 · (4 - 1) = 6: 4 - 0.5 · 6 = 1.
    model = Quadratic({"w": [4.0]}, curvature=2.0, optimum=1.0)
    Optimizer(0.5).run_train_step(model, batch=None, sclip=3.0)
    assert model.weights == vector(w=[1.0])
    assert model.max_norms == [3.0]


def test_a_schedule_by_steps_goes_on_over_rounds() -> None:
    rate = Exponential(base=1.0, factor=0.5, unit="step")
    assert lrates(rate, rounds=2, steps=2) == [1.0, 0.5, 0.25, 0.125]


def test_a_schedule_by_rounds_stays_within_a_round() -> None:
    rate = Exponential(base=1.0, factor=0.5, unit="round")
    assert lrates(rate, rounds=3, steps=2) == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]


def lrates(rate: Exponential, *, rounds: int, steps: int) -> list[float]:
    """The rates, read off updates of gradients of -1."""
    optimizer, found = Optimizer(rate), []
    for _ in range(rounds):
        optimizer.start_round()
        for _ in range(steps):
            updates = optimizer.compute_updates_from_gradients(Quadratic({}), vector(w=[-1.0]))
            found.append(updates["w"].item())
    return found


def test_steps_before_any_round_take_the_first_round_s_rate() -> None:
    optimizer = Optimizer(Exponential(base=1.0, factor=0.5))
    before = optimizer.compute_updates_from_gradients(Quadratic({}), vector(w=[-1.0]))
    optimizer.start_round()
    first = optimizer.compute_updates_from_gradients(Quadratic({}), vector(w=[-1.0]))
    assert before == first == vector(w=[1.0])


def test_decay_may_be_a_schedule() -> None:
    # Decay 1, then 0.5, of w = 4 with a null gradient and a rate of 0.25.
    optimizer = Optimizer(0.25, w_decay=("exponential", {"base": 1.0, "factor": 0.5}))
    found = []
    for _ in range(2):
        optimizer.start_round()
        updates = optimizer.compute_updates_from_gradients(Quadratic({"w": [4.0]}), vector(w=[0.0]))
        found.append(updates["w"].item())
    assert found == [-1.0, -0.5]


def test_plug_ins_are_told_where_a_step_takes_place() -> None:
    optimizer = Optimizer(0.1, regularizers=[Recorder()])
    optimizer.seed, optimizer.client = 11, 7
    model = Quadratic({"w": [1.0]})
    found = []
    for _ in range(2):
        optimizer.start_round()
        for _ in range(2):
            optimizer.run_train_step(model, None)
            found.append(optimizer.export_state().regularizers[0]["where"].tolist())
    assert found == [[11, 7, 1, 1], [11, 7, 1, 2], [11, 7, 2, 1], [11, 7, 2, 2]]
    assert (optimizer.round, optimizer.step, optimizer.num_steps) == (2, 2, 4)


def test_a_step_that_fails_changes_nothing() -> None:
    optimizer = Optimizer(Constant(0.1), modules=["momentum", Failing()])
    model = Quadratic({"w": [1.0]})
    optimizer.start_round()
    with pytest.raises(RuntimeError, match="on purpose"):
        optimizer.run_train_step(model, None)
    assert (optimizer.step, optimizer.num_steps) == (0, 0)
    assert optimizer.export_state().modules[0]["velocity"] == vector(w=[0.0])
    assert model.weights == vector(w=[1.0])


def test_a_stack_of_gradients_is_stepped_as_each_of_them() -> None:
    modules = [("adam", {"amsgrad": True}), "l2-clipping", "momentum", "yogi-momentum"]
    rows = [vector(w=[1.0, -2.0]), vector(w=[30.0, 4.0])]
    stacked, *alone = (Optimizer(0.1, modules=modules) for _ in range(3))
    for factor in (1.0, -0.5, 3.0):
        updates = stacked.compute_updates_from_gradients(
            Quadratic({}), Vector.stack([row * factor for row in rows])
        )
        for optimizer, row, update in zip(alone, rows, updates.unstack(), strict=True):
            single = optimizer.compute_updates_from_gradients(Quadratic({}), row * factor)
            assert update == single
