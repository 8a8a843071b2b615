"""Which trial of a sweep is next, the outcome of each, and whether to stop them all."""

from __future__ import annotations

import math
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from simfl.scenario.sweeps import SweepPlan, Trial
from simfl.sweep.ledger import FINISHED, Ledger, Past
from simfl.sweep.progress import SweepLines
from simfl.sweep.trials import Order, Report

if TYPE_CHECKING:
    from simfl.sweep.searching import Suggestions

_GRACE_S = 15.0
"""How long trials may take to stop, before they are killed."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Ctrl-C or SIGTERM: the first one stops the trials in good order, a second one at once.

    Args:
        notify: is called with a message at the first one.
    """

    def __init__(self, notify: Callable[[str], None]) -> None:
        self.is_asked = False
        self._notify = notify

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """Note the first signal within this block; a second one, or the grace period, ends it."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread receives signals
            return
        timer = threading.Timer(_GRACE_S, signal.raise_signal, [signal.SIGINT])
        timer.daemon = True

        def ask(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
            if self.is_asked:
                raise KeyboardInterrupt
            self.is_asked = True
            self._notify("stopping the trials; once more to stop at once")
            timer.start()

        previous = {number: signal.signal(number, ask) for number in _SIGNALS}
        try:
            yield
        except KeyboardInterrupt:
            self.is_asked = True
        finally:
            timer.cancel()
            for number, handler in previous.items():
                signal.signal(number, handler)


class Schedule:
    """Chooses the next trial, and records each one's outcome in the ledger.

    Args:
        plan: the trials to run.
        ledger: of the sweep; trials that are finished there are not run again.
        searcher: proposes the trials that the plan does not list.
        make_order: returns how a trial is to be run.
        progress: shows the trials.
        own: what a notebook or script has defined, as ``list_own`` returns it.
    """

    def __init__(
        self,
        plan: SweepPlan,
        ledger: Ledger,
        *,
        searcher: Suggestions | None,
        make_order: Callable[[Trial], Order],
        progress: SweepLines,
        own: Sequence[Sequence[str]] = (),
    ) -> None:
        self._plan = plan
        self._own = {tuple(pair): None for pair in own}
        self._ledger = ledger
        self._searcher = searcher
        self._make_order = make_order
        self._progress = progress
        self._interruption = Interruption(progress.say)
        self.trials = {trial.number: trial for trial in plan.trials}
        for number, values in ledger.past.proposed.items():
            self.trials[number] = plan.trial(number, values)
        self._queue = deque(self._left())
        self._values: dict[int, float] = {}

    @property
    def past(self) -> Past:
        """The trials' outcomes so far."""
        return self._ledger.past

    @property
    def finished(self) -> list[Trial]:
        """The trials that have nothing left to run."""
        return [self.trials[n] for n in sorted(self.trials) if self.past.is_finished(n)]

    @contextmanager
    def running(self, headline: str) -> Iterator[None]:
        """Show progress within this block, in which the trials run, and note an interruption."""
        folders = [str(path) for path in self._plan.folders]
        self._ledger.write("began", folders=folders, own=[*self._own])
        self._progress.begin(headline)
        try:
            for trial in self.finished:
                event = self.past.ended[trial.number]
                self._progress.ended(trial, event["state"], value=event["value"], error=None)
            with self._interruption.awaited():
                yield
        finally:
            self._progress.close()

    def next_order(self) -> Order | None:
        """Return the next trial: one that is left, or one that the searcher proposes."""
        if self.is_stopped:
            return None
        number = self._queue.popleft() if self._queue else self._propose()
        return None if number is None else self._make_order(self.trials[number])

    @property
    def is_stopped(self) -> bool:
        """Whether the sweep was interrupted."""
        return self._interruption.is_asked

    @property
    def has_all(self) -> bool:
        """Whether there is no further trial."""
        return self.is_stopped or (not self._queue and len(self.trials) == self._plan.num_trials)

    def started(self, number: int) -> None:
        """Record that a trial has started."""
        self._ledger.write("started", trial=number)
        self._progress.started(self.trials[number], rounds=self._rounds(number))

    def reported(self, number: int, report: Report) -> None:
        """Show the progress of a trial."""
        self._values[number] = report.get("value", self._values.get(number, math.nan))
        self._progress.reported(self.trials[number], report)

    def ended(self, number: int, report: Report) -> None:
        """Record that a trial has ended, or is being stopped, with its last report."""
        self.reported(number, report)
        state = report.get("state") or ("interrupted" if self.is_stopped else "stopped")
        self._end(number, state, error=report.get("error"))

    def lost(self, number: int, reason: str) -> None:
        """Record that a trial's process has died too often."""
        self._end(number, "failed", error=reason)

    def _end(self, number: int, state: str, *, error: str | None) -> None:
        found = self._values.get(number, math.nan)
        value = found if math.isfinite(found) else None
        self._ledger.write("ended", trial=number, state=state, value=value, error=error)
        if self._searcher is not None and state != "interrupted":
            self._searcher.tell(number, value if state in FINISHED else None)
        self._progress.ended(self.trials[number], state, value=value, error=error)

    def _propose(self) -> int | None:
        number = len(self.trials)
        if self._searcher is None or number == self._plan.num_trials:
            return None
        values = self._searcher.suggest(number)
        if values is None:
            return None
        self.trials[number] = self._plan.trial(number, values)
        self._ledger.write("proposed", trial=number, values=values)
        return number

    def _left(self) -> list[int]:
        """Return the trials that are not finished; those that had begun come first."""
        left = [number for number in sorted(self.trials) if not self.past.is_finished(number)]
        return sorted(left, key=lambda number: number not in self.past.started)

    def _rounds(self, number: int) -> int:
        own = self._plan.all_values(self.trials[number].values)
        return int(own.get("rounds") or self._plan.document.values["rounds"])
