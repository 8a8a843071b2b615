"""UpdateTransform: what becomes of a client's update between its training and the server.

Shapes: C clients of a stack, D numbers of an update.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import torch

from simfl.component import Component
from simfl.seeding import torch_generator
from simfl.states import State
from simfl.vector import Vector

Shapes: TypeAlias = "Mapping[str, tuple[int, ...]]"
"""The shape of each tensor of one client's update, in order."""


@dataclass(frozen=True)
class UpdateContext:
    """All that a transform may know besides the update and its state."""

    seed: int = 0
    """The run's seed."""
    clients: tuple[int, ...] = (0,)
    """[C] the client's id; of a stack, the id of each row."""
    round: int = 1
    """Which round this is, from 1."""
    index: int = 0
    """The transform's index in its list: two of one kind must not draw the same numbers."""
    num_examples: tuple[int, ...] = ()
    """[C] how many examples each client trains on."""
    weights: tuple[float, ...] = ()
    """[C] by which the server weights each client's update."""
    shapes: Shapes = field(default_factory=dict)
    """Names and shapes of one client's update; their numbers one after the other are D."""

    def generators(self) -> list[torch.Generator]:
        """Return a new generator for each client, on the CPU.

        It depends on the seed, the round, the client and the index alone: a client draws the same
        numbers in a stack, alone, and when its round is repeated.
        """
        purpose = f"transform/{self.index}"
        return [
            torch_generator(self.seed, purpose, round=self.round, client=client)
            for client in self.clients
        ]


class UpdateTransform(Component, kind="transform"):
    """A function of a client's update, with a state that the client keeps between its rounds.

    An update is start minus end of the client's training, of the weights that are trained and
    shared. Transforms run on the client, in the order of ``client.transforms``; what the last one
    returns is what the server adds up. Buffers are sent as they are.

    They are called for one client or for a stack of C clients, in which the tensors of the update
    and the leaves of the state have a leading client axis, and must treat each client of a stack as
    they would alone.
    """

    def init(self, like: Vector) -> State:
        """Return what a client keeps before its first round: a dict of Vectors and tensors.

        Args:
            like: a Vector with the names, shapes, dtypes and device of one client's update; never
                a stack, states are stacked afterwards.
        """
        return {}

    def apply(self, update: Vector, state: State, context: UpdateContext) -> tuple[Vector, State]:
        """Return the transformed update and the new state; the arguments stay what they are.

        The update has the same names, shapes and dtypes; it may be the given one, but must not
        share memory with the new state. If the client is dropped from the round, it keeps the
        previous state.
        """
        raise NotImplementedError(f"{type(self).__name__} has no apply()")

    @property
    def keeps_state(self) -> bool:
        """Whether a client must keep the state from a round to its next one."""
        return type(self).init is not UpdateTransform.init

    def check_update(self, shapes: Shapes) -> None:
        """Check, before the run, that it works with updates of these shapes.

        Raises:
            ConfigError: if it does not.
        """
