"""Who took part, what the population holds, and what went wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from simfl.errors import one_line
from simfl.report.charts import INK, Bars, Histogram, Stack, Table
from simfl.report.client_tables import ClientHistory
from simfl.report.curves import Floats
from simfl.report.groups import Group
from simfl.report.reading import Run, total
from simfl.report.study import Section, Study
from simfl.report.wording import quantity

_MAX_BINS = 40
_MAX_BARS = 60
_MAX_REASONS = 5
_MAX_CLIENTS = 8
_MAX_WIDTH = 300
_NONE = "—"
_LOST = (("dropped", "updates dropped", "#e15759"), ("retries", "chunks run again", "#edc948"))


def participation_section(study: Study) -> Section:
    """Show how often clients took part."""
    shown = [
        (group, _times(group.runs[0], histories[0]))
        for group in study.groups
        if (histories := study.histories_of(group))
    ]
    if not shown:
        return Section("Participation", notes=("no table of clients: who took part is not known",))
    highest = int(max(times.max() for _, times in shown))
    lowest = int(min(times.min() for _, times in shown))
    step = max(1, -(-(highest - lowest + 1) // _MAX_BINS))
    edges = np.arange(lowest, highest + step + 1, step, dtype=np.float64) - 0.5
    stacks = [
        Stack(group.label, study.colour(group), _counts(times, edges)) for group, times in shown
    ]
    # The same seed draws the same cohorts, whatever is trained in them.
    is_same = len(stacks) > 1 and all(stack.values == stacks[0].values for stack in stacks)
    if is_same:
        stacks = [Stack("all the same", INK, stacks[0].values)]
    chart = Histogram(
        title="How often clients took part",
        x="rounds",
        y="clients",
        edges=edges,
        stacks=tuple(stacks),
        marks=(("mean", float(shown[0][1].mean())),) if len(shown) == 1 else (),
        note=_note(study, is_same=is_same),
    )
    return Section("Participation", charts=(chart,), tables=(_participation_table(study, shown),))


def _note(study: Study, *, is_same: bool) -> str:
    notes = []
    if len(study.runs) > len(study.groups):
        notes.append("The first seed of each group.")
    if is_same:
        notes.append("It is the same for all groups: cohorts follow from the seed.")
    return " ".join(notes)


def failures_section(study: Study) -> Section:
    """Show updates that were dropped, clients that were retried, and runs that did not end well."""
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
    """Say why updates were dropped, and whose they were."""
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


def population_of(run: Run) -> int | None:
    """Return how many clients there are, as far as the scenario and the summary say it."""
    data = run.scenario.get("data")
    partition = data.get("partition") if isinstance(data, dict) else None
    for place in (run.summary, partition, data):
        for key in ("population", "clients"):
            value = place.get(key) if isinstance(place, dict) else None
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return None


def _times(run: Run, history: ClientHistory) -> Floats:
    """Return how often each client took part; 0 for those of the population who never did."""
    never = (population_of(run) or 0) - len(history.times)
    return np.concatenate([np.zeros(max(0, never)), history.times])


def _counts(values: Floats, edges: Floats) -> tuple[float, ...]:
    return tuple(np.histogram(values, bins=edges)[0].astype(float).tolist())


def _participation_table(study: Study, shown: Sequence[tuple[Group, Floats]]) -> Table:
    return Table(
        "Rounds of a client",
        ("run", "clients", "never took part", "fewest", "median", "mean", "most"),
        tuple(
            (
                group.label,
                quantity(len(times)),
                quantity(int((times == 0).sum())),
                *(quantity(float(f(times))) for f in (np.min, np.median, np.mean, np.max)),
            )
            for group, times in shown
        ),
        tuple(study.colour(group) for group, _ in shown),
    )


def _total(run: Run, key: str) -> float:
    return total(value for r in run.records if math.isfinite(value := r.get(key, 0.0)))


def _error(run: Run) -> str:
    error: Any = run.summary.get("error")
    return str(error).partition("\n")[0][:_MAX_WIDTH] if error else _NONE


def _unwritten(run: Run) -> list[str]:
    """Return what could not be written as the run went on."""
    lost = run.summary.get("lost")
    if not isinstance(lost, dict):
        return []
    return [f"{run.folder.name}: {label} was not written: {why}" for label, why in lost.items()]


def _lost(run: Run) -> Bars:
    """Draw what was lost, in at most 60 bars of neighbouring rounds."""
    bins = np.array_split(np.arange(len(run.records)), min(len(run.records), _MAX_BARS))
    numbers = [int(record["round"]) for record in run.records]
    stacks = []
    for key, label, colour in _LOST:
        values = np.array([record.get(key, 0.0) for record in run.records])
        stacks.append(Stack(label, colour, tuple(float(values[part].sum()) for part in bins)))
    firsts, lasts = [numbers[p[0]] for p in bins], [numbers[p[-1]] for p in bins]
    names = [str(a) if a == b else f"{a}–{b}" for a, b in zip(firsts, lasts, strict=True)]
    return Bars("Lost work by round", "round", "how many", tuple(names), tuple(stacks))
