import json
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from simfl.errors import ConfigError, UnknownNameError
from simfl.optimizer import (
    Constant,
    Cosine,
    CosineRestarts,
    Exponential,
    InverseTime,
    Linear,
    Piecewise,
    Polynomial,
    Schedule,
    Triangular,
    WarmUp,
    list_rate_schedules,
)


def values(schedule: Schedule, count: int) -> list[float]:
    return [schedule.value(position) for position in range(count)]


BY_HAND: list[tuple[Schedule, list[float]]] = [
    (Constant(0.3), [0.3, 0.3]),
    (Exponential(base=8.0, factor=0.5), [8.0, 4.0, 2.0, 1.0]),
    (InverseTime(base=6.0, decay=1.0), [6.0, 3.0, 2.0, 1.5]),
    (Linear(base=1.0, end=0.2, length=4), [1.0, 0.8, 0.6, 0.4, 0.2, 0.2]),
    (Polynomial(base=5.0, end=1.0, length=2, power=2.0), [5.0, 2.0, 1.0, 1.0]),
    (Piecewise(values=(1.0, 0.5, 0.1), boundaries=(1, 3)), [1.0, 0.5, 0.5, 0.1, 0.1]),
    # cos is 1, √½, 0, -√½, -1 at the quarters: with half-height 2 around 3.
    (Cosine(base=5.0, end=1.0, length=2), [5.0, 3.0, 1.0, 1.0]),
    (CosineRestarts(base=4.0, length=2), [4.0, 2.0, 4.0, 2.0]),
    # Cycles of 1, 2 and 4 positions: 1 | 1, 1/2 | 1, (1 + √½)/2, 1/2.
    (
        CosineRestarts(base=1.0, length=1, growth=2),
        [1.0, 1.0, 0.5, 1.0, (1 + 0.5**0.5) / 2, 0.5],
    ),
    (Triangular(low=1.0, high=3.0, length=2), [1.0, 2.0, 3.0, 2.0, 1.0, 2.0]),
    (Triangular(low=0.0, high=4.0, length=1, shrink=0.5), [0.0, 4.0, 0.0, 2.0, 0.0, 1.0]),
    (WarmUp(after=4.0, length=3), [1.0, 2.0, 3.0, 4.0, 4.0]),
    (WarmUp(after=Exponential(base=4.0, factor=0.5), length=1), [2.0, 4.0, 2.0, 1.0]),
]


@pytest.mark.parametrize(("schedule", "expected"), BY_HAND, ids=lambda case: str(case)[:50])
def test_values_are_those_worked_out_by_hand(schedule: Schedule, expected: list[float]) -> None:
    assert values(schedule, len(expected)) == pytest.approx(expected, rel=1e-12)


def test_every_registered_schedule_is_worked_out_by_hand() -> None:
    assert {schedule.name for schedule, _ in BY_HAND} == {
        name for name, cls in list_rate_schedules().items() if cls.__module__.startswith("simfl.")
    }


def torch_cyclic(optimizer: torch.optim.Optimizer) -> Any:
    return lr_scheduler.CyclicLR(
        optimizer, base_lr=0.1, max_lr=0.5, step_size_up=3, mode="triangular2", cycle_momentum=False
    )


AS_TORCH: list[tuple[Schedule, Any]] = [
    (Exponential(base=0.5, factor=0.9), lambda o: lr_scheduler.ExponentialLR(o, gamma=0.9)),
    (
        Linear(base=0.5, end=0.1, length=6),
        lambda o: lr_scheduler.LinearLR(o, start_factor=1.0, end_factor=0.2, total_iters=6),
    ),
    (
        Polynomial(base=0.5, length=7, power=1.5),
        lambda o: lr_scheduler.PolynomialLR(o, total_iters=7, power=1.5),
    ),
    (
        Piecewise(values=(0.5, 0.05, 0.005), boundaries=(2, 5)),
        lambda o: lr_scheduler.MultiStepLR(o, milestones=[2, 5], gamma=0.1),
    ),
    (
        Cosine(base=0.5, end=0.1, length=10),
        lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=10, eta_min=0.1),
    ),
    (
        CosineRestarts(base=0.5, end=0.1, length=2, growth=2),
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=2, T_mult=2, eta_min=0.1),
    ),
    (Triangular(low=0.1, high=0.5, length=3, shrink=0.5), torch_cyclic),
    (
        WarmUp(after=0.5, length=4),
        lambda o: lr_scheduler.LinearLR(o, start_factor=1 / 5, total_iters=4),
    ),
]


@pytest.mark.parametrize(("schedule", "make"), AS_TORCH, ids=[s.name for s, _ in AS_TORCH])
def test_values_are_those_of_torch(schedule: Schedule, make: Any) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = make(optimizer)
    expected = []
    for _ in range(11):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    # torch multiplies from step to step: a dozen roundings of float64.
    assert values(schedule, 11) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("schedule", "_expected"), BY_HAND)
def test_config_goes_through_json(schedule: Schedule, _expected: list[float]) -> None:
    config = json.loads(json.dumps(schedule.get_config()))
    assert type(schedule).from_config(config) == schedule


def test_schedules_go_by_rounds_unless_told_otherwise() -> None:
    assert Constant(1.0).unit == "round"
    assert Constant(1.0, unit="step").unit == "step"


@pytest.mark.parametrize(
    "after",
    [
        Piecewise(values=(1.0, 0.5), boundaries=(2,), unit="step"),
        ("piecewise", {"values": [1.0, 0.5], "boundaries": [2]}),
        ["piecewise", {"values": [1.0, 0.5], "boundaries": [2], "unit": "step"}],
    ],
)
def test_warm_up_takes_a_schedule_in_any_form(after: Any) -> None:
    schedule = WarmUp(after=after, length=1, unit="step")
    assert values(schedule, 4) == [0.5, 1.0, 1.0, 0.5]
    inner = {"values": (1.0, 0.5), "boundaries": (2,), "unit": "step"}
    assert schedule.get_config()["after"] == ("piecewise", inner)


def test_warm_up_refuses_a_schedule_of_another_unit() -> None:
    with pytest.raises(ConfigError, match="unit is 'step', but that of 'after' is 'round'"):
        WarmUp(after=Constant(1.0), length=1, unit="step")


def test_warm_up_names_a_schedule_that_is_not_there() -> None:
    with pytest.raises(
        UnknownNameError, match=r"no schedule named 'cosin'\. Did you mean 'cosine'"
    ):
        WarmUp(after=("cosin", {"base": 1.0, "length": 2}), length=1)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("constant", {"base": -1.0}),
        ("exponential", {"base": 1.0, "factor": 1.5}),
        ("linear", {"base": 1.0, "length": 0}),
        ("piecewise", {"values": (1.0, 2.0), "boundaries": ()}),
        ("piecewise", {"values": (1.0, 2.0, 3.0), "boundaries": (4, 4)}),
        ("triangular", {"low": 2.0, "high": 1.0, "length": 1}),
        ("cosine", {"base": 1.0, "length": 2, "unit": "epoch"}),
    ],
)
def test_impossible_schedules_are_refused(name: str, config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=name):
        Schedule.from_name(name, config)
