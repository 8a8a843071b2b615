"""Aggregator: how the cohort's deltas become one, and how contributions merge on the way."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import reduce
from typing import Any, ClassVar, Final, TypeAlias

from torch import Tensor, tensor

from simfl.component import Component
from simfl.messages import Contribution
from simfl.optimizer import Optimizer
from simfl.vector import Vector

_SHORTCUTS: Final = {"lift_stack": ("lift", "merge"), "finish_round": ("finish", "combine")}
"""Shortcut methods, and the methods whose combination each of them must equal."""

Weighted: TypeAlias = "tuple[tuple[Vector, float], ...]"


class Aggregator(Component, kind="aggregator"):
    """A rule by which deltas are merged along the reduction tree.

    ``lift`` turns one client's delta into a value, ``merge`` merges two such values, ``finish``
    turns the last one into the aggregated delta. The first two run on the client actors.
    """

    takes_read_only: ClassVar[bool] = False
    """As for any component; and that contributions are Vectors, of which ``merge`` keeps nothing of
    the right one: the next delta is written where that was."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Undo a base class's shortcut if the class overrides a method that it stands for."""
        super().__init_subclass__(**options)
        for shortcut, steps in _SHORTCUTS.items():
            if any(_depth(cls, step) < _depth(cls, shortcut) for step in steps):
                setattr(cls, shortcut, getattr(Aggregator, shortcut))

    def check_cohort(self, size: int) -> None:
        """Check, before the run, that the rule works with this number of updates per round.

        Raises:
            ConfigError: if it cannot.
        """

    def lift(self, delta: Vector, weight: float) -> Any:
        """Return what one client contributes; takes ownership of the delta."""
        raise NotImplementedError(f"{type(self).__name__} has no lift()")

    def lift_stack(self, deltas_C: Vector, weights: Sequence[float]) -> Any:
        """Return what a stack of C clients contributes: their deltas lifted and merged in order.

        A class may override it for speed, with the same result as ``lift`` and ``merge``. If a
        subclass overrides one of those, this method falls back to lifting the deltas one by one.
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
        """Do the same, for rules that treat integer tensors differently.

        Args:
            total: all contributions, merged.
            weight: the clients' weights, added up.
            counts: the names of tensors that are integer or boolean in the model; they are float64
                in a delta.
        """
        return self.finish(total, weight)


def _depth(cls: type, name: str) -> int:
    """Return the position in the MRO of the class that defines a name; its length if none does."""
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


def merge_contributions(
    left: Contribution, right: Contribution, *, aggregator: Aggregator, optimizer: Optimizer
) -> Contribution:
    """Merge two contributions, in the order of the tree; may reuse the left one's memory.

    Args:
        left: of the lower cohort positions.
        right: of the higher ones.
        aggregator: merges the deltas.
        optimizer: of the clients; its modules define how their auxiliary variables merge.
    """
    sends_weights = left.total is not None
    return Contribution(
        total=aggregator.merge(left.total, right.total) if sends_weights else None,
        weight=left.weight + right.weight,
        aux=optimizer.merge_aux(left.aux, right.aux),
        sums={name: left.sums[name] + right.sums[name] for name in left.sums},
        update_sums=_added(left.update_sums, right.update_sums),
    )


def _added(left: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
    """Add up by key; what only one side has stays as it is."""
    both = {key: left[key] + right[key] for key in left if key in right}
    return {**left, **right, **both}
