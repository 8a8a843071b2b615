"""What follows a loss, and when a process counts as stalled. It decides and does not act.

All that is lost can be recovered, since a chunk's result depends on its message, the clients'
states and the data alone: a lost chunk is run again, a lost server is restored from the snapshot
its round started from, and a lost object is recreated by repeating what created it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from simfl.engine.chunks import Work

SILENT_S = 300.0
"""How long a process may send no heartbeat if the time of its work is unknown, in seconds."""


class Loss(Enum):
    """What was lost."""

    CLIENT_ACTOR = auto()
    """The process that trained a chunk, and so the chunk's result."""
    SERVER_ACTOR = auto()
    """The server's process: its weights, its optimizer, and what it had received."""
    OBJECT = auto()
    """An object of the object store: a snapshot, a partial, or a client's kept state."""


class Decision(Enum):
    """What to do about a loss."""

    RETRY = auto()
    """Run the chunk again, on whichever actor is free."""
    RESTORE = auto()
    """Restore the server to the start of the round, and send it the partials again."""
    REDO_ROUND = auto()
    """Train the whole round again from its snapshot."""
    ROLL_BACK = auto()
    """Go back to the last checkpoint, or to the start, and replay the rounds since."""
    ABORT = auto()
    """End the run: going on would not help."""


def decide(loss: Loss, *, attempt: int, max_retries: int) -> Decision:
    """Decide what to do about a loss.

    Args:
        loss: what was lost.
        attempt: how often it has been lost, from 1: for a client actor, while it ran this chunk;
            otherwise, in this round.
        max_retries: how many losses are tolerated.

    >>> decide(Loss.CLIENT_ACTOR, attempt=1, max_retries=3)
    <Decision.RETRY: 1>
    >>> decide(Loss.CLIENT_ACTOR, attempt=4, max_retries=3)
    <Decision.ABORT: 5>
    """
    if attempt > max_retries:
        return Decision.ABORT
    if loss is Loss.CLIENT_ACTOR:
        return Decision.RETRY
    if loss is Loss.SERVER_ACTOR:
        return Decision.RESTORE
    # Repeating the round recreates only what the round itself has made.
    return Decision.REDO_ROUND if attempt == 1 else Decision.ROLL_BACK


class StallWatch:
    """Learns from finished work how long more work of its kind may take.

    Slow work is left alone: a process that sends heartbeats counts as stalled only after many times
    the expected time, and never before any work has finished.

    Args:
        limit_s: a fixed limit from the scenario for any amount of work; None: learned.
    """

    SILENT_TIMES, SILENT_AT_LEAST_S = 20.0, 120.0
    BUSY_TIMES, BUSY_AT_LEAST_S = 100.0, 3600.0

    def __init__(self, limit_s: float | None) -> None:
        self._given_s = limit_s
        self._paces: tuple[float, ...] = ()

    def learn(self, work: Work, seconds: float) -> None:
        """Record how long some work took."""
        paces = [seconds / amount if amount else 0.0 for amount in work]
        self._paces = tuple(map(max, paces, self._paces or paces))

    def expected_s(self, work: Work) -> float | None:
        """Return how long it takes at the slowest pace so far; None if no work has finished yet."""
        if not self._paces:
            return None
        return max(pace * amount for pace, amount in zip(self._paces, work, strict=True))

    def is_overdue(self, work: Work, *, ran_s: float, silent_s: float) -> bool:
        """Return whether the process that does this work counts as stalled.

        Args:
            work: the amount of work.
            ran_s: how long it has been running.
            silent_s: how long its process has sent no heartbeat.

        >>> watch = StallWatch(None)
        >>> watch.learn((10,), seconds=30.0)
        >>> watch.is_overdue((10,), ran_s=700.0, silent_s=0.0)
        False
        >>> watch.is_overdue((10,), ran_s=700.0, silent_s=650.0)
        True
        """
        if self._given_s is not None:
            return ran_s > self._given_s
        expected_s = self.expected_s(work)
        if expected_s is None:
            return silent_s > SILENT_S
        return silent_s > max(self.SILENT_AT_LEAST_S, self.SILENT_TIMES * expected_s) or (
            ran_s > max(self.BUSY_AT_LEAST_S, self.BUSY_TIMES * expected_s)
        )


@dataclass(frozen=True)
class Heartbeats:
    """The time since each process's last heartbeat, from polled heartbeat counts."""

    heard: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    """By the process's label: its count, and when the count was first polled."""
    asked: float = 0.0
    """The time of the last poll."""

    def note(self, counts: Mapping[str, int], *, now: float) -> Heartbeats:
        """Add a poll. Counts start again from 0 if the server restarts."""
        news = {
            label: (count, now)
            for label, count in counts.items()
            if label not in self.heard or self.heard[label][0] != count
        }
        return Heartbeats({**self.heard, **news}, now)

    def silent_s(self, label: str, *, since: float) -> float:
        """Return how long a process had sent no heartbeat at the last poll.

        Args:
            label: the process's label.
            since: when it received its current work.
        """
        _, last = self.heard.get(label, (0, since))
        return max(0.0, self.asked - max(since, last))
