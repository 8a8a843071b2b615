"""What clients and the server keep from round to round, and what a round does to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from simfl.seeding import SERVER

H = TypeVar("H")
"""What holds a client's state: the value, or a reference to it."""

State: TypeAlias = dict[str, Any]
"""What one plug-in remembers."""


@dataclass(frozen=True)
class KeptState:
    """What a client's optimizer keeps from one of its rounds to the next."""

    num_steps: int
    """Steps taken in all rounds; 0 if no schedule depends on steps."""
    modules: tuple[State, ...]
    """What each module keeps, in order."""
    regularizers: tuple[State, ...]
    """What each regularizer keeps, in order."""


@dataclass(frozen=True)
class OptimizerState:
    """All that an Optimizer remembers. A value: a step makes a new one and leaves this alone."""

    seed: int = 0
    """The run's seed."""
    client: int = SERVER
    """The client's id; the server's is -1."""
    round: int = 0
    """How often ``start_round`` was called."""
    step: int = 0
    """Steps taken since then."""
    num_steps: int = 0
    """Steps taken in all rounds."""
    modules: tuple[State, ...] = ()
    """The state of each module, in order."""
    regularizers: tuple[State, ...] = ()
    """The state of each regularizer, in order."""


@dataclass(frozen=True)
class Kept(Generic[H]):
    """A client has taken part and keeps a state, which replaces its previous one."""

    state: H


@dataclass(frozen=True)
class Nothing:
    """A client has taken part and keeps nothing: its previous state is deleted."""


@dataclass(frozen=True)
class Dropped:
    """A client was dropped from the round: its previous state is retained."""

    reason: str


Retained: TypeAlias = Kept[H] | Nothing | Dropped
"""The outcome of a round for a client's state."""
