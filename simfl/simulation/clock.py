"""PhaseClock: where the time of a run goes, every moment of it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable


class PhaseClock:
    """Is in one phase at any time, so that the phases' seconds add up to the wall time.

    Args:
        phase: the first one.
        now: tells the time in seconds.

    >>> ticks = iter([0.0, 2.0, 5.0, 6.0])
    >>> clock = PhaseClock("sample", now=lambda: next(ticks))
    >>> clock.enter("train")
    >>> clock.enter("evaluate")
    >>> clock.move(1.0, "train", "aggregate")
    >>> clock.totals()
    {'sample': 2.0, 'train': 2.0, 'aggregate': 1.0, 'evaluate': 1.0}
    """

    def __init__(self, phase: str, *, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._phase = phase
        self._since = now()
        self._totals: defaultdict[str, float] = defaultdict(float)
        self._at_lap: dict[str, float] = {}

    def enter(self, phase: str) -> None:
        """End the present phase, and begin another, or the same again."""
        now = self._now()
        self._totals[self._phase] += now - self._since
        self._phase, self._since = phase, now

    def move(self, seconds: float, source: str, target: str) -> None:
        """Say that some of the seconds of one phase were another's."""
        self._totals[source] -= seconds
        self._totals[target] += seconds

    def lap(self) -> dict[str, float]:
        """Return the seconds of each phase since the last lap, or since the start."""
        totals = self.totals()
        lap = {phase: total - self._at_lap.get(phase, 0.0) for phase, total in totals.items()}
        self._at_lap = totals
        return lap

    def wall(self) -> float:
        """Return the seconds since the start, up to now."""
        return sum(self.totals().values())

    def totals(self) -> dict[str, float]:
        """Return the seconds of each phase since the start, up to now."""
        self.enter(self._phase)
        return dict(self._totals)
