"""The history of a run and its costs, passed on to its observers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from simfl.observers import ClientTable, FailSafeObserver, RunInfo, Summary
from simfl.record import RoundRecord
from simfl.simulation.rounds import PhaseClock

PROGRESS = "progress"
"""The label of the observer that shows the progress."""


Memory: TypeAlias = "Mapping[str, int | None]"
"""The peak memory in bytes by role: ``driver``, ``server``, ``client``; None if not known."""

NOT_KNOWN: Memory = {"driver": None, "server": None, "client": None}
"""The memory of a run that ended before it could be measured."""

_COUNTED = (
    *("steps", "examples_seen", "sent_bytes", "received_bytes", "received_dense_bytes"),
    *("retries", "dropped"),
)


class Journal:
    """Keeps the history, and notifies the observers.

    Args:
        observers: notified in this order.
        last: notified of the end, after the others and even if the run could not start.
        history: the rounds before a resumed run was stopped.
        clock: of the run.
        base_bytes: the size of the weights that each client has before it first takes part.
        base_digest: of these weights.
    """

    def __init__(
        self,
        observers: Sequence[FailSafeObserver],
        last: FailSafeObserver,
        *,
        history: Sequence[RoundRecord],
        clock: PhaseClock,
        base_bytes: int = 0,
        base_digest: str | None = None,
    ) -> None:
        self._base = {"bytes": base_bytes, "digest": base_digest} if base_digest else None
        self._observers = observers
        self._last = last
        self._clock = clock
        self._ledger = Ledger(base_bytes)
        self._num_before = len(history)
        self._first_round_s: float | None = None
        self.history: list[RoundRecord] = list(history)

    def start(self, info: RunInfo) -> None:
        """Notify observers that everything is set up."""
        self._ledger.begin(info)
        for observer in self._observers:
            observer.on_run_start(info)

    def add(self, record: RoundRecord, clients: ClientTable) -> None:
        """Add a round, unless it was only repeated after a rollback."""
        self._ledger.add(record, clients)
        if record.round <= len(self.history):
            return
        if self._first_round_s is None:
            self._first_round_s = self._clock.wall()
        self.history.append(record)
        for observer in self._observers:
            observer.on_round(record, clients)

    def flush(self) -> None:
        """Have the observers write all rounds to permanent storage."""
        for observer in self._observers:
            observer.flush()

    def end(
        self,
        status: str,
        *,
        error: str | None = None,
        memory: Memory = NOT_KNOWN,
        judged: Mapping[str, Any] | None = None,
    ) -> Summary:
        """Sum up the run, and notify the observers."""
        summary = self._summary(status, memory) | dict(judged or {})
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
        if self._base:
            summary["base"] = self._base
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
    """Return the training loss and each metric as last measured."""
    latest: dict[str, float | None] = {}
    for record in history:
        latest |= record.measures
    return latest


class Ledger:
    """Counts the work of this process: no rounds before it resumed, but repeated rounds, too.

    Args:
        base_bytes: the size of the weights that each client has before it first takes part.
    """

    def __init__(self, base_bytes: int = 0) -> None:
        self._base_bytes = base_bytes
        self._have_base: set[int] = set()
        self._num_actors = 0
        self._gpus: Mapping[str, float] = {}
        self._rounds = 0
        self._client_s = self._gpu_s = self._actor_s = 0.0
        self._counts: Counter[str] = Counter()

    def begin(self, info: RunInfo) -> None:
        """Note which actors train."""
        self._num_actors = info.num_actors
        self._gpus = _gpus_by_kind(info.scenario["cluster"])

    def add(self, record: RoundRecord, clients: ClientTable) -> None:
        """Count a round."""
        self._rounds += 1
        self._num_actors = max(self._num_actors, record.actors)
        self._actor_s += record.phases["train"] * record.actors
        self._client_s += float(clients.seconds.sum())
        seconds = np.bincount(clients.actor, clients.seconds, minlength=len(clients.actors))
        for actor, actor_s in zip(clients.actors, seconds.tolist(), strict=True):
            self._gpu_s += actor_s * self._gpus.get(_kind(actor), 0.0)
        if self._base_bytes:
            self._have_base.update(clients.client.tolist())
        self._counts.update({name: record[name] for name in _COUNTED})

    def balance(self, seconds: Mapping[str, float], memory: Memory) -> dict[str, Any]:
        """Return the ledger as plain data.

        Args:
            seconds: by phase.
            memory: the peak by role.
        """
        train_s = seconds.get("train", 0.0)
        counts = {name: self._counts[name] for name in _COUNTED}
        return {
            "rounds": self._rounds,
            "seconds": dict(seconds),
            **counts,
            "base_bytes": self._base_bytes * len(self._have_base),
            "steps_per_second": _rate(counts["steps"], train_s),
            "examples_per_second": _rate(counts["examples_seen"], train_s),
            "actors": self._num_actors,
            "client_seconds": self._client_s,
            "busy_share": _rate(self._client_s, self._actor_s),
            "gpu_seconds": self._gpu_s,
            "peak_memory_bytes": dict(memory),
        }


def _gpus_by_kind(cluster: Mapping[str, Any]) -> dict[str, float]:
    """Return how many GPUs an actor has, by the name of its kind."""
    of_all = dict.fromkeys(("client", "inline"), cluster["num_gpus"])
    return of_all | {f"client-{g['name']}": g["num_gpus"] for g in cluster.get("groups", ())}


def _kind(actor: str) -> str:
    """Return ``client-gpu`` for ``client-gpu-3``, and ``client`` for ``client-3``."""
    return actor.rpartition("-")[0] or actor


def _rate(count: float, seconds: float) -> float | None:
    return count / seconds if seconds > 0 else None
