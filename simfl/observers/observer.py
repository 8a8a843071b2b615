"""Observer: reads a run as it goes, and changes nothing about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from simfl.observers.clients import ClientTable

__all__ = ["Observer", "RoundRecord", "RunInfo", "Summary", "reproducible"]

RoundRecord: TypeAlias = "dict[str, Any]"
"""One round as plain data: a line of ``metrics.jsonl``.

What ``reproducible`` returns of it is the same bits on every backend.
"""

Summary: TypeAlias = "dict[str, Any]"
"""The whole run as plain data: ``summary.json``."""


@dataclass(frozen=True)
class RunInfo:
    """What is known of a run when it starts."""

    name: str
    rounds: int
    """How many there will be."""
    population: int
    cohort_size: int
    out: Path
    """The run's folder."""
    workers: str
    """Where clients are trained, in words: ``2 client actors``."""
    num_actors: int = 1
    """How many train clients at once."""
    backend: str = "inline"
    """``ray`` or ``inline``."""
    run_id: str = ""
    """Names this run among all others; a resumed run keeps it."""
    scenario: Mapping[str, Any] = field(default_factory=dict)
    """As plain data, defaults written out."""
    dashboard: str | None = None
    """The address of Ray's dashboard, where there is one."""
    history: tuple[RoundRecord, ...] = ()
    """The rounds that a resumed run has behind it."""


class Observer:
    """Does nothing at each event; subclasses override what they need.

    The training waits meanwhile, so an observer is quick: nothing for each client in a loop.
    """

    def on_run_start(self, info: RunInfo) -> None:
        """Is called once everything has been set up."""

    def on_round(self, record: RoundRecord, clients: ClientTable) -> None:
        """Is called after each round, evaluation included, and before it is saved."""

    def on_run_end(self, summary: Summary) -> None:
        """Is called at the end, however the run ends."""


def reproducible(record: RoundRecord) -> RoundRecord:
    """Return what is the same bits on every backend: not how long it took, nor what was lost.

    >>> reproducible({"round": 1, "seconds": 0.1, "seconds_train": 0.1, "retries": 0})
    {'round': 1}
    """
    return {
        name: value
        for name, value in record.items()
        if not name.startswith("seconds") and name != "retries"
    }
