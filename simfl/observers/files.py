"""What a run leaves in its folder while it goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TextIO

from simfl.observers.clients import ClientTable
from simfl.observers.observer import Observer, RoundRecord, RunInfo, Summary

__all__ = ["METRICS_FILE", "SUMMARY_FILE", "JsonLines"]

METRICS_FILE = "metrics.jsonl"
SUMMARY_FILE = "summary.json"


class JsonLines(Observer):
    """Writes ``metrics.jsonl``, one object a round, and ``summary.json`` at the end."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._file: TextIO | None = None

    def on_run_start(self, info: RunInfo) -> None:
        """Open the file, with the rounds that are done; what came after them is done again."""
        path = self._out / METRICS_FILE
        aside = path.with_suffix(".tmp")
        aside.write_text("".join(map(_line, info.history)), encoding="utf-8")
        aside.replace(path)
        self._file = path.open("a", encoding="utf-8")

    def on_round(self, record: RoundRecord, clients: ClientTable) -> None:
        """Append the round, whole and at once."""
        assert self._file is not None, "the run has not started"
        self._file.write(_line(record))
        self._file.flush()

    def on_run_end(self, summary: Summary) -> None:
        """Close the one file and write the other."""
        if self._file is not None:
            self._file.close()
        text = json.dumps(summary, indent=2)
        (self._out / SUMMARY_FILE).write_text(text + "\n", encoding="utf-8")


def _line(record: RoundRecord) -> str:
    return json.dumps(record) + "\n"
