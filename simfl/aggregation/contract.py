"""The contract of aggregators as a check; all of simfl's aggregators pass it."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from functools import partial, reduce
from typing import Any, Final

import torch

from simfl.aggregation.aggregator import Aggregator
from simfl.aggregation.tree import TreeSum
from simfl.optimizer.contract import ContractError
from simfl.optimizer.contract_case import (
    SHAPES,
    BrokenError,
    bits_of,
    form_of,
    require,
    require_near,
)
from simfl.vector import Vector, find_vectors, move

_WEIGHTS: Final = (3.0, 1.0, 4.0, 1.5, 9.0, 2.5, 6.0, 5.0, 3.5, 8.0, 0.5, 2.0, 7.0)
"""Weights of 13 clients: enough for most robust rules, even if two clients are dropped."""


def check_aggregator(
    aggregator: Aggregator, *, shapes: Mapping[str, Sequence[int]] = SHAPES
) -> None:
    """Check that an aggregator keeps its contract.

    It must be a frozen dataclass with a JSON config; preserve the names, shapes and dtypes of
    deltas; give the same result however a cohort is split, also with dropped clients, and the same
    for a stack as for its clients one by one (up to rounding, since the order of sums differs); not
    modify the right-hand contribution in ``merge``; and have contributions that can be pickled.

    Args:
        aggregator: an instance with the hyper-parameters to check it with.
        shapes: the names and shapes of the weights to check it with.

    Raises:
        ContractError: naming the clause that is violated, and how.

    >>> from simfl.aggregation import Mean
    >>> check_aggregator(Mean())
    """
    subject = _Cohort(aggregator, shapes)
    for clause, check in _CLAUSES.items():
        where = f"{type(aggregator).__name__} must {clause}"
        try:
            check(subject)
        except BrokenError as broken:
            raise ContractError(f"{where}: {broken}") from None
        except Exception as error:
            raise ContractError(f"{where}: {type(error).__name__}: {error}") from error


def lift_stack_fault(aggregator: Aggregator) -> str | None:
    """Return how ``lift_stack`` differs from ``lift`` and ``merge``; None if it does not."""
    try:
        _check_stack(_Cohort(aggregator, SHAPES))
    except Exception as error:
        return f"{type(error).__name__}: {error}".removeprefix("BrokenError: ").partition("\n")[0]
    return None


@dataclass(frozen=True)
class _Cohort:
    """Some clients' deltas, and an aggregator to aggregate them."""

    rule: Aggregator
    shapes: Mapping[str, Sequence[int]]
    clients: tuple[int, ...] = tuple(range(len(_WEIGHTS)))

    def delta(self, client: int) -> Vector:
        """Return a client's delta, in memory of its own."""
        generator = torch.Generator().manual_seed(client)
        draw = partial(torch.randn, generator=generator)
        return Vector({name: draw(tuple(shape)) for name, shape in self.shapes.items()})

    def lift(self, client: int) -> Any:
        return self.rule.lift(self.delta(client), _WEIGHTS[client])

    def lift_stack(self, clients: Sequence[int]) -> Any:
        deltas = Vector.stack([self.delta(client) for client in clients])
        return self.rule.lift_stack(deltas, [_WEIGHTS[client] for client in clients])

    def finish(self, total: Any) -> Vector:
        weight = sum(_WEIGHTS[client] for client in self.clients)
        return self.rule.finish_round(total, weight, counts=())

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


def _check_class(cohort: _Cohort) -> None:
    cls = type(cohort.rule)
    require(is_dataclass(cls) and "__dataclass_params__" in vars(cls), "it is no dataclass")
    require(getattr(cls, "__dataclass_params__").frozen, "it is not frozen")  # noqa: B009
    require(cls.registry.get(cls.name) is cls, f"the name {cls.name!r} is not this class's")


def _check_config(cohort: _Cohort) -> None:
    config = json.loads(json.dumps(cohort.rule.get_config()))
    again = type(cohort.rule).from_config(config)
    require(again == cohort.rule, f"{cohort.rule} came back as {again}")


def _check_form(cohort: _Cohort) -> None:
    form = form_of(cohort.delta(0))
    found = form_of(cohort.one_by_one())
    require(found == form, f"{form} became {found}")


def _check_purity(cohort: _Cohort) -> None:
    first, second = cohort.one_by_one(), cohort.one_by_one()
    same = bits_of({"delta": first}) == bits_of({"delta": second})
    require(same, "aggregating the same deltas twice gave different results")


def _check_merge(cohort: _Cohort) -> None:
    left, right = cohort.lift(0), cohort.lift(1)
    before = [vector.clone() for vector in find_vectors(right)]
    merged = cohort.rule.merge(left, right)
    require(_same(find_vectors(right), before), "merge() changed the right-hand contribution")
    if not cohort.rule.may_borrow:
        return
    require(isinstance(right, Vector), "takes_borrowed is only for Vectors as contributions")
    after = merged.clone()
    right.mul_(0.0)
    require(_same([merged], [after]), "takes_borrowed, but merge() keeps the right-hand memory")


def _check_sending(cohort: _Cohort) -> None:
    lifted = map(cohort.lift, cohort.clients)
    sent = [pickle.loads(pickle.dumps(move(value, "cpu"))) for value in lifted]
    total = cohort.finish(reduce(cohort.rule.merge, sent))
    require_near(cohort.one_by_one(), total, "of pickled contributions, the aggregate's")


def _check_grouping(cohort: _Cohort) -> None:
    expected = cohort.one_by_one()
    require_near(expected, cohort.in_a_tree(len(cohort.clients)), "along the tree, the aggregate's")
    last, *others = [cohort.lift(client) for client in reversed(cohort.clients)]
    from_the_right = reduce(lambda right, left: cohort.rule.merge(left, right), others, last)
    require_near(expected, cohort.finish(from_the_right), "merged from the right, the aggregate's")


def _check_stack(cohort: _Cohort) -> None:
    expected = cohort.one_by_one()
    for cuts in ((0,), (0, 4, 8, 12), (0, 8)):
        require_near(expected, cohort.in_stacks(cuts), "of stacks, the aggregate's")


def _check_dropped(cohort: _Cohort) -> None:
    for dropped in ((0, 5), (9, 10)):
        left = tuple(client for client in cohort.clients if client not in dropped)
        some = _Cohort(cohort.rule, cohort.shapes, left)
        expected, num = some.one_by_one(), len(cohort.clients)
        require_near(expected, some.in_a_tree(num), "without some clients, the aggregate's")
        require_near(expected, some.in_stacks((0, 3)), "without some of a stack, the aggregate's")


_CLAUSES: Final[dict[str, Callable[[_Cohort], None]]] = {
    "be a @dataclass(frozen=True) with a name": _check_class,
    "have a config that goes through JSON": _check_config,
    "keep names, order, shapes and dtypes": _check_form,
    "depend on its arguments alone": _check_purity,
    "not modify the right-hand contribution in merge()": _check_merge,
    "have contributions that can be pickled": _check_sending,
    "give the same result however a cohort is split": _check_grouping,
    "treat a stack of clients as it does each client": _check_stack,
    "work without clients that were dropped": _check_dropped,
}


def _same(one: Sequence[Vector], other: Sequence[Vector]) -> bool:
    pairs = zip(one, other, strict=True)
    return all(bits_of({"": left}) == bits_of({"": right}) for left, right in pairs)
