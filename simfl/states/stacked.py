"""StackedStates: what the clients of a stack keep, with an axis for them.

Shapes: C clients of a stack, R those of them that have kept a state.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from simfl.states.kept import Kept, KeptState, Retained
from simfl.vector import Vector, count_bytes, map_leaves


@dataclass(frozen=True, eq=False)
class StackedStates:
    """What C clients keep: of each the same entries.

    Vectors are stacks, and tensors [C, ...]. A Vector that is no stack, and a tensor that is 0-d,
    is the same for all.
    """

    state: KeptState
    """All but ``num_steps``."""
    num_steps: tuple[int, ...]
    """[C] that of each."""

    def row(self, index: int) -> KeptState:
        """Return what one client keeps, in its own memory."""
        own: KeptState = map_leaves(self.state, lambda leaf: _row(leaf, index).clone())
        return replace(own, num_steps=self.num_steps[index])


class KeptRow(Kept[KeptState]):
    """What one client of a stack keeps; its values are copied from the stack when asked for."""

    def __init__(self, stack: StackedStates, index: int) -> None:
        object.__setattr__(self, "stack", stack)
        object.__setattr__(self, "index", index)

    stack: StackedStates
    index: int
    """Its row."""

    @property
    def state(self) -> KeptState:
        """What it keeps, in memory of its own."""
        return self.stack.row(self.index)


def _row(leaf: Any, index: int) -> Any:
    if isinstance(leaf, Tensor):
        return leaf[index] if leaf.dim() else leaf
    return Vector({n: t[index] for n, t in leaf.items()}) if leaf.stacked else leaf


def count_kept_bytes(outcomes: Iterable[Retained[KeptState]]) -> int:
    """Return how many bytes the tensors take that clients keep."""
    total, known = 0, dict[int, int]()
    for one in outcomes:
        if isinstance(one, KeptRow):
            if id(one.stack) not in known:
                known[id(one.stack)] = count_bytes(one.stack.row(one.index))
            total += known[id(one.stack)]
        elif isinstance(one, Kept):
            total += count_bytes(one.state)
    return total


def has_kept(states: Sequence[KeptState | None]) -> bool:
    """Return whether a client has kept a state."""
    entries = getattr(states, "entries", states)
    return any(entry is not None for entry in entries)


def counts_of(states: Sequence[KeptState | None]) -> list[int]:
    """Return [C] how many steps each client has taken before."""
    known = getattr(states, "num_steps", None)
    if known is not None:
        return list(known)
    return [state.num_steps if state else 0 for state in states]
