"""What to do about a loss. It decides, and does not act; nothing here knows of Ray.

What was lost can be had again, since a chunk's result depends on its message, the clients' states
and the data alone: a lost chunk is run again, a lost server is put back from the snapshot its round
started from, and a lost object is made again by redoing what made it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from enum import Enum, auto

__all__ = ["Attempts", "Decision", "Loss", "StallWatch", "decide"]


class Loss(Enum):
    """What the cluster has lost."""

    CLIENT_ACTOR = auto()
    """The process that trained a chunk, and so the chunk's result."""
    SERVER_ACTOR = auto()
    """The server's process: its weights, its optimizer, and what it had received."""
    OBJECT = auto()
    """An object of the object store: a snapshot, a partial, or a client's kept state."""


class Decision(Enum):
    """What is done about it."""

    RETRY = auto()
    """Run the chunk again, on whichever actor is free."""
    RESTORE = auto()
    """Put the server back to where the round started, and hand it the partials again."""
    REDO_ROUND = auto()
    """Train the whole round again from its snapshot."""
    ROLL_BACK = auto()
    """Go back to the last checkpoint, or to the start, and replay the rounds since."""
    ABORT = auto()
    """End the run: it would not help to go on."""


def decide(loss: Loss, *, attempt: int, max_retries: int) -> Decision:
    """Decide what to do about a loss.

    Args:
        loss: what was lost.
        attempt: how often it has been lost by now, from 1: of a chunk, that this very chunk was
            running; of the rest, in this round.
        max_retries: how often is too often.

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
    # What the round itself has made comes back with the round; what is older does not.
    return Decision.REDO_ROUND if attempt == 1 else Decision.ROLL_BACK


class Attempts:
    """Counts losses, and decides by the count."""

    def __init__(self, *, max_retries: int) -> None:
        self._max_retries = max_retries
        self._counts: Counter[tuple[Loss, Hashable]] = Counter()

    def lost(self, loss: Loss, what: Hashable = None, *, is_to_blame: bool = True) -> Decision:
        """Note a loss, and decide.

        Args:
            loss: what was lost.
            what: which one, such as a chunk's place in the cohort.
            is_to_blame: False for a chunk that was only waiting at the actor that died.
        """
        self._counts[loss, what] += is_to_blame
        attempt = max(self._counts[loss, what], 1)
        return decide(loss, attempt=attempt, max_retries=self._max_retries)

    def count(self, loss: Loss, what: Hashable = None) -> int:
        """Return how often it was lost and to blame."""
        return self._counts[loss, what]


class StallWatch:
    """Learns from the chunks that have ended how long one may take.

    Args:
        limit_s: what the scenario says; None: ``SLOWEST`` times the slowest chunk so far, and at
            least ``AT_LEAST_S``. Until a chunk has ended there is no limit then.
    """

    SLOWEST = 20.0
    AT_LEAST_S = 120.0

    def __init__(self, limit_s: float | None) -> None:
        self._given_s = limit_s
        self._slowest_s: float | None = None

    def learn(self, seconds: float) -> None:
        """Note how long a chunk has taken on its actor."""
        self._slowest_s = max(seconds, self._slowest_s or 0.0)

    @property
    def limit_s(self) -> float | None:
        """How long a chunk may take, or None if that is not known yet."""
        if self._given_s is not None:
            return self._given_s
        if self._slowest_s is None:
            return None
        return max(self.AT_LEAST_S, self.SLOWEST * self._slowest_s)

    def is_overdue(self, waited_s: float) -> bool:
        """Say whether a chunk that has run for so long must be taken for stalled."""
        return self.limit_s is not None and waited_s > self.limit_s
