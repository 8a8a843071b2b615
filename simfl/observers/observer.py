"""Observer: reads a run as it goes, and changes nothing about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

__all__ = ["Observer", "RoundRecord", "RunInfo", "Summary"]

RoundRecord: TypeAlias = "dict[str, Any]"
"""One round as plain data: a line of ``metrics.jsonl``."""

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
    history: tuple[RoundRecord, ...] = ()
    """The rounds that a resumed run has behind it."""


class Observer:
    """Does nothing at each event; subclasses override what they need."""

    def on_run_start(self, info: RunInfo) -> None:
        """Is called once everything has been set up."""

    def on_round(self, record: RoundRecord) -> None:
        """Is called after each round, evaluation included."""

    def on_run_end(self, summary: Summary) -> None:
        """Is called at the end, however the run ends."""
