"""The weights that clients keep for themselves, which an algorithm does not see.

What an algorithm is given, and what it returns, has shared weights alone, so that its arithmetic is
the same with personal weights and without. Wherever the model is called, they are filled in.

Shapes: C clients of a stack, A those that still have steps to do, a prefix of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from simfl.client.steps import AS_THEY_ARE, Order
from simfl.states import KeptState
from simfl.vector import Vector


class PersonalWeights:
    """The personal weights of a client, or of a stack of them, during a round.

    They start from what each client has kept, and are trained in each of the round's trainings, one
    after another.

    Args:
        initial: those of a client that is new; without names if there are none.
        trained: the names of the weights that are trained.
        states: [C] what each client has kept.
        stacked: whether it is a stack.
    """

    def __init__(
        self,
        initial: Vector,
        trained: Collection[str],
        states: Sequence[KeptState | None],
        *,
        stacked: bool,
    ) -> None:
        own = [
            initial if state is None or state.personal is None else state.personal
            for state in (states if initial else states[:0])
        ]
        self._names = frozenset(initial.names)
        self._shared = frozenset(trained).difference(self._names) if self._names else frozenset()
        self.now = (Vector.stack(own) if stacked else own[0]) if own else initial
        """Their values, in the order of the clients."""

    @property
    def values(self) -> list[Vector]:
        """Their values, or nothing if there are none."""
        return [self.now] if self._names else []

    def take(self, weights: Vector, order: Order) -> None:
        """Take over the values at the end of a training, of clients in this order."""
        if self._names:
            self.now = order.restore(weights.select(self.now).clone())

    def fill_in(
        self, weights: Vector, order: Order = AS_THEY_ARE, active: int | None = None
    ) -> Vector:
        """Return weights with the personal ones that they lack.

        Args:
            weights: of a client, of a stack, or the same for all of a stack.
            order: that of the clients.
            active: A, of a stack; None: all.
        """
        if not self._names:
            return weights
        now = self.now
        if now.stacked:
            now = order.sort(now).rows(slice(active))
            weights = weights.expand(len(now.tensors[0]))
        return now | weights

    def fill_in_given(
        self, given: Any, order: Order = AS_THEY_ARE, active: int | None = None
    ) -> Any:
        """Return what functions of the model are given, with all weights in it filled in."""
        if not self._names:
            return given
        if isinstance(given, tuple):
            return tuple(self.fill_in_given(value, order, active) for value in given)
        if isinstance(given, Mapping):
            return {key: self.fill_in_given(given[key], order, active) for key in given}
        is_weights = isinstance(given, Vector) and self._shared <= {*given.names}
        return self.fill_in(given, order, active) if is_weights else given

    def without(self, weights: Vector) -> Vector:
        """Return the weights that are shared."""
        if not self._names:
            return weights
        return weights.without(self._names)

    def add(self, gradients: Vector, term: Vector) -> Vector:
        """Return gradients with a term added to those of shared weights."""
        if not self._names:
            return gradients + term.select(gradients)
        shared = self.without(gradients)
        return gradients | (shared + term.select(shared))

    def rows(self, num_clients: int) -> list[Vector | None]:
        """Return the values of each client, in its own memory; None if there are none."""
        if not self._names:
            return [None] * num_clients
        return [row.clone() for row in self.now.unstack()] if self.now.stacked else [self.now]
