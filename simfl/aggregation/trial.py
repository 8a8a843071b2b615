"""An aggregator, tried out on a small cohort.

``lift_stack_fault`` tells before a run whether an aggregator can add up stacks; ``simfl.testing``
checks the whole contract on the same cohort.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, Final

from simfl.aggregation.aggregator import AggregationContext, Aggregator
from simfl.aggregation.tree import TreeSum
from simfl.optimizer.trial import SHAPES, Shapes, draw_normal, fault_of, require_near
from simfl.states import State
from simfl.vector import Vector

_WEIGHTS: Final = (3.0, 1.0, 4.0, 1.5, 9.0, 2.5, 6.0, 5.0, 3.5, 8.0, 0.5, 2.0, 7.0)
"""Weights of 13 clients: enough for most robust rules, even if two clients are dropped."""


@dataclass(frozen=True)
class Cohort:
    """Some clients' deltas, and an aggregator to aggregate them."""

    rule: Aggregator
    shapes: Shapes
    clients: tuple[int, ...] = tuple(range(len(_WEIGHTS)))
    state: State = field(default_factory=dict)
    """What the aggregator has kept before the round."""

    @classmethod
    def first(cls, rule: Aggregator, shapes: Shapes) -> Cohort:
        """Return the cohort of the first round."""
        return cls(rule, shapes, state=rule.init(draw_normal(shapes, 0).zeros_like()))

    def next(self) -> Cohort:
        """Return the cohort of the round after this one."""
        _, state = self.end(reduce(self.rule.merge, map(self.lift, self.clients)))
        return replace(self, state=state)

    @property
    def announced(self) -> State:
        """What the aggregator announces to the clients."""
        return self.rule.announce(self.state)

    def delta(self, client: int) -> Vector:
        """Return a client's delta, in its own memory."""
        return draw_normal(self.shapes, client)

    def lift(self, client: int) -> Any:
        """Return what a client contributes."""
        return self.rule.lift(self.delta(client), _WEIGHTS[client], self.announced)

    def lift_stack(self, clients: Sequence[int]) -> Any:
        """Return what a stack of clients contributes."""
        deltas = Vector.stack([self.delta(client) for client in clients])
        weights = [_WEIGHTS[client] for client in clients]
        return self.rule.lift_stack(deltas, weights, self.announced)

    def finish(self, total: Any) -> Vector:
        """Return the aggregate of all contributions, merged."""
        return self.end(total)[0]

    def end(self, total: Any) -> tuple[Vector, State]:
        """Return the aggregate and the next state."""
        weight = sum(_WEIGHTS[client] for client in self.clients)
        context = AggregationContext(
            seed=7,
            round=2,
            contributed=len(self.clients),
            planned=len(_WEIGHTS),
            population=2 * len(_WEIGHTS),
            trainable=tuple(self.shapes),
        )
        ended: tuple[Vector, State] = self.rule.finish(total, weight, self.state, context)
        return ended

    def one_by_one(self) -> Vector:
        """Return the aggregate of the clients, merged in their order."""
        return self.finish(reduce(self.rule.merge, map(self.lift, self.clients)))

    def in_stacks(self, cuts: Sequence[int]) -> Vector:
        """Return the aggregate of the clients in stacks that begin at these positions."""
        ends = (*cuts[1:], len(self.clients))
        parts = [self.clients[begin:end] for begin, end in zip(cuts, ends, strict=True)]
        return self.finish(reduce(self.rule.merge, map(self.lift_stack, parts)))

    def in_a_tree(self, num_positions: int) -> Vector:
        """Return the aggregate of the clients as leaves of a tree; other positions are empty."""
        tree = TreeSum[Any](num_positions, self.rule.merge)
        for position in range(num_positions):
            tree.add(position, self.lift(position) if position in self.clients else None)
        return self.finish(tree.result())


def lift_stack_fault(aggregator: Aggregator) -> str | None:
    """Return how ``lift_stack`` differs from ``lift`` and ``merge``; None if it does not."""
    return fault_of(lambda: check_stack(Cohort.first(aggregator, SHAPES)))


def check_stack(cohort: Cohort) -> None:
    """Require that stacks of the clients add up to what the clients do one by one."""
    expected = cohort.one_by_one()
    for cuts in ((0,), (0, 4, 8, 12), (0, 8)):
        require_near(expected, cohort.in_stacks(cuts), "of stacks, the aggregate's")
