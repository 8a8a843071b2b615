"""The ledger of a sweep: what has become of each trial, a line an event, in ``trials.jsonl``."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from simfl.errors import InputError
from simfl.regular_files import read_regular

LEDGER_FILE = "trials.jsonl"
FINISHED = ("done", "stopped")
"""The states of trials that have nothing to go on with."""

Event: TypeAlias = "dict[str, Any]"
"""``event`` says what it is: ``began`` (of the sweep), ``proposed``, ``started``, ``ended``."""


class Ledger:
    """Appends to ``trials.jsonl``.

    Args:
        folder: the sweep's.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LEDGER_FILE

    def write(self, event: str, **details: Any) -> None:
        """Append a line, which is there at once.

        Raises:
            InputError: if it cannot be written.
        """
        line = json.dumps({"event": event, **details}, ensure_ascii=False, allow_nan=False)
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")
        except OSError as error:
            raise InputError(f"{self._path} cannot be written: {error.strerror}") from None


@dataclass
class Past:
    """What a ledger says."""

    began: Event = field(default_factory=dict)
    """The sweep's beginning."""
    proposed: dict[int, dict[str, Any]] = field(default_factory=dict)
    """The values of each trial that a searcher has proposed."""
    ended: dict[int, Event] = field(default_factory=dict)
    """How each trial has ended, if it has, and was not begun again."""
    searched: list[Event] = field(default_factory=list)
    """What a searcher has proposed and been told, in this order."""

    def add(self, event: Event) -> None:
        """Take in a line."""
        match event["event"]:
            case "began":
                self.began = self.began or event
            case "proposed":
                self.proposed[event["trial"]] = event["values"]
                self.searched.append(event)
            case "started":
                self.ended.pop(event["trial"], None)
            case "ended":
                self.ended[event["trial"]] = event
                if event["state"] != "interrupted":
                    self.searched.append(event)


def read_past(folder: Path) -> Past:
    """Read a sweep's ledger; a last line that was cut off is left out.

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
                raise InputError(f"{path}:{number} is damaged; take the line out") from None
    return past
