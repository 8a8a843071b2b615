"""Aggregator: how the cohort's deltas become one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import reduce
from typing import Any, ClassVar, Final, TypeAlias

from torch import Tensor, tensor

from simfl.component import Component
from simfl.vector import Vector

__all__ = ["Aggregator", "EveryUpdate"]

_SHORTCUTS: Final = {"lift_stack": ("lift", "merge"), "finish_round": ("finish", "combine")}
"""Methods that do the same as others together."""

Weighted: TypeAlias = "tuple[tuple[Vector, float], ...]"


class Aggregator(Component, kind="aggregator"):
    """A rule by which deltas are merged along the reduction tree.

    ``lift`` turns one client's delta into a value, ``merge`` merges two such values, ``finish``
    turns the last one into the aggregated delta. The first two run on the client actors.
    """

    takes_borrowed: ClassVar[bool] = False
    """As for any component; and that contributions are Vectors, of which ``merge`` keeps nothing of
    the right one: the next delta is written where that was."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Take back the shortcuts of a base class whose long way the class goes otherwise."""
        super().__init_subclass__(**options)
        for shortcut, steps in _SHORTCUTS.items():
            if any(_depth(cls, step) < _depth(cls, shortcut) for step in steps):
                setattr(cls, shortcut, getattr(Aggregator, shortcut))

    def check_cohort(self, size: int) -> None:
        """Check, before the run, that the rule can do with so many updates a round.

        Raises:
            ConfigError: if it cannot.
        """

    def lift(self, delta: Vector, weight: float) -> Any:
        """Return what one client contributes; takes ownership of the delta."""
        raise NotImplementedError(f"{type(self).__name__} has no lift()")

    def lift_stack(self, deltas_C: Vector, weights: Sequence[float]) -> Any:
        """Return what a stack of C clients contributes: their deltas lifted and merged in order.

        A class that overrides it for speed says the same of what ``lift`` and ``merge`` do there;
        one derived from it that overrides these has its own deltas lifted one by one again.
        """
        lifted = map(self.lift, deltas_C.unstack(), weights)
        return reduce(self.merge, lifted)

    def merge(self, left: Any, right: Any) -> Any:
        """Merge two contributions, in the order of the tree; may reuse the left one's memory."""
        raise NotImplementedError(f"{type(self).__name__} has no merge()")

    def finish(self, total: Any, weight: float) -> Vector:
        """Return the aggregated delta; may reuse the memory of the total.

        Args:
            total: all contributions, merged.
            weight: the clients' weights, added up.
        """
        raise NotImplementedError(f"{type(self).__name__} has no finish()")

    def finish_round(self, total: Any, weight: float, *, counts: Collection[str]) -> Vector:
        """Do the same, knowing which names are of integers; for a rule that tells them apart.

        Args:
            total: all contributions, merged.
            weight: the clients' weights, added up.
            counts: the names of what is integer or boolean in the model, and float64 in a delta.
        """
        return self.finish(total, weight)


def _depth(cls: type, name: str) -> int:
    """Return how far up the class that defines a name is; beyond all where none does."""
    owners = [depth for depth, owner in enumerate(cls.__mro__) if name in vars(owner)]
    return min(owners, default=len(cls.__mro__))


class EveryUpdate(Aggregator):
    """An aggregator that must see every delta, and so needs memory for N of them.

    Robust rules are of this kind: no partial sums exist for them.
    """

    def lift(self, delta: Vector, weight: float) -> Weighted:
        """Return the delta and its weight, as a sequence of one."""
        return ((delta, weight),)

    def merge(self, left: Weighted, right: Weighted) -> Weighted:
        """Append one sequence to the other."""
        return left + right

    def finish(self, total: Weighted, weight: float) -> Vector:
        """Stack the deltas and apply the rule."""
        weights_C = tensor([client_weight for _, client_weight in total])
        return self.combine(Vector.stack([delta for delta, _ in total]), weights_C)

    def combine(self, deltas_C: Vector, weights_C: Tensor) -> Vector:
        """Return one delta from a stack of C deltas and their weights, shape [C]."""
        raise NotImplementedError(f"{type(self).__name__} has no combine()")
