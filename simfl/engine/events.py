"""A controller's input and output: events about its actors, and the actions to take."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, TypeAlias

from simfl.engine.recovery import Heartbeats
from simfl.messages import Chunk, EvaluationChunk

AnyChunk: TypeAlias = Chunk | EvaluationChunk


@dataclass(frozen=True)
class Joined:
    """An actor was launched. Actors are numbered from 0, in the order in which they join."""

    label: str
    group: int
    is_starting: bool
    """Whether it gets no work before it is ``Back``."""


@dataclass(frozen=True)
class Begin:
    """A pass begins: these chunks are to be run. No task of the previous pass may still run."""

    chunks: Sequence[AnyChunk]
    """Of each lane, longest work first."""
    lanes: Sequence[Hashable]
    """By actor, the lane whose chunks it takes: a group's clients stay with its actors, or a client
    with its own."""
    places: Sequence[str] = ()
    """By actor, the node that it is on, as far as known; empty: not known, or all on one."""
    lane_of: Callable[[Any], Hashable] = lambda chunk: chunk.group


@dataclass(frozen=True)
class Finished:
    """A task has returned its result."""

    task: int


class Cause(Enum):
    """Why a task has failed."""

    DIED = auto()
    """Its actor's process is gone."""
    UNBUILT = auto()
    """Its actor had died before, while it had nothing to do, and has to be started."""
    DEVICE_FULL = auto()
    """The memory of its actor's GPU is full."""
    OTHER = auto()
    """Anything that running the chunk again on another actor would not help."""


@dataclass(frozen=True)
class Failed:
    """A task has failed."""

    task: int
    cause: Cause
    error: Exception
    """Ends the pass if the controller decides so."""


@dataclass(frozen=True)
class Back:
    """An actor has been started and gets work again."""

    actor: int


@dataclass(frozen=True)
class DiedAgain:
    """An actor has died while it was being started."""

    actor: int


@dataclass(frozen=True)
class Tick:
    """Time has passed, about a second since the previous tick."""

    beats: Heartbeats


Event: TypeAlias = Joined | Begin | Finished | Failed | Back | DiedAgain | Tick


@dataclass(frozen=True)
class Assign:
    """Run a chunk on an actor."""

    task: int
    """A number that no other task has."""
    actor: int
    label: str
    """The actor's."""
    chunk: AnyChunk
    retries: int
    """How often the chunk has brought down an actor before."""

    def describe(self) -> str:
        """Return what is being done, for messages: ``round 3, clients 4, 7 on client-1``."""
        if isinstance(self.chunk, EvaluationChunk):
            return f"evaluating on {self.label}"
        clients = ", ".join(map(str, self.chunk.clients))
        return f"round {self.chunk.round}, clients {clients} on {self.label}"


@dataclass(frozen=True)
class Kill:
    """Kill an actor that has stalled; its tasks fail then."""

    actor: int


@dataclass(frozen=True)
class Restart:
    """Start an actor that has died."""

    actor: int


@dataclass(frozen=True)
class Retire:
    """End an actor for good."""

    actor: int


@dataclass(frozen=True)
class Notify:
    """Show the user a message."""

    message: str


@dataclass(frozen=True)
class Abort:
    """Raise an error, which ends the pass.

    Tasks that still run have to be waited for before the next pass, so that their time is not
    counted as that of its tasks; how they end does not matter.
    """

    error: Exception


Action: TypeAlias = Assign | Kill | Restart | Retire | Notify | Abort
