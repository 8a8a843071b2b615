"""Read a run's folder in any state: done, running, interrupted or damaged."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

from simfl.errors import InputError
from simfl.record import (
    METRICS_FILE,
    PROVENANCE_FILE,
    RUN_FILE,
    SCENARIO_FILE,
    SUMMARY_FILE,
    VERSIONS_FILE,
)
from simfl.regular_files import read_regular
from simfl.report.plain_data import read_json, read_yaml

Record: TypeAlias = "dict[str, float]"
"""One round's numbers: a line of ``metrics.jsonl``. NaN: no value, or not finite."""

_FILES: Final = (SCENARIO_FILE, METRICS_FILE, SUMMARY_FILE)
_MAX_DEPTH: Final = 3
_QUIET_S: Final = 300.0
_QUIET_ROUNDS: Final = 20
_MAX_INT: Final = 2**53
_MAX_BYTES: Final = 1 << 26
_MAX_METRICS: Final = 1 << 29


class _Missing(str):
    """A message about a file that does not exist."""


@dataclass(frozen=True)
class Run:
    """A run, as read from its folder."""

    folder: Path
    scenario: dict[str, Any]
    """The resolved scenario as plain data; empty if it cannot be read."""
    records: tuple[Record, ...]
    """Of each round in the file, in order."""
    summary: dict[str, Any]
    """``summary.json``; empty if the run has not ended, or it cannot be read."""
    versions: dict[str, Any]
    better: dict[str, str]
    """``max`` or ``min`` by metric, from ``run.json``; the metric that ranks runs comes first.
    Empty for runs of earlier versions."""
    units: dict[str, str]
    """The unit of each number that has one, from ``run.json``; empty for earlier versions."""
    state: str
    """``running``, or how it ended: ``done``, ``failed``, ``interrupted``; ``stopped``: early, by
    a sweep, or without a summary."""
    changed: float
    """When it was last written to, in seconds since the epoch."""
    faults: tuple[str, ...] = ()
    """Messages about what is missing or damaged."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """``provenance.json``; empty for runs of earlier versions."""
    matrices: dict[str, list[list[float]]] = field(default_factory=dict)
    """What records have that is a matrix, such as ``confusion``, as last measured."""

    @property
    def is_damaged(self) -> bool:
        """Whether a file exists and cannot be read, or not all of it."""
        return not all(isinstance(fault, _Missing) for fault in self.faults)

    @property
    def name(self) -> str:
        """The scenario's name, or else the folder's."""
        name = self.scenario.get("name")
        return name if isinstance(name, str) and name else self.folder.name

    @property
    def seed(self) -> int | None:
        """The scenario's seed."""
        return _count(self.scenario.get("seed"))

    @property
    def rounds(self) -> int:
        """How many rounds are done."""
        return int(self.records[-1]["round"]) if self.records else 0

    @property
    def planned_rounds(self) -> int | None:
        """How many rounds the scenario asks for."""
        return _count(self.scenario.get("rounds"))

    @property
    def progress(self) -> str:
        """The progress of the run: ``12/200``."""
        return f"{self.rounds}/{self.planned_rounds or '?'}"

    @property
    def is_resumed(self) -> bool:
        """Whether the summary covers only a part of the run, since it was resumed."""
        return "resumed_after_round" in self.summary

    @property
    def seconds(self) -> float | None:
        """The wall time of the whole run, or of the rounds that are done."""
        wall = _number(self.summary.get("wall_seconds"))
        if wall is not None and not self.is_resumed:
            return wall
        spent = [record["seconds"] for record in self.records if "seconds" in record]
        return total(spent) if spent else wall

    def latest(self, key: str) -> float | None:
        """Return a number as last measured."""
        return next((record[key] for record in reversed(self.records) if key in record), None)


def total(values: Iterable[float]) -> float:
    """Add up exactly; NaN if the sum overflows.

    >>> total([0.1] * 10), total([1e308, 1e308])
    (1.0, nan)
    """
    try:
        return math.fsum(values)
    except (OverflowError, ValueError):  # 1e308 + 1e308, inf - inf
        return math.nan


def find_runs(folder: Path) -> list[Path]:
    """Return the folders of runs in a folder, up to three levels down, by name.

    Raises:
        InputError: if there is no such folder.
    """
    if not os.path.isdir(folder):  # also False for a name that is too long
        raise InputError(f"{folder} does not exist; give the folder that holds the runs")
    return sorted(_find(folder, depth=0))


def read_run(folder: Path, *, now: float) -> Run:
    """Read a run's files; what is missing or damaged is reported in ``faults``.

    Args:
        folder: the run's.
        now: seconds since the epoch, to distinguish a running run from one that has stopped.

    Raises:
        InputError: if the folder holds nothing of a run.
    """
    if not _holds_run(folder):
        raise InputError(f"{folder} holds no run: none of {', '.join(_FILES)} is in it")
    faults: list[str] = []
    records = _read_records(folder / METRICS_FILE, faults)
    has_ended = _modified(folder / SUMMARY_FILE) > 0
    summary = _read_object(folder / SUMMARY_FILE, faults) if has_ended else {}
    changed = _changed(folder)
    about = _read_object(folder / RUN_FILE, faults) if (folder / RUN_FILE).is_file() else {}
    source = folder / PROVENANCE_FILE
    provenance = _read_object(source, faults) if source.is_file() else {}
    better, units = _mapping(about.get("better")), _mapping(about.get("units"))
    return Run(
        folder=folder,
        scenario=_read_scenario(folder / SCENARIO_FILE, faults),
        records=records,
        matrices=_read_matrices(folder / METRICS_FILE),
        summary=summary,
        versions=_read_object(folder / VERSIONS_FILE, faults),
        better={key: side for key, side in better.items() if side in ("max", "min")},
        units={key: unit for key, unit in units.items() if isinstance(unit, str)},
        state=_state(summary, records, quiet_s=now - changed),
        changed=changed,
        faults=tuple(faults),
        provenance=provenance,
    )


def _find(folder: Path, *, depth: int) -> Iterator[Path]:
    if _holds_run(folder):
        yield folder
        return
    if depth == _MAX_DEPTH:
        return
    for child in _children(folder):
        yield from _find(child, depth=depth + 1)


def _children(folder: Path) -> list[Path]:
    try:
        return [p for p in folder.iterdir() if p.is_dir() and not p.is_symlink()]
    except OSError:
        return []


def _holds_run(folder: Path) -> bool:
    return any(os.path.isfile(folder / name) for name in _FILES)


def _changed(folder: Path) -> float:
    return max(_modified(folder / name) for name in _FILES)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _state(summary: dict[str, Any], records: Iterable[Record], *, quiet_s: float) -> str:
    status = summary.get("status")
    if isinstance(status, str) and status:
        return status
    slowest = max((record.get("seconds", 0.0) for record in records), default=0.0)
    limit = max(_QUIET_S, _QUIET_ROUNDS * slowest)
    return "running" if quiet_s < limit else "stopped"


def _read_scenario(path: Path, faults: list[str]) -> dict[str, Any]:
    text = _read_text(path, faults)
    if text is None:
        return {}
    try:
        return read_yaml(text)
    except ValueError as error:
        faults.append(f"{path.name} cannot be read: {error}")
        return {}


def _read_object(path: Path, faults: list[str]) -> dict[str, Any]:
    text = _read_text(path, faults)
    if text is None:
        return {}
    try:
        return read_json(text)
    except ValueError as error:
        faults.append(f"{path.name} is damaged: {error}")
        return {}


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _read_records(path: Path, faults: list[str]) -> tuple[Record, ...]:
    """Read the complete rounds; if a round is in the file twice, the later one."""
    by_round: dict[float, Record] = {}
    damaged = []
    text = _read_text(path, faults, limit=_MAX_METRICS) or ""
    for number, line in enumerate(text.split("\n"), start=1):
        record = _record(line)
        if record is not None:
            by_round[record["round"]] = record
        elif line.strip():
            damaged.append(number)
    if damaged:
        shown = ", ".join(map(str, damaged[:3])) + (", ..." if len(damaged) > 3 else "")
        what = "line" if len(damaged) == 1 else "lines"
        faults.append(f"{path.name}: {what} {shown} damaged or incomplete, and ignored")
    return tuple(by_round[round] for round in sorted(by_round))


def _read_matrices(path: Path) -> dict[str, list[list[float]]]:
    """Return the last of each matrix of numbers in the rounds."""
    found: dict[str, list[list[float]]] = {}
    for line in reversed((_read_text(path, [], limit=_MAX_METRICS) or "").split("\n")):
        values = {}
        if "[[" in line:
            with suppress(ValueError):
                values = read_json(line)
        for key, value in values.items():
            if key not in found and _is_matrix(value):
                found[key] = value
        if found:  # all that is measured is measured after the last round
            break
    return found


def _is_matrix(value: Any) -> bool:
    rows = value if isinstance(value, list) else []
    return bool(rows) and all(
        isinstance(row, list) and len(row) == len(rows[0]) and all(map(is_number, row))
        for row in rows
    )


def _record(line: str) -> Record | None:
    try:
        values = read_json(line)
    except ValueError:
        return None
    if not _count(values.get("round")):
        return None
    if values.get("clients") == 0:  # nothing was trained, which is no loss that is not finite
        values.pop("train_loss", None)
    numbers = {key: math.nan if v is None else _number(v) for key, v in values.items()}
    return {key: number for key, number in numbers.items() if number is not None}


def _read_text(path: Path, faults: list[str], *, limit: int = _MAX_BYTES) -> str | None:
    try:
        return read_regular(path, limit=limit).decode(errors="replace")
    except FileNotFoundError:
        faults.append(_Missing(f"{path.name} is missing"))
    except OSError as error:
        faults.append(f"{path.name} cannot be read: {error.strerror}")
    return None


def _count(value: Any) -> int | None:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return value if is_whole and 0 <= value < _MAX_INT else None


def _number(value: Any) -> float | None:
    return value if is_number(value) else None


def is_number(value: Any) -> bool:
    """Return whether a JSON value is a number that a float can represent."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) <= _MAX_INT
