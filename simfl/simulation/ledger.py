"""The ledger: what a run has cost, and what it has done for that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from simfl.observers import ClientTable, RunInfo
from simfl.record import RoundRecord

Memory: TypeAlias = "Mapping[str, int | None]"
"""The peak memory in bytes by role: ``driver``, ``server``, ``client``; None if not known."""

NOT_KNOWN: Memory = {"driver": None, "server": None, "client": None}
"""Of a run that has ended before it could be asked for."""

_COUNTED = ("steps", "examples_seen", "sent_bytes", "received_bytes", "retries", "dropped")


class Ledger:
    """Counts what this process does: no round before it was resumed, but replayed ones too."""

    def __init__(self) -> None:
        self._num_actors = 0
        self._gpus: Mapping[str, float] = {}
        self._rounds = 0
        self._client_s = self._gpu_s = self._actor_s = 0.0
        self._counts: Counter[str] = Counter()

    def begin(self, info: RunInfo) -> None:
        """Note who trains."""
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
            "steps_per_second": _rate(counts["steps"], train_s),
            "examples_per_second": _rate(counts["examples_seen"], train_s),
            "actors": self._num_actors,
            "client_seconds": self._client_s,
            "busy_share": _rate(self._client_s, self._actor_s),
            "gpu_seconds": self._gpu_s,
            "peak_memory_bytes": dict(memory),
        }


def _gpus_by_kind(cluster: Mapping[str, Any]) -> dict[str, float]:
    """Return how many GPUs an actor has, by what its kind is called."""
    of_all = dict.fromkeys(("client", "inline"), cluster["num_gpus"])
    return of_all | {f"client-{g['name']}": g["num_gpus"] for g in cluster.get("groups", ())}


def _kind(actor: str) -> str:
    """Return ``client-gpu`` for ``client-gpu-3``, and ``client`` for ``client-3``."""
    return actor.rpartition("-")[0] or actor


def _rate(count: float, seconds: float) -> float | None:
    return count / seconds if seconds > 0 else None
