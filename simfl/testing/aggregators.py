"""The contract of aggregators, which all of simfl's pass."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce
from typing import Final

from simfl.aggregation import Aggregator, PreAggregator, mix_before
from simfl.aggregation.trial import Cohort, check_stack
from simfl.optimizer.encoding import decode_state
from simfl.optimizer.trial import SHAPES, Shapes, bits_of, form_of, require, require_near
from simfl.testing.clauses import check_clauses
from simfl.vector import Vector, find_vectors, move


def check_aggregator(
    aggregator: Aggregator,
    *,
    shapes: Shapes = SHAPES,
    pre_aggregators: Sequence[PreAggregator] = (),
) -> None:
    """Check that an aggregator keeps its contract.

    It must be a frozen dataclass with a JSON config; preserve the names, shapes and dtypes of
    deltas; give the same result however a cohort is split, also with dropped clients, and the same
    for a stack as for its clients one by one (up to rounding, since the order of sums differs); not
    modify the right-hand contribution in ``merge``; have contributions that can be pickled; leave
    its state and what it announces as they are; and have a state that checkpoints can hold. All of
    it is checked in the first round and in the next, whose state the first has made.

    Args:
        aggregator: an instance with the hyper-parameters to check it with.
        shapes: the names and shapes of the weights to check it with.
        pre_aggregators: what comes before it; they are checked with it.

    Raises:
        ContractError: naming the clause that is violated, and how.

    >>> from simfl.aggregation import Mean
    >>> check_aggregator(Mean())
    """
    for step in pre_aggregators:
        check_clauses(step, step, {})
    rule = mix_before(aggregator, tuple(pre_aggregators))
    check_clauses(aggregator, Cohort.first(rule, shapes), _CLAUSES)
    check_clauses(aggregator, Cohort.first(rule, shapes).next(), _CLAUSES)


def _check_form(cohort: Cohort) -> None:
    form = form_of(cohort.delta(0))
    found = form_of(cohort.one_by_one())
    require(found == form, f"{form} became {found}")


def _check_purity(cohort: Cohort) -> None:
    first, second = cohort.one_by_one(), cohort.one_by_one()
    same = bits_of({"delta": first}) == bits_of({"delta": second})
    require(same, "aggregating the same deltas twice gave different results")


def _check_merge(cohort: Cohort) -> None:
    left, right = cohort.lift(0), cohort.lift(1)
    before = [vector.clone() for vector in find_vectors(right)]
    merged = cohort.rule.merge(left, right)
    require(_same(find_vectors(right), before), "merge() changed the right-hand contribution")
    if not cohort.rule.accepts_read_only:
        return
    require(isinstance(right, Vector), "takes_read_only is only for Vectors as contributions")
    after = merged.clone()
    right.mul_(0.0)
    require(_same([merged], [after]), "takes_read_only, but merge() keeps the right-hand memory")


def _check_state(cohort: Cohort) -> None:
    before = bits_of(cohort.state), bits_of(cohort.announced)
    first, following = cohort.end(reduce(cohort.rule.merge, map(cohort.lift, cohort.clients)))
    after = bits_of(cohort.state), bits_of(cohort.announced)
    require(after == before, "a method changed the state, or what was announced")
    stored = bits_of(following)
    first.mul_(0.0)
    require(bits_of(following) == stored, "the state shares memory with the aggregate")
    read = replace(cohort, state=decode_state(json.loads(before[0])))
    same = bits_of({"": read.one_by_one()}) == bits_of({"": cohort.one_by_one()})
    require(same, "a state from a checkpoint gives another result")


def _check_sending(cohort: Cohort) -> None:
    lifted = map(cohort.lift, cohort.clients)
    sent = [pickle.loads(pickle.dumps(move(value, "cpu"))) for value in lifted]
    total = cohort.finish(reduce(cohort.rule.merge, sent))
    require_near(cohort.one_by_one(), total, "of pickled contributions, the aggregate's")


def _check_grouping(cohort: Cohort) -> None:
    expected = cohort.one_by_one()
    require_near(expected, cohort.in_a_tree(len(cohort.clients)), "along the tree, the aggregate's")
    last, *others = [cohort.lift(client) for client in reversed(cohort.clients)]
    from_the_right = reduce(lambda right, left: cohort.rule.merge(left, right), others, last)
    require_near(expected, cohort.finish(from_the_right), "merged from the right, the aggregate's")


def _check_dropped(cohort: Cohort) -> None:
    for dropped in ((0, 5), (9, 10)):
        left = tuple(client for client in cohort.clients if client not in dropped)
        some = replace(cohort, clients=left)
        expected, num = some.one_by_one(), len(cohort.clients)
        require_near(expected, some.in_a_tree(num), "without some clients, the aggregate's")
        require_near(expected, some.in_stacks((0, 3)), "without some of a stack, the aggregate's")


_CLAUSES: Final[dict[str, Callable[[Cohort], None]]] = {
    "keep names, order, shapes and dtypes": _check_form,
    "keep a state that is a value": _check_state,
    "depend on its arguments alone": _check_purity,
    "not modify the right-hand contribution in merge()": _check_merge,
    "have contributions that can be pickled": _check_sending,
    "give the same result however a cohort is split": _check_grouping,
    "treat a stack of clients as it does each client": check_stack,
    "work without clients that were dropped": _check_dropped,
}


def _same(one: Sequence[Vector], other: Sequence[Vector]) -> bool:
    pairs = zip(one, other, strict=True)
    return all(bits_of({"": left}) == bits_of({"": right}) for left, right in pairs)
