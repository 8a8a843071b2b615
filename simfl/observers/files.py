"""What a run leaves in its folder as text: a line a round, and a summary."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from simfl.observers.clients import ClientTable
from simfl.observers.observer import Observer, RunInfo, Summary
from simfl.record import RoundRecord

METRICS_FILE = "metrics.jsonl"
SUMMARY_FILE = "summary.json"


class JsonLines(Observer):
    """Writes ``metrics.jsonl``, one object a round.

    What cannot be written is kept, and tried again after the next round: a disk may have room
    again, and a checkpoint is of no use without the rounds before it.

    Args:
        out: the run's folder.
        tell: is told a line when rounds cannot be written, and when they are.
    """

    def __init__(self, out: Path, *, tell: Callable[[str], None]) -> None:
        self._path = out / METRICS_FILE
        self._tell = tell
        self._written: list[RoundRecord] = []
        self._waiting: list[RoundRecord] = []
        self._whole_bytes = 0
        self._error: OSError | None = None

    def on_run_start(self, info: RunInfo) -> None:
        """Write the rounds that are done; what came after them, whole or not, is done again."""
        self._written = list(info.history)
        self._write_all()

    def on_round(self, record: RoundRecord, clients: ClientTable) -> None:
        """Append the round, and those that are still waiting."""
        self._waiting.append(record)
        self.flush()

    def flush(self) -> None:
        """Append what is waiting, whole or not at all."""
        data = "".join(map(_line, self._waiting)).encode()
        try:
            self._mend()
            self._whole_bytes = _append(self._path, data, after=self._whole_bytes)
        except OSError as error:
            if self._error is None:
                self._tell(f"{self._path} cannot be written: {error.strerror}; the run goes on")
            self._error = error
            return
        if self._error is not None:
            self._tell(f"{self._path} can be written again; no round is missing")
        self._written += self._waiting
        self._waiting, self._error = [], None

    def on_run_end(self, summary: Summary) -> None:
        """Try what is waiting for a last time."""
        if self._waiting:
            self.flush()

    def lost(self) -> str | None:
        """Say which rounds are not in the file."""
        if self._error is None:
            return None
        first = len(self._written) + 1
        last = first + len(self._waiting) - 1
        return f"rounds {first} to {last}: {self._error.strerror}"

    def _mend(self) -> None:
        """Restore what another process has truncated or deleted."""
        size = self._path.stat().st_size if self._path.exists() else 0
        if size < self._whole_bytes:
            self._write_all()
            self._tell(f"another process truncated {self._path}; it has been restored")

    def _write_all(self) -> None:
        text = "".join(map(_line, self._written))
        write_whole(self._path, text)
        self._whole_bytes = len(text.encode())


class SummaryFile(Observer):
    """Writes ``summary.json`` at the end, also of a run that could not start.

    Args:
        out: the run's folder.
    """

    def __init__(self, out: Path) -> None:
        self._path = out / SUMMARY_FILE

    def on_run_end(self, summary: Summary) -> None:
        """Write the file."""
        write_whole(self._path, json.dumps(summary, indent=2, allow_nan=False) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all, over the former one if there is one.

    Raises:
        OSError: if it cannot be written; the former one is still there.
    """
    # A unique name, and only a new file: in a shared folder, there may be a link at a known name.
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.unfinished")
    try:
        with aside.open("x", encoding="utf-8") as file:
            file.write(text)
        os.replace(aside, path)
    except OSError:
        with suppress(OSError):
            aside.unlink()
        raise


def _append(path: Path, data: bytes, *, after: int) -> int:
    """Write behind so many bytes, all or nothing; return how many there are then."""
    with path.open("ab", buffering=0) as file:
        start = min(after, file.seek(0, os.SEEK_END))
        try:
            file.truncate(start)
            _write_all(file.fileno(), data)
        except OSError:
            with suppress(OSError):
                file.truncate(start)
            raise
        return start + len(data)


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _line(record: RoundRecord) -> str:
    return json.dumps(record.line, allow_nan=False) + "\n"
