"""Observer: reads a run as it goes, and changes nothing about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from simfl.component import Component
from simfl.observers.clients import ClientTable
from simfl.record import RoundRecord

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


class Observer(Component, kind="observer"):
    """Does nothing at each event; subclasses override what they need.

    One that a scenario can name is a dataclass, whose fields are its config; each run makes one of
    its own, which may set further attributes. The training waits for an observer, so it is quick:
    nothing for each client in a loop.
    """

    is_frozen: ClassVar[bool] = False

    def prepare(self) -> None:
        """Is called before anything is started; what it raises ends the run.

        Raises:
            MissingExtraError: if a package that it needs is not installed.
        """

    def on_run_start(self, info: RunInfo) -> None:
        """Is called once everything has been set up."""

    def on_round(self, record: RoundRecord, clients: ClientTable) -> None:
        """Is called after each round, evaluation included, and before it is saved."""

    def flush(self) -> None:
        """Is called before a checkpoint: a resumed run is not told of the rounds before it again.

        So what has been told is to be where it lasts.
        """

    def on_run_end(self, summary: Summary) -> None:
        """Is called at the end of a run that has started, however it ends."""

    def lost(self) -> str | None:
        """Say what could not be kept, for the summary; None if all was."""
        return None
