"""The progress of a sweep: a table that is redrawn on a terminal, or a line per trial elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console, Group

from simfl.observers.console import LiveBlock, bar, clipped, grid, say
from simfl.report.wording import duration, number
from simfl.scenario.sweeps import Trial
from simfl.sweep.results import Goal
from simfl.sweep.trials import Report

_BAR_WIDTH = 20
_OTHER_LINES = 4
"""Lines of a terminal that show no trial."""


def make_progress(console: Console, goal: Goal, *, total: int) -> SweepLines:
    """Return the display that suits a terminal, or a file or pipe."""
    is_live = console.is_terminal and not console.quiet
    return (SweepTable if is_live else SweepLines)(console, goal, total=total)


@dataclass
class _Running:
    trial: Trial
    rounds: int
    began_s: float
    round: int = 0
    value: float | None = None


class SweepLines:
    """Prints a line when a trial has ended.

    Args:
        console: where to print.
        goal: the metric to show.
        total: how many trials the sweep has.
        now: returns the time in seconds.
    """

    def __init__(
        self,
        console: Console,
        goal: Goal,
        *,
        total: int,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._goal = goal
        self._total = total
        self._now = now
        self._running: dict[int, _Running] = {}
        self._counts: dict[str, int] = {}
        self._best: tuple[float, Trial] | None = None

    def begin(self, headline: str) -> None:
        """Print the headline, before the first trial."""
        self.say(headline)

    def started(self, trial: Trial, *, rounds: int) -> None:
        """Note that a trial begins, or begins again after its process died."""
        before = self._running.get(trial.number)
        began_s = self._now() if before is None else before.began_s
        self._running[trial.number] = _Running(trial, rounds, began_s)

    def reported(self, trial: Trial, report: Report) -> None:
        """Note a trial's progress."""
        running = self._running.get(trial.number)
        if running is not None:
            running.round = report.get("round", running.round)
            running.value = report.get("value", running.value)

    def ended(self, trial: Trial, state: str, *, value: float | None, error: str | None) -> None:
        """Print the result of a trial, unless it ended before the sweep was resumed."""
        running = self._running.pop(trial.number, None)
        self._counts[state] = self._counts.get(state, 0) + 1
        if value is not None and (self._best is None or self._goal.is_better(value, self._best[0])):
            self._best = (value, trial)
        if running is None:
            return
        parts = [f"{self._num_ended}/{self._total}", _title(trial), state]
        parts += [f"{self._goal.metric} {number(value)}"] if value is not None else []
        parts.append(duration(self._now() - running.began_s))
        parts += error.splitlines()[:1] if error else []
        self.say("  ".join(parts))

    def say(self, line: str) -> None:
        """Print a line."""
        say(self._console, line)

    def close(self) -> None:
        """End the display, after the last trial."""

    @property
    def _num_ended(self) -> int:
        return sum(self._counts.values())


class SweepTable(SweepLines):
    """Shows the running trials, with a bar each, above a line about the whole sweep."""

    def begin(self, headline: str) -> None:
        """Print the headline, and draw the table."""
        super().begin(headline)
        self._block = LiveBlock(self._console, self._draw, per_second=4)

    def close(self) -> None:
        """Leave the line about the whole sweep."""
        self._block.stop()

    def _draw(self) -> Group:
        running = list(self._running.values())
        room = max(1, self._console.height - _OTHER_LINES)
        rows = [
            (
                clipped(_title(one.trial)),
                bar(one.round, one.rounds, width=_BAR_WIDTH),
                clipped(f"{one.round}/{one.rounds}"),
                clipped("" if one.value is None else f"{self._goal.metric} {number(one.value)}"),
            )
            for one in running[:room]
        ]
        more = [clipped(f"and {len(running) - room} more")] if len(running) > room else []
        return Group(grid(rows), *more, clipped(self._summary()))

    def _summary(self) -> str:
        parts = [f"{self._num_ended}/{self._total} trials"]
        parts += [f"{count} {state}" for state, count in self._counts.items() if state != "done"]
        if self._best is not None:
            value, trial = self._best
            parts.append(f"best trial: {self._goal.metric} {number(value)} ({_title(trial)})")
        return "  ".join(parts)


def _title(trial: Trial) -> str:
    return f"{trial.number}: {trial.label}"
