"""Aggregator: how the cohort's deltas become one, and how contributions merge on the way."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, ClassVar, Final, TypeAlias

from torch import Tensor, tensor

from simfl.aggregation.forms import lengthen
from simfl.component import Component
from simfl.errors import AggregationError, one_line
from simfl.messages import Contribution
from simfl.optimizer import Optimizer
from simfl.states import State
from simfl.vector import Vector

_SHORTCUTS: Final = {"lift_stack": ("lift", "merge")}
"""Shortcut methods, and the methods whose combination each of them must equal."""

Weighted: TypeAlias = "tuple[tuple[Vector, float], ...]"


@dataclass(frozen=True)
class AggregationContext:
    """The round that is aggregated."""

    seed: int
    """The run's seed."""
    round: int
    """Which round, from 1."""
    contributed: int
    """The number of clients whose deltas were merged."""
    planned: int
    """The number of clients in the cohort, those included that were dropped."""
    population: int
    """The number of clients in the federation."""
    trainable: tuple[str, ...]
    """The names of the weights that are trained. A delta's other names are buffers, such as
    BatchNorm's running means."""
    counts: frozenset[str] = frozenset()
    """The names of tensors that are integer or boolean in the model; they are float64 in a
    delta."""

    def compared(self, deltas: Vector) -> Vector:
        """Return the part of deltas that distances are measured in: without buffers."""
        trained = deltas.select(name for name in self.trainable if name in deltas)
        return trained or deltas


class Aggregator(Component, kind="aggregator"):
    """A rule by which deltas are merged along the reduction tree.

    ``lift`` turns one client's delta into a value, ``merge`` merges two such values, ``finish``
    turns the last one into the aggregated delta. The first two run on the client actors.

    A rule may keep a state on the server from round to round, and announce what clients need of
    it. All methods leave states, and what is announced, as they are. A rule that does neither may
    leave out the arguments: ``lift(delta, weight)``, ``lift_stack(deltas_C, weights)`` and
    ``finish(total, weight)``, which then returns the delta alone.
    """

    takes_read_only: ClassVar[bool] = False
    """As for any component; and that contributions are Vectors, of which ``merge`` keeps nothing of
    the right one: the next delta is written where that was."""

    uses_weights: ClassVar[bool] = True
    """Whether the clients' weights count. If not, weights other than numbers of examples, by
    ``server.weighting`` or by the algorithm, are refused."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Undo a base class's shortcut if the class overrides a method that it stands for."""
        super().__init_subclass__(**options)
        for shortcut, steps in _SHORTCUTS.items():
            if any(_depth(cls, step) < _depth(cls, shortcut) for step in steps):
                setattr(cls, shortcut, getattr(Aggregator, shortcut))
        lengthen(cls)

    def check_cohort(self, size: int) -> None:
        """Check, before the run, that the rule works with this number of updates per round.

        Raises:
            ConfigError: if it cannot.
        """

    def init(self, like: Vector) -> State:
        """Return the state before the first round: Vectors and tensors by name.

        Args:
            like: names, shapes and dtypes of the trained weights' part of a delta.
        """
        return {}

    def announce(self, state: State) -> State:
        """Return what clients need of the state. It is sent with the weights, and its bytes count.

        Args:
            state: what ``init``, or the last round's ``finish``, has returned.
        """
        return {}

    def lift(self, *args: Any, **kwargs: Any) -> Any:
        """Return what one client contributes: (delta, weight, announced) -> any value.

        The method takes over the memory of the delta; ``announced`` is what ``announce`` returned.
        """
        raise NotImplementedError(f"{type(self).__name__} has no lift()")

    def lift_stack(
        self, deltas_C: Vector, weights: Sequence[float], announced: State | None = None
    ) -> Any:
        """Return what a stack of C clients contributes: their deltas lifted and merged in order.

        A class may override it for speed, with the same result as ``lift`` and ``merge``. If a
        subclass overrides one of those, this method falls back to lifting the deltas one by one.
        """
        pairs = zip(deltas_C.unstack(), weights, strict=True)
        return reduce(self.merge, (self.lift(delta, own, announced or {}) for delta, own in pairs))

    def merge(self, left: Any, right: Any) -> Any:
        """Merge two contributions, in the order of the tree; may reuse the left one's memory."""
        raise NotImplementedError(f"{type(self).__name__} has no merge()")

    def finish(self, *args: Any, **kwargs: Any) -> Any:
        """Return the aggregated delta and the next state: (total, weight, state, context) -> both.

        ``total`` is all contributions, merged, whose memory may be reused; ``weight`` the sum of
        the clients' weights; ``state`` what ``init``, or the last round's ``finish``, has returned;
        and ``context`` an ``AggregationContext``. What is returned shares no memory.
        """
        raise NotImplementedError(f"{type(self).__name__} has no finish()")


def _depth(cls: type, name: str) -> int:
    """Return the position in the MRO of the class that defines a name; its length if none does."""
    owners = [depth for depth, owner in enumerate(cls.__mro__) if name in vars(owner)]
    return min(owners, default=len(cls.__mro__))


class EveryUpdate(Aggregator):
    """An aggregator that must see every delta, and so needs memory for N of them.

    Robust rules are of this kind: no partial sums exist for them.
    """

    def lift(self, delta: Vector, weight: float, announced: State | None = None) -> Weighted:
        """Return the delta and its weight, as a sequence of one."""
        return ((delta, weight),)

    def merge(self, left: Weighted, right: Weighted) -> Weighted:
        """Append one sequence to the other."""
        return left + right

    def finish(
        self,
        total: Weighted,
        weight: float,
        state: State | None = None,
        context: AggregationContext | None = None,
    ) -> Any:
        """Stack the deltas and apply the rule; without a context, return the delta alone."""
        delta = self.combine(*stacked(total), context)
        return delta if context is None else (delta, state)

    def combine(self, *args: Any, **kwargs: Any) -> Vector:
        """Return one delta from a stack of them: (deltas_C, weights_C, context) -> Vector.

        ``deltas_C`` is a stack of C deltas, ``weights_C`` [C] the clients' weights, and ``context``
        an ``AggregationContext``, which a rule may leave out.
        """
        raise NotImplementedError(f"{type(self).__name__} has no combine()")


@dataclass(frozen=True)
class Separate:
    """Deltas that are wanted one by one: ``Contribution.total`` in place of an aggregator's."""

    deltas: tuple[tuple[Vector, float], ...]
    """Each with its weight, in the order of the cohort."""

    def __add__(self, other: Separate) -> Separate:
        return Separate(self.deltas + other.deltas)


def stacked(total: Iterable[tuple[Vector, float]]) -> tuple[Vector, Tensor]:
    """Return the deltas as a stack of C, and their weights [C]."""
    deltas, weights = zip(*total, strict=True)
    return Vector.stack(deltas), tensor(weights)


def merge_contributions(
    left: Contribution, right: Contribution, *, aggregator: Aggregator, optimizer: Optimizer
) -> Contribution:
    """Merge two contributions, in the order of the tree; may reuse the left one's memory.

    Args:
        left: of the lower cohort positions.
        right: of the higher ones.
        aggregator: merges the deltas.
        optimizer: of the clients; its modules define how their auxiliary variables merge.

    Raises:
        AggregationError: if an algorithm sends what does not add up.
    """
    sends_weights = left.total is not None
    if sends_weights != (right.total is not None):
        raise AggregationError(
            "some clients send a delta and others of the same round do not; client() of the "
            "algorithm must send one from each client, or from none"
        )
    merge = operator.add if isinstance(left.total, Separate) else aggregator.merge
    return Contribution(
        total=merge(left.total, right.total) if sends_weights else None,
        weight=left.weight + right.weight,
        aux=optimizer.merge_aux(left.aux, right.aux),
        sums={name: left.sums[name] + right.sums[name] for name in left.sums},
        update_sums=_added(left.update_sums, right.update_sums),
    )


def _added(left: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
    """Add up by key; what only one side has stays as it is."""
    return {
        **left,
        **right,
        **{key: _sum(key, left[key], right[key]) for key in left if key in right},
    }


def _sum(key: str, left: Any, right: Any) -> Any:
    try:
        return left + right
    except Exception as error:
        raise AggregationError(
            f"what two clients send as {key!r} does not add up: {type(error).__name__}: "
            f"{one_line(error)}; client() of the algorithm must send the same form from each"
        ) from error
