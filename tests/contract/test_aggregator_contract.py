"""Every registered aggregator keeps the contract; what breaks it is found out."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import pytest
import torch

from simfl.aggregation import (
    AggregationContext,
    Aggregator,
    Bucketing,
    CenteredClipping,
    Krum,
    Mean,
    Median,
    NearestNeighborMixing,
    PreAggregator,
    TrimmedMean,
)
from simfl.testing import ContractError, check_aggregator
from simfl.vector import Vector

REGISTERED = [cls() for cls in Aggregator.registry.values() if cls.__module__.startswith("simfl.")]


@pytest.mark.parametrize(
    "rule",
    [*REGISTERED, TrimmedMean(trim=0.3), Krum(num_byzantine=2), Krum(num_selected=3)],
    ids=str,
)
def test_every_aggregator_keeps_the_contract(rule: Aggregator) -> None:
    check_aggregator(rule)


# -- what is derived ------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClippedMean(Mean):
    """Scale each delta to a norm of at most 0.1: ``lift`` is all that differs."""

    name: ClassVar[str] = "clipped-of-a-test"

    def lift(self, delta: Vector, weight: float) -> Vector:
        return super().lift(delta.mul_(0.1 / max(float(delta.norm()), 0.1)), weight)


class Halves:
    """Takes half of each delta; no aggregator itself."""

    def lift(self, delta: Vector, weight: float) -> Vector:
        return delta.mul_(weight / 2)


@dataclass(frozen=True)
class HalfMean(Halves, Mean):
    name: ClassVar[str] = "half-of-a-test"


@dataclass(frozen=True)
class OwnKrum(Krum):
    """Leaves the distances out and takes the median: ``combine`` is all that differs."""

    name: ClassVar[str] = "own-krum-of-a-test"

    def combine(self, deltas_C: Vector, weights_C: torch.Tensor) -> Vector:
        return Median().combine(deltas_C, weights_C)


class Pair(NamedTuple):
    total: Vector
    square: float


@dataclass(frozen=True)
class PairMean(Aggregator):
    """A mean that carries a number along."""

    name: ClassVar[str] = "pair-of-a-test"

    def lift(self, delta: Vector, weight: float) -> Pair:
        return Pair(delta.mul_(weight), float(delta.norm()) ** 2)

    def merge(self, left: Pair, right: Pair) -> Pair:
        return Pair(left.total.add_(right.total), left.square + right.square)

    def finish(self, total: Pair, weight: float) -> Vector:
        return total.total / weight


@pytest.mark.parametrize("rule", [ClippedMean(), HalfMean(), OwnKrum(), PairMean()], ids=str)
def test_what_is_derived_from_a_rule_keeps_the_contract(rule: Aggregator) -> None:
    check_aggregator(rule)


def test_a_lift_of_ones_own_counts_in_a_stack() -> None:
    """Deltas [3, 4] and [0, 0.05] clipped to 0.1 are [.06, .08] and [0, .05]; weights 1 and 3."""
    deltas = Vector({"w": torch.tensor([[3.0, 4.0], [0.0, 0.05]])}, stacked=True)
    rule = ClippedMean()
    found = rule.finish(rule.lift_stack(deltas, [1.0, 3.0]), 4.0)["w"]
    torch.testing.assert_close(found, torch.tensor([0.015, 0.0575]))


def test_a_combine_of_ones_own_counts_in_a_round() -> None:
    rule = OwnKrum()
    lifted = tuple((Vector({"w": torch.tensor([value])}), 1.0) for value in (1.0, 2.0, 9.0))
    assert rule.finish(lifted, 3.0)["w"].tolist() == [2.0]


@dataclass(frozen=True)
class WithCounts(Mean):
    """Defines the predecessor of ``finish``, which was told the names of counts."""

    name: ClassVar[str] = "with-counts-of-a-test"

    def finish_round(self, total: Vector, weight: float, *, counts: Any) -> Vector:
        return super().finish(total, weight) * (2.0 if counts else 1.0)


@dataclass(frozen=True)
class Following(Aggregator):
    """A mean with a state: it is announced, taken off each delta and added again."""

    name: ClassVar[str] = "following-of-a-test"

    def init(self, like: Vector) -> dict[str, Any]:
        return {"last": like.zeros_like(), "rounds": torch.tensor(0)}

    def announce(self, state: dict[str, Any]) -> dict[str, Any]:
        return {"last": state["last"]}

    def lift(self, delta: Vector, weight: float, announced: dict[str, Any]) -> Vector:
        return (delta - announced["last"]) * weight

    def merge(self, left: Vector, right: Vector) -> Vector:
        return left + right

    def finish(
        self, total: Vector, weight: float, state: dict[str, Any], context: AggregationContext
    ) -> tuple[Vector, dict[str, Any]]:
        mean = total / weight + state["last"]
        return mean, {"last": mean.clone(), "rounds": state["rounds"] + 1}


@pytest.mark.parametrize("rule", [WithCounts(), Following()], ids=str)
def test_every_form_of_a_rule_keeps_the_contract(rule: Aggregator) -> None:
    check_aggregator(rule)


STEPS = (Bucketing(), NearestNeighborMixing())


@pytest.mark.parametrize("rule", [Mean(), Median(), CenteredClipping(), Following()], ids=str)
def test_every_pre_aggregator_keeps_the_contract(rule: Aggregator) -> None:
    assert {type(step) for step in STEPS} == set(PreAggregator.registry.values())
    check_aggregator(rule, pre_aggregators=STEPS)


def test_a_rule_is_told_the_counts_and_returns_its_state() -> None:
    context = AggregationContext(
        seed=0,
        round=1,
        contributed=1,
        planned=1,
        population=1,
        trainable=("w",),
        counts=frozenset({"n"}),
    )
    total, state = Vector({"w": torch.tensor([3.0])}), {"kept": torch.tensor(1)}
    delta, after = WithCounts().finish(total, 2.0, state, context)
    assert delta["w"].tolist() == [3.0]
    assert after is state


# -- what breaks it -------------------------------------------------------------------------------


@dataclass(frozen=True)
class FirstOfAStack(Mean):
    name: ClassVar[str] = "broken-first-of-a-stack"

    def lift_stack(self, deltas_C: Vector, weights: Any) -> Vector:
        return deltas_C.unstack()[0].mul_(sum(weights))


@dataclass(frozen=True)
class ByOrder(Mean):
    name: ClassVar[str] = "broken-by-order"

    def merge(self, left: Vector, right: Vector) -> Vector:
        return left.mul_(0.5).add_(right)


@dataclass(frozen=True)
class WritesRight(Mean):
    name: ClassVar[str] = "broken-writes-right"

    def merge(self, left: Vector, right: Vector) -> Vector:
        return right.add_(left)


@dataclass(frozen=True)
class Keeps(Mean):
    name: ClassVar[str] = "broken-keeps"
    takes_read_only: ClassVar[bool] = True

    def merge(self, left: Vector, right: Vector) -> Any:
        return right | Vector({})


@dataclass(frozen=True)
class Widens(Mean):
    name: ClassVar[str] = "broken-widens-delta"

    def finish(self, total: Vector, weight: float) -> Vector:
        return super().finish(total, weight).map(torch.Tensor.double)


@dataclass(frozen=True)
class NotToBeSent(Mean):
    name: ClassVar[str] = "broken-not-to-be-sent"

    def lift(self, delta: Vector, weight: float) -> Any:
        return lambda: delta

    def merge(self, left: Any, right: Any) -> Any:
        return left

    def finish(self, total: Any, weight: float) -> Vector:
        found: Vector = total()
        return found


@dataclass(frozen=True)
class WritesItsState(Following):
    name: ClassVar[str] = "broken-writes-its-state"

    def lift(self, delta: Vector, weight: float, announced: dict[str, Any]) -> Vector:
        announced["last"].add_(delta)
        return delta.mul_(weight)


@dataclass(frozen=True)
class KeepsTheAggregate(Following):
    name: ClassVar[str] = "broken-keeps-the-aggregate"

    def finish(self, total: Any, weight: float, state: Any, context: Any) -> Any:
        mean, state = super().finish(total, weight, state, context)
        return mean, {**state, "last": mean}


BROKEN: list[tuple[Aggregator, str]] = [
    (WritesItsState(), "keep a state that is a value: a method changed the state"),
    (KeepsTheAggregate(), "keep a state that is a value: the state shares memory"),
    (
        FirstOfAStack(),
        "treat a stack of clients as it does each client: of stacks, the aggregate's",
    ),
    (ByOrder(), "give the same result however a cohort is split: along the tree"),
    (WritesRight(), "not modify the right-hand contribution in merge\\(\\): merge"),
    (Keeps(), "not modify the right-hand contribution in merge\\(\\): takes_read_only, but"),
    (Widens(), "keep names, order, shapes and dtypes"),
    (NotToBeSent(), "have contributions that can be pickled"),
]


@pytest.mark.parametrize(("rule", "clause"), BROKEN, ids=[str(rule) for rule, _ in BROKEN])
def test_what_breaks_the_contract_is_named(rule: Aggregator, clause: str) -> None:
    with pytest.raises(ContractError, match=f"{type(rule).__name__} must {clause}"):
        check_aggregator(rule)
