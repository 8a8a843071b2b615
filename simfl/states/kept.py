"""What clients and the server keep from round to round, and what a round does to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

from simfl.seeding import SERVER
from simfl.vector import Vector

H = TypeVar("H")
"""What holds a client's state: the value, or a reference to it."""

State: TypeAlias = dict[str, Any]
"""What one plug-in remembers."""


@dataclass(frozen=True)
class KeptState:
    """What a client keeps from one of its rounds to the next."""

    num_steps: int
    """Steps taken in all rounds; 0 if no schedule depends on steps."""
    modules: tuple[State, ...]
    """What each module keeps, in order."""
    regularizers: tuple[State, ...]
    """What each regularizer keeps, in order."""
    phases: dict[str, KeptState] = field(default_factory=dict)
    """What the optimizer keeps of other trainings than the round's main one, by phase."""
    algorithm: State = field(default_factory=dict)
    """What the algorithm keeps."""
    personal: Vector | None = None
    """The client's own values of the weights that it does not share; None: the initial ones."""
    transforms: tuple[State, ...] = ()
    """What each transform of the update keeps, in order."""


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
class ServerState:
    """What the server keeps from a round to the next one, besides the weights."""

    optimizer: OptimizerState
    algorithm: State = field(default_factory=dict)
    """What the server's half of the algorithm keeps."""
    aggregator: State = field(default_factory=dict)
    """What the aggregator keeps."""


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
