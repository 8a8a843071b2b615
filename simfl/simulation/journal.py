"""The history of a run, and who is told of it."""

from __future__ import annotations

from collections.abc import Sequence

from simfl.observers import ClientTable, Guarded, RunInfo, Summary
from simfl.record import RoundRecord
from simfl.simulation.clock import PhaseClock
from simfl.simulation.ledger import NOT_KNOWN, Ledger, Memory

PROGRESS = "progress"
"""The label of the observer that shows the progress."""


class Journal:
    """Keeps the history, and tells the observers of it.

    Args:
        observers: are told in their order.
        last: is told of the end, after them and even if there was no start.
        history: the rounds that a resumed run has behind it.
        clock: of the run.
    """

    def __init__(
        self,
        observers: Sequence[Guarded],
        last: Guarded,
        *,
        history: Sequence[RoundRecord],
        clock: PhaseClock,
    ) -> None:
        self._observers = observers
        self._last = last
        self._clock = clock
        self._ledger = Ledger()
        self._num_before = len(history)
        self._first_round_s: float | None = None
        self.history: list[RoundRecord] = list(history)

    def start(self, info: RunInfo) -> None:
        """Tell that everything has been set up."""
        self._ledger.begin(info)
        for observer in self._observers:
            observer.on_run_start(info)

    def add(self, record: RoundRecord, clients: ClientTable) -> None:
        """Take in a round, unless it is one that was only replayed."""
        self._ledger.add(record, clients)
        if record.round <= len(self.history):
            return
        if self._first_round_s is None:
            self._first_round_s = self._clock.wall()
        self.history.append(record)
        for observer in self._observers:
            observer.on_round(record, clients)

    def flush(self) -> None:
        """Have all that was told put where it lasts."""
        for observer in self._observers:
            observer.flush()

    def end(self, *, status: str, error: str | None = None, memory: Memory = NOT_KNOWN) -> Summary:
        """Sum up, and tell of it."""
        summary = self._summary(status, memory)
        if error is not None:
            summary["error"] = error
        for observer in self._observers:
            observer.on_run_end(summary)
        if lost := self._lost():
            summary["lost"] = lost
        self._last.sum_up(summary)
        return summary

    def _summary(self, status: str, memory: Memory) -> Summary:
        seconds = self._clock.totals()
        summary: Summary = {
            "status": status,
            "rounds": len(self.history),
            "wall_seconds": sum(seconds.values()),
            "seconds_to_first_round": self._first_round_s,
            "final": _final(self.history),
            "dropped": sum(record.dropped for record in self.history),
            "ledger": self._ledger.balance(seconds, memory),
        }
        if self._num_before:
            summary["resumed_after_round"] = self._num_before
        return summary

    def leave(self) -> None:
        """End without writing to the run's files, which now belong to another process."""
        for observer in self._observers:
            if observer.label == PROGRESS:
                observer.on_run_end(self._summary("failed", NOT_KNOWN))

    def _lost(self) -> dict[str, str]:
        asked = {observer.label: observer.lost() for observer in self._observers}
        return {label: lost for label, lost in asked.items() if lost is not None}


def _final(history: Sequence[RoundRecord]) -> dict[str, float | None]:
    """Return the train loss and each metric as they were last measured."""
    latest: dict[str, float | None] = {}
    for record in history:
        latest |= record.measures
    return latest
