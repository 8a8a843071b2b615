"""The folder of a sweep: its scenario, and a ledger of its trials, one line per event."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from simfl.errors import InputError
from simfl.observers import write_whole
from simfl.regular_files import read_regular
from simfl.scenario.plain import to_plain
from simfl.scenario.sweeps import SweepPlan
from simfl.scenario.yaml_format import dump_yaml

SWEEP_FILE = "sweep.yaml"
"""The scenario with its sweep and all overrides."""
LEDGER_FILE = "trials.jsonl"
TRIALS_FOLDER = "trials"
FINISHED = ("done", "stopped")
"""The states of trials that have nothing left to run."""

Event: TypeAlias = "dict[str, Any]"
"""A line of the ledger; its ``event`` is ``began``, ``proposed``, ``started`` or ``ended``."""


@dataclass
class Past:
    """What a ledger's events add up to."""

    began: Event = field(default_factory=dict)
    """The first start of the sweep."""
    proposed: dict[int, dict[str, Any]] = field(default_factory=dict)
    """The values of each trial that a searcher proposed."""
    started: set[int] = field(default_factory=set)
    """The trials that have started."""
    ended: dict[int, Event] = field(default_factory=dict)
    """By trial, how it ended; without those that were started again since."""
    searched: list[Event] = field(default_factory=list)
    """What a searcher proposed and was told, in this order."""

    def add(self, event: Event) -> None:
        """Add an event."""
        match event["event"]:
            case "began":
                self.began = self.began or event
            case "proposed":
                self.proposed[event["trial"]] = event["values"]
                self.searched.append(event)
            case "started":
                self.started.add(event["trial"])
                self.ended.pop(event["trial"], None)
            case "ended":
                self.ended[event["trial"]] = event
                if event["state"] != "interrupted":
                    self.searched.append(event)

    def is_finished(self, trial: int) -> bool:
        """Return whether a trial has nothing left to run."""
        return self.ended.get(trial, {}).get("state") in FINISHED


class Ledger:
    """Appends events to ``trials.jsonl``, and to those of the past.

    Args:
        folder: the sweep's.
        past: the events before.
    """

    def __init__(self, folder: Path, past: Past | None = None) -> None:
        self._path = folder / LEDGER_FILE
        self.past = past or Past()

    def write(self, event: str, **details: Any) -> None:
        """Append a line, and flush it.

        Raises:
            InputError: if the file cannot be written.
        """
        found = {"event": event, **details}
        line = json.dumps(found, ensure_ascii=False, allow_nan=False)
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")
        except OSError as error:
            raise InputError(f"{self._path} cannot be written: {error.strerror}") from None
        self.past.add(found)


def read_past(folder: Path) -> Past:
    """Read a sweep's ledger, but for a last line that was cut off.

    Raises:
        InputError: if there is none.
    """
    path = folder / LEDGER_FILE
    try:
        lines = read_regular(path).decode(errors="replace").splitlines()
    except FileNotFoundError:
        raise InputError(f"{folder} holds no sweep: there is no {LEDGER_FILE} in it") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    past = Past()
    for number, line in enumerate(lines, start=1):
        try:
            past.add(json.loads(line))
        except (ValueError, KeyError, TypeError):
            if number < len(lines):
                raise InputError(f"{path}:{number} is damaged; remove the line") from None
    return past


def require_no_sweep(folder: Path) -> None:
    """Raise an error if the folder holds a sweep.

    Raises:
        InputError: naming the file of the sweep.
    """
    for name in (SWEEP_FILE, LEDGER_FILE):
        if (folder / name).exists():
            raise InputError(
                f"{folder} already holds a sweep ({name}); choose another folder, "
                f"or continue it with: simfl sweep --resume {folder}"
            )


def write_scenario(folder: Path, plan: SweepPlan) -> None:
    """Write the scenario into the sweep's folder, its sweep section last.

    Raises:
        InputError: if it cannot be written.
    """
    values = to_plain(plan.document.values)
    values["sweep"] = values.pop("sweep")
    try:
        write_whole(folder / SWEEP_FILE, dump_yaml(values))
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror}; choose another") from None
