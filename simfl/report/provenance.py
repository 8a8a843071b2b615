"""What was run and what went wrong: scenarios, their differences, versions, lost work."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from simfl.errors import one_line
from simfl.record import SCENARIO_FILE
from simfl.regular_files import read_regular
from simfl.report.charts import Bars, Stack, Table
from simfl.report.comparison import differences, flatten
from simfl.report.curves import bin_names, bins_of
from simfl.report.reading import Run, total
from simfl.report.study import Section, Study
from simfl.report.wording import quantity

_MAX_RUNS = 12
_MAX_SIDE_BY_SIDE = 4
_MAX_REASONS = 5
_MAX_CLIENTS = 8
_MAX_WIDTH = 300
_NONE = "—"
_DIGITS = 12
"""Of a hash."""
_LOST = (("dropped", "updates dropped", "#e15759"), ("retries", "chunks run again", "#edc948"))


def differences_section(study: Study) -> Section:
    """Show where the groups' resolved scenarios differ."""
    groups = [group for group in study.groups if group.runs[0].scenario]
    if len(groups) < 2:
        return Section("Differences")
    # Seeds differ within groups; search paths and outputs do not affect results.
    kept = [_without(group.runs[0], ("seed", "label", "search", "output")) for group in groups]
    rows = [
        (difference.key, *("—" if value is None else value for value in difference.values))
        for difference in differences(kept)
    ]
    seeds = [", ".join("?" if r.seed is None else str(r.seed) for r in g.runs) for g in groups]
    if len(set(seeds)) > 1:
        rows.append(("seed", *seeds))
    header = ("key", *(group.label for group in groups))
    return Section("Differences", tables=(_differences(study, header, rows),) if rows else ())


def _differences(study: Study, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    """Return a row for each key; or a row for each group, if there are many groups."""
    title = "Where the resolved scenarios differ"
    if len(header) - 1 <= max(_MAX_SIDE_BY_SIDE, len(rows)):
        return Table(title, header, tuple(rows))
    (_, *keys), *by_group = zip(header, *rows, strict=True)
    colours = {group.label: study.colour(group) for group in study.groups}
    return Table(
        title,
        ("run", *keys),
        tuple(by_group),
        tuple(colours[label] for label, *_ in by_group),
    )


def provenance_section(study: Study) -> Section:
    """Show the resolved scenarios, versions, and unreadable files."""
    texts = []
    for group in study.groups[:_MAX_RUNS]:
        run = group.runs[0]
        if run.scenario:
            title = f"Resolved scenario of {run.folder.name}"
            if len(group.members) > 1:
                title += f" (the {len(group.members)} runs of its group differ in the seed only)"
            texts.append((title, _text(run)))
    tables = (_sources(study), _versions(study))
    return Section(
        title="Provenance",
        tables=tuple(table for table in tables if table is not None),
        notes=tuple(_faults(study)),
        texts=tuple(texts),
    )


def _faults(study: Study) -> list[str]:
    """Return a line for each fault, with the runs affected."""
    by_fault: dict[str, list[str]] = {}
    for folder, fault in study.faults:
        by_fault.setdefault(fault, []).append(folder)
    if study.is_single:
        return list(by_fault)
    return [f"{fault} ({', '.join(folders)})" for fault, folders in by_fault.items()]


def _without(run: Run, keys: tuple[str, ...]) -> dict[str, object]:
    return {key: value for key, value in run.scenario.items() if key not in keys}


def _text(run: Run) -> str:
    return read_regular(run.folder / SCENARIO_FILE).decode(errors="replace")


def _sources(study: Study) -> Table | None:
    """Return a row for each run: its command, commit, processor and data."""
    runs = [run for run in study.runs if run.provenance]
    if not runs:
        return None
    header = ("run", "command", "commit", "processor", "data, sha256")
    rows = tuple((run.folder.name, *_source(run.provenance)) for run in runs[:_MAX_RUNS])
    left = len(runs) - len(rows)
    return Table(
        "Where the numbers come from", header, rows, note=f"{left} more runs." if left else ""
    )


def _source(about: dict[str, Any]) -> tuple[str, ...]:
    """Return the cells of a run; the file may hold anything."""
    command, processor, data = about.get("command"), about.get("processor"), about.get("data")
    words = command if isinstance(command, list) else []
    processor = processor if isinstance(processor, dict) else {}
    git = about.get("git")
    commits = [_commit(one) for one in (git if isinstance(git, list) else ())]
    name, isa = processor.get("model"), processor.get("isa")
    return (
        shlex.join(map(str, words))[:_MAX_WIDTH] or _NONE,
        ", ".join(commits)[:_MAX_WIDTH] or _NONE,
        f"{name} ({isa})"[:_MAX_WIDTH] if name and isa else _NONE,
        data[:_DIGITS] if isinstance(data, str) else _NONE,
    )


def _commit(repository: object) -> str:
    if not isinstance(repository, dict):
        return "?"
    changed = ", changed" if repository.get("is_changed") else ""
    name = PurePath(str(repository.get("folder"))).name
    return f"{name} {str(repository.get('commit'))[:_DIGITS]}{changed}"


def _versions(study: Study) -> Table | None:
    """Return a row for each package, and a column for each distinct set of versions."""
    by_versions: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for run in study.runs:
        if run.versions:
            key = tuple(flatten(run.versions).items())
            by_versions.setdefault(key, []).append(run.folder.name)
    if not by_versions:
        return None
    columns = [dict(key) for key in by_versions]
    names = dict.fromkeys(name for column in columns for name in column)
    is_same = len(columns) == 1
    header = (
        ("package", "version") if is_same else ("package", *map(", ".join, by_versions.values()))
    )
    rows = tuple((name, *(column.get(name, "—") for column in columns)) for name in names)
    return Table("Versions", header, rows)


def failures_section(study: Study) -> Section:
    """Show dropped updates, repeated chunks, and runs that failed."""
    runs = study.runs
    losses = [[_total(run, key) for key, _, _ in _LOST] for run in runs]
    has_losses = any(map(any, losses))
    unwritten = tuple(line for run in runs for line in _unwritten(run))
    lead = "" if has_losses else "No update was dropped, and no chunk had to be run again."
    has_ended_badly = any(r.state == "failed" or _error(r) != _NONE for r in runs)
    if not has_losses and not has_ended_badly:
        return Section("Failures", lead, notes=unwritten)
    table = Table(
        "Lost work",
        ("run", "state", *(label for _, label, _ in _LOST), "what ended it"),
        tuple(
            (run.folder.name, run.state, *map(quantity, lost), _error(run))
            for run, lost in zip(runs, losses, strict=True)
        ),
        tuple(study.colour(group) for group in study.groups for _ in group.members),
    )
    charts = (_lost(runs[0]),) if has_losses and study.is_single else ()
    reasons = _reasons(study)
    tables = (table, reasons) if reasons.rows else (table,)
    return Section("Failures", lead, charts=charts, tables=tables, notes=unwritten)


def _reasons(study: Study) -> Table:
    """Show why updates were dropped, and of which clients."""
    rows, colours = [], []
    for group in study.groups:
        for run in group.members:
            history = study.histories.get(run.folder)
            for dropped in history.dropped[:_MAX_REASONS] if history else ():
                why, whose = one_line(dropped.why)[:_MAX_WIDTH], _some(dropped.clients)
                rows.append((run.folder.name, quantity(dropped.updates), whose, why))
                colours.append(study.colour(group))
    return Table(
        "Why updates were dropped",
        ("run", "updates", "of clients", "why"),
        tuple(rows),
        tuple(colours),
        note=f"The {_MAX_REASONS} most frequent reasons of each run.",
    )


def _some(clients: Sequence[int]) -> str:
    shown = ", ".join(map(str, clients[:_MAX_CLIENTS]))
    return (
        shown
        if len(clients) <= _MAX_CLIENTS
        else f"{shown} and {len(clients) - _MAX_CLIENTS:,} more"
    )


def _total(run: Run, key: str) -> float:
    return total(value for r in run.records if math.isfinite(value := r.get(key, 0.0)))


def _error(run: Run) -> str:
    error: Any = run.summary.get("error")
    return str(error).partition("\n")[0][:_MAX_WIDTH] if error else _NONE


def _unwritten(run: Run) -> list[str]:
    """Return what could not be written during the run."""
    lost = run.summary.get("lost")
    if not isinstance(lost, dict):
        return []
    return [f"{run.folder.name}: {label} was not written: {why}" for label, why in lost.items()]


def _lost(run: Run) -> Bars:
    """Draw lost work in at most 60 bars of neighbouring rounds."""
    bins = bins_of(len(run.records))
    stacks = []
    for key, label, colour in _LOST:
        values = np.array([record.get(key, 0.0) for record in run.records])
        stacks.append(Stack(label, colour, tuple(float(values[part].sum()) for part in bins)))
    return Bars("Lost work by round", "round", "how many", bin_names(run, bins), tuple(stacks))
