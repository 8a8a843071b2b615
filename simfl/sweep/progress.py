"""How a sweep goes: a table that lives on a terminal, or a line a trial anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from simfl.cluster.tuning import Report
from simfl.report.wording import duration, number
from simfl.scenario.sweeps import Trial
from simfl.sweep.preflight import Goal

_BAR_WIDTH = 20
_OTHER_LINES = 4
"""Of a terminal's height, what is no trial's."""


class Progress(Protocol):
    """Is told of the trials."""

    def begin(self, headline: str, *, total: int, goal: Goal) -> None:
        """Is called before the first trial."""

    def started(self, trial: Trial, *, rounds: int) -> None:
        """Is called when a trial begins."""

    def reported(self, trial: Trial, report: Report) -> None:
        """Is called when a trial reports."""

    def ended(self, trial: Trial, state: str, *, value: float | None, error: str | None) -> None:
        """Is called when a trial has ended, here or before the sweep was resumed."""

    def say(self, line: str) -> None:
        """Show a line."""

    def close(self) -> None:
        """Is called after the last trial."""


class NoProgress:
    """Shows nothing."""

    def begin(self, headline: str, *, total: int, goal: Goal) -> None:
        """Do nothing."""

    def started(self, trial: Trial, *, rounds: int) -> None:
        """Do nothing."""

    def reported(self, trial: Trial, report: Report) -> None:
        """Do nothing."""

    def ended(self, trial: Trial, state: str, *, value: float | None, error: str | None) -> None:
        """Do nothing."""

    def say(self, line: str) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def make_progress(console: Console) -> Progress:
    """Return what suits a terminal, or a file or pipe."""
    return SweepTable(console) if console.is_terminal else SweepLines(console)


@dataclass
class _Running:
    trial: Trial
    rounds: int
    round: int = 0
    value: float | None = None


@dataclass
class _Standing:
    """Where the sweep is."""

    total: int
    goal: Goal
    now: Callable[[], float] = time.monotonic
    running: dict[int, _Running] = field(default_factory=dict)
    began_s: dict[int, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    best: tuple[float, Trial] | None = None

    def start(self, trial: Trial, rounds: int) -> None:
        self.running[trial.number] = _Running(trial, rounds)
        self.began_s.setdefault(trial.number, self.now())

    def take(self, trial: Trial, report: Report) -> None:
        running = self.running.get(trial.number)
        if running is not None:
            running.round = report.get("round", running.round)
            running.value = report.get(self.goal.metric, running.value)

    def end(self, trial: Trial, state: str, value: float | None) -> float | None:
        """Return how long the trial has taken; None if it ended before this process began."""
        self.running.pop(trial.number, None)
        self.counts[state] = self.counts.get(state, 0) + 1
        if value is not None and (self.best is None or self.goal.is_better(value, self.best[0])):
            self.best = (value, trial)
        began_s = self.began_s.pop(trial.number, None)
        return None if began_s is None else self.now() - began_s

    def summary(self) -> str:
        ended = sum(self.counts.values())
        parts = [f"{ended}/{self.total} trials"]
        parts += [f"{count} {state}" for state, count in self.counts.items() if state != "done"]
        if self.best is not None:
            value, trial = self.best
            parts.append(f"best trial: {self.goal.metric} {number(value)} ({_title(trial)})")
        return "  ".join(parts)


class SweepLines:
    """Prints a line when a trial has ended.

    Args:
        console: where to.
    """

    def __init__(self, console: Console) -> None:
        self._console = console

    def begin(self, headline: str, *, total: int, goal: Goal) -> None:
        """Say what begins."""
        self._standing = _Standing(total, goal)
        self.say(headline)

    def started(self, trial: Trial, *, rounds: int) -> None:
        """Note when."""
        self._standing.start(trial, rounds)

    def reported(self, trial: Trial, report: Report) -> None:
        """Do nothing: a long sweep is to have a short log."""

    def ended(self, trial: Trial, state: str, *, value: float | None, error: str | None) -> None:
        """Print what the trial has brought, unless it did so in a former run of the sweep."""
        took_s = self._standing.end(trial, state, value)
        if took_s is None:
            return
        goal = self._standing.goal.metric
        brought = [f"{goal} {number(value)}"] if value is not None else []
        why = [_first_line(error)] if error else []
        done = f"{sum(self._standing.counts.values())}/{self._standing.total}"
        self.say("  ".join([done, _title(trial), state, *brought, duration(took_s), *why]))

    def say(self, line: str) -> None:
        """Print a line."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Do nothing."""


class SweepTable(SweepLines):
    """Shows the trials that run, with a bar each, above a line on the whole sweep."""

    def begin(self, headline: str, *, total: int, goal: Goal) -> None:
        """Say what begins, and draw the table."""
        super().begin(headline, total=total, goal=goal)
        self._live = Live(console=self._console, get_renderable=self._draw, refresh_per_second=4)
        self._live.start()

    def reported(self, trial: Trial, report: Report) -> None:
        """Move the trial's bar, the next time it is drawn."""
        self._standing.take(trial, report)

    def close(self) -> None:
        """Leave the line on the whole sweep."""
        self._live.stop()

    def _draw(self) -> Any:
        standing = self._standing
        running = list(standing.running.values())
        room = max(1, self._console.height - _OTHER_LINES)
        table = Table.grid(padding=(0, 1))
        for one in running[:room]:
            value = "" if one.value is None else f"{standing.goal.metric} {number(one.value)}"
            table.add_row(
                Text(_title(one.trial), no_wrap=True, overflow="ellipsis"),
                ProgressBar(total=one.rounds, completed=one.round, width=_BAR_WIDTH),
                Text(f"{one.round}/{one.rounds}", no_wrap=True),
                Text(value, no_wrap=True, overflow="ellipsis"),
            )
        more = [Text(f"and {len(running) - room} more")] if len(running) > room else []
        line = Text(standing.summary(), no_wrap=True, overflow="ellipsis")
        return Group(table, *more, line)


def _title(trial: Trial) -> str:
    return f"{trial.number}: {trial.label}"


def _first_line(text: str) -> str:
    return text.splitlines()[0] if text else ""
