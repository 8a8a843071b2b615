"""Guarded: an observer that fails is left out from then on, and the run goes on."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path

from simfl.observers.clients import ClientTable
from simfl.observers.observer import Observer, RunInfo, Summary
from simfl.record import RoundRecord

LOG_FILE = "observers.log"
"""Where tracebacks go, in the run's folder."""

_AT_THE_END = "at the end"


class Guarded(Observer):
    """Hands on what happens to an observer, from the start on and as long as it raises nothing.

    Args:
        observer: is told of the run.
        label: what it is called where it fails.
        out: the run's folder.
        tell: is told a line when it fails.
    """

    def __init__(
        self, observer: Observer, label: str, *, out: Path, tell: Callable[[str], None]
    ) -> None:
        self.observer = observer
        self.label = label
        self._log = out / LOG_FILE
        self._tell = tell
        self._failure: str | None = None
        self._has_begun = False

    def on_run_start(self, info: RunInfo) -> None:
        """Hand it on."""
        self._has_begun = True
        self._try(lambda: self.observer.on_run_start(info), when="at the start")

    def on_round(self, record: RoundRecord, clients: ClientTable) -> None:
        """Hand it on."""
        when = f"in round {record.round}"
        self._try(lambda: self.observer.on_round(record, clients), when=when)

    def flush(self) -> None:
        """Hand it on."""
        self._try(self.observer.flush, when="at a checkpoint")

    def on_run_end(self, summary: Summary) -> None:
        """Hand it on, unless there was no start."""
        if self._has_begun:
            self.sum_up(summary)

    def sum_up(self, summary: Summary) -> None:
        """Hand on the end of a run, even of one that could not start."""
        self._try(lambda: self.observer.on_run_end(summary), when=_AT_THE_END)

    def lost(self) -> str | None:
        """Say when it failed and why, or what it has lost by itself."""
        return self._failure or self.observer.lost()

    def _try(self, call: Callable[[], None], *, when: str) -> None:
        if self._failure is not None:
            return
        try:
            call()
        except Exception as error:
            what = " ".join(str(error).split())
            self._failure = f"failed {when}: {type(error).__name__}: {what}"
            left_out = "; it is left out from now on, and the run goes on"
            self._tell(
                f"{self.label} {self._failure}{'' if when == _AT_THE_END else left_out}"
                f"{self._logged(when)}"
            )

    def _logged(self, when: str) -> str:
        """Write the traceback of what is being handled; say where it is."""
        try:
            with self._log.open("a", encoding="utf-8") as file:
                file.write(f"{self.label} {when}\n{traceback.format_exc()}\n")
        except OSError:
            return ""
        return f" (its traceback is in {self._log})"
