"""The Optimizer's plug-ins: the contract of modules and regularizers.

A plug-in is a frozen dataclass of hyper-parameters. Its state is an explicit value, passed in and
returned: a dict of Vectors and of tensors (a count is a 0-d tensor). Because plug-ins keep
nothing themselves, states are stacked across clients, moved between actors and written to disk
without code of the plug-in.

A state is at first the empty dict. What auxiliary variables add before the first step stays;
``init`` fills in the rest once the shapes are known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from simfl.component import Component
from simfl.vector import Vector

State: TypeAlias = dict[str, Any]
"""What a plug-in remembers: Vectors with the names of the weights, and tensors (counts are 0-d).
For a stack of C clients every leaf has a leading axis C."""

AuxVar: TypeAlias = dict[str, Any]
"""What a module shares with its counterpart on the other side: numbers and Vectors that add up."""


@dataclass(frozen=True)
class Context:
    """The step: all that a plug-in may know besides gradients, weights and state."""

    seed: int = 0
    """The run's seed."""
    clients: tuple[int, ...] = (-1,)
    """The client's id; of a stack, the id of each row. The server is -1."""
    round: int = 0
    """Which round this is, from 1; 0 before the first ``start_round``."""
    step: int = 1
    """Which step of the round this is, from 1."""
    index: int = 0
    """The plug-in's index in its list: two of one kind must not draw the same numbers."""
    owns_state: bool = False
    """Whether a module may overwrite what its last ``update`` created and put in its state, unless
    it was also returned as gradients. Optional; it saves the allocation of new memory."""
    owns_gradients: bool = False
    """Whether a module may overwrite the gradients it is given, and return them. Optional."""
    knows_mean: bool = False
    """Whether the module's ``end_steps`` will be called, so that it need not sum over the steps."""


class _PlugIn(Component):
    """What modules and regularizers have in common: a state."""

    keeps_nothing: ClassVar[bool] = False
    """Whether a client keeps none of the state until its next round: ``between_rounds`` is not
    asked then. It holds for the class that says so, and not for those derived from it."""

    def init(self, like: Vector) -> State:
        """Return the state before the first step.

        Args:
            like: a Vector with the names, shapes, dtypes and device of the gradients of one
                client; it is never a stack, states are stacked afterwards.
        """
        return {}

    @property
    def is_deterministic(self) -> bool:
        """Whether the same inputs always give the same result; only secret noise does not."""
        return True

    def start_round(self, state: State) -> State:
        """Return the state as it is when a round begins; it may still be the empty dict."""
        return state

    def between_rounds(self, state: State) -> State:
        """Return the part of the state that a client must keep until its next round.

        By default everything. Drop what the next round sets anyway: a state is kept for every
        client that has ever taken part.
        """
        return state


class OptiModule(_PlugIn, kind="module"):
    """A gradient transformation with state, and perhaps auxiliary variables.

    To write one, override ``update`` and, where there is a state, ``init``.
    ``docs/plugins-optimizer.md`` has a walk-through; ``simfl.testing.check_plugin`` tests it.
    """

    aux_name: ClassVar[str | None] = None
    """The key its auxiliary variables travel under; by default the module's name."""

    owns_aux: ClassVar[bool] = False
    """Whether nothing else refers to the Vectors of ``collect_aux_var``, so that those of another
    client may be added to them in place. Optional."""

    def update(self, gradients: Vector, state: State, context: Context) -> tuple[Vector, State]:
        """Transform the gradients of one step; return them and the new state."""
        raise NotImplementedError(f"{type(self).__name__} has no update()")

    def end_steps(self, state: State, mean: Vector) -> State:
        """Return the state after the last step of a client's round; optional.

        It is called only if ``Context.knows_mean`` was set in each step: the module is the last
        one, and plain SGD with one rate takes the steps, so that start minus end of the weights is
        num_steps * lrate * mean.

        Args:
            state: as the last ``update`` returned it.
            mean: of what ``update`` has returned in the round.
        """
        raise NotImplementedError(f"{type(self).__name__} has no end_steps()")

    def collect_aux_var(self, state: State) -> AuxVar | None:
        """Return what the other side is to know, or None. The state stays what it is."""
        return None

    def process_aux_var(self, state: State, aux_var: AuxVar) -> State:
        """Return the state after auxiliary variables have arrived.

        On the server they are the cohort's, merged by ``merge_aux`` of the clients' module.
        """
        raise KeyError(f"{self.name} takes no auxiliary variables")

    def for_population(self, num_clients: int) -> OptiModule:
        """Return the module for a run with this population; by default, the module itself."""
        return self

    def merge_aux(self, left: AuxVar, right: AuxVar) -> AuxVar:
        """Merge the variables of two sets of clients; by default each entry is added up.

        Must not depend on anything but its arguments. It may reuse the memory of ``left``.
        """
        return add_aux(left, right)


class Regularizer(_PlugIn, kind="regularizer"):
    """A term added to the gradients which depends on the weights."""

    def update(
        self, gradients: Vector, weights: Vector, state: State, context: Context
    ) -> tuple[Vector, State]:
        """Return the regularized gradients and the new state.

        Args:
            gradients: of this step.
            weights: the trainable weights before the step, with the same names.
            state: as ``init`` or the last call returned it.
            context: where the step takes place.
        """
        raise NotImplementedError(f"{type(self).__name__} has no update()")


def add_aux(left: Mapping[str, Any], right: Mapping[str, Any]) -> AuxVar:
    """Add up two sets of variables, entry by entry.

    Raises:
        KeyError: if one set has an entry that the other lacks.
    """
    if left.keys() != right.keys():
        raise KeyError(f"auxiliary variables differ: {sorted(left)} and {sorted(right)}")
    return {key: left[key] + right[key] for key in left}
