"""The history of a run, and who is told of it."""

from __future__ import annotations

from collections.abc import Sequence

from simfl.observers import ClientTable, Observer, RoundRecord, RunInfo, Summary
from simfl.simulation.clock import PhaseClock

__all__ = ["Journal"]

_COUNTS = {
    "round",
    "clients",
    "dropped",
    "retries",
    "examples",
    "steps",
    "sent_bytes",
    "received_bytes",
    "delta_norm",
}


class Journal:
    """Keeps the history, and tells the observers of it.

    Args:
        observers: are told in their order.
        history: the rounds that a resumed run has behind it.
        clock: of the run.
    """

    def __init__(
        self, observers: Sequence[Observer], *, history: Sequence[RoundRecord], clock: PhaseClock
    ) -> None:
        self._observers = observers
        self._clock = clock
        self._num_before = len(history)
        self._first_round_s: float | None = None
        self.history: list[RoundRecord] = list(history)

    def start(self, info: RunInfo) -> None:
        """Tell that everything has been set up."""
        for observer in self._observers:
            observer.on_run_start(info)

    def add(self, record: RoundRecord, clients: ClientTable) -> None:
        """Take in a round, unless it is one that was only replayed."""
        if record["round"] <= len(self.history):
            return
        if self._first_round_s is None:
            self._first_round_s = self._clock.wall()
        self.history.append(record)
        for observer in self._observers:
            observer.on_round(record, clients)

    def end(self, *, status: str, error: str | None = None) -> Summary:
        """Sum up, and tell of it."""
        summary: Summary = {
            "status": status,
            "rounds": len(self.history),
            "wall_seconds": self._clock.wall(),
            "seconds_to_first_round": self._first_round_s,
            "final": _final(self.history),
            "dropped": sum(record["dropped"] for record in self.history),
        }
        if self._num_before:
            summary["resumed_after_round"] = self._num_before
        if error is not None:
            summary["error"] = error
        for observer in self._observers:
            observer.on_run_end(summary)
        return summary


def _final(history: Sequence[RoundRecord]) -> dict[str, float]:
    """Return the train loss and each metric as they were last measured."""
    latest: RoundRecord = {}
    for record in history:
        latest |= record
    return {
        name: value
        for name, value in latest.items()
        if name not in _COUNTS and not name.startswith("seconds")
    }
