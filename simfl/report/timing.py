"""Time and cost: by phase, round and actor, and the ledger."""

from __future__ import annotations

import numpy as np

from simfl.report.charts import INK, PHASE_COLOURS, Bars, Line, Lines, Stack, Table, colour_of
from simfl.report.comparison import flatten
from simfl.report.curves import bin_means, bin_names, bins_of
from simfl.report.reading import Run, is_number, total
from simfl.report.study import Section, Study
from simfl.report.wording import amount

_PREFIX = "seconds_"
_REST = "rest"
_MAX_ACTORS = 30
_MAX_LEDGERS = 8


def timing_section(study: Study) -> Section:
    """Show the time by phase and by round, how busy actors were, and the ledger."""
    charts = [chart for chart in (_phases(study), _actors(study), _rounds(study)) if chart]
    notes = []
    if not any(_phase_names(run) for run in study.runs):
        notes.append("metrics.jsonl does not contain the seconds of each phase")
    ledger = _ledger(study)
    if ledger is None:
        notes.append("summary.json contains no ledger")
    return Section(
        title="Time and cost",
        charts=tuple(charts),
        tables=(ledger,) if ledger else (),
        notes=tuple(notes),
    )


def phase_seconds(run: Run) -> dict[str, float]:
    """Return the seconds of each phase: by the ledger, or else those of all rounds and the rest."""
    ledger = run.summary.get("ledger")
    seconds = ledger.get("seconds") if isinstance(ledger, dict) else None
    if isinstance(seconds, dict) and not run.is_resumed:
        return {str(name): float(s) for name, s in seconds.items() if is_number(s)}
    totals = {
        name: total(record.get(_PREFIX + name, 0.0) for record in run.records)
        for name in _phase_names(run)
    }
    if totals and run.seconds is not None:
        totals[_REST] = max(0.0, run.seconds - total(totals.values()))
    return totals


def _phase_names(run: Run) -> list[str]:
    found = dict.fromkeys(key for record in run.records for key in record)
    return [key.removeprefix(_PREFIX) for key in found if key.startswith(_PREFIX)]


def _phases(study: Study) -> Bars | None:
    """Draw a bar for each group: its seconds by phase, on average over its runs."""
    by_group = [(group, [phase_seconds(run) for run in group.members]) for group in study.groups]
    shown = [(group, totals) for group, totals in by_group if any(totals)]
    names = list(dict.fromkeys(name for _, totals in shown for one in totals for name in one))
    if not names:
        return None
    names.sort(key=lambda name: [*PHASE_COLOURS, name].index(name))
    stacks = []
    for index, name in enumerate(names):
        values = [total(one.get(name, 0.0) for one in totals) / len(totals) for _, totals in shown]
        stacks.append(Stack(name, _phase_colour(name, index), tuple(values)))
    return Bars(
        title="Seconds by phase",
        x="seconds",
        y="",
        names=tuple(group.label for group, _ in shown),
        stacks=tuple(stacks),
        is_horizontal=True,
        note="On average over the runs of a group." if len(study.runs) > len(shown) else "",
    )


def _rounds(study: Study) -> Bars | Lines | None:
    if len(study.groups) == 1:
        return _rounds_by_phase(study.groups[0].runs[0], len(study.runs))
    lines = []
    for group in study.groups:
        run = group.runs[0]
        pairs = [(r["round"], r["seconds"]) for r in run.records if "seconds" in r]
        if pairs:
            x, y = (np.array(column) for column in zip(*pairs, strict=True))
            bins = bins_of(len(x))
            lines.append(
                Line(group.label, study.colour(group), bin_means(x, bins), bin_means(y, bins))
            )
    note = "The first seed of each group; means where rounds are many."
    return Lines("Seconds per round", "round", "seconds", tuple(lines), note) if lines else None


def _rounds_by_phase(run: Run, num_runs: int) -> Bars | None:
    names = _phase_names(run)
    if not names:
        return None
    bins = bins_of(len(run.records))
    labels = bin_names(run, bins)
    stacks = []
    for index, name in enumerate(names):
        values = np.array([record.get(_PREFIX + name, 0.0) for record in run.records])
        colour = _phase_colour(name, index)
        stacks.append(Stack(name, colour, tuple(bin_means(values, bins).tolist())))
    notes = [f"{run.folder.name} only."] if num_runs > 1 else []
    if len(bins) < len(run.records):
        notes.append("Each bar is a mean over several rounds.")
    return Bars(
        title="Seconds per round",
        x="round",
        y="seconds",
        names=labels,
        stacks=tuple(stacks),
        note=" ".join(notes),
    )


def _actors(study: Study) -> Bars | None:
    """Draw the fraction of the training time that each actor spent on clients."""
    names: list[str] = []
    fractions: list[tuple[float, str]] = []
    for group in study.groups:
        run, history = group.runs[0], study.histories.get(group.runs[0].folder)
        training = _training_seconds(run)
        if history is None or not training:
            continue
        for actor, busy in zip(history.actors, history.busy_s, strict=True):
            names.append(actor if len(study.groups) == 1 else f"{group.label} · {actor}")
            fractions.append((float(busy) / training, study.colour(group)))
    if not names:
        return None
    note = "Seconds in which an actor trained clients, divided by the seconds of training."
    if len(names) > _MAX_ACTORS:
        note += f" The first {_MAX_ACTORS} of {len(names)} actors."
    names, fractions = names[:_MAX_ACTORS], fractions[:_MAX_ACTORS]
    colours = list(dict.fromkeys(colour for _, colour in fractions))
    stacks = [
        Stack("busy", colour, tuple(part if mine == colour else 0.0 for part, mine in fractions))
        for colour in colours
    ]
    return Bars(
        title="Actor utilization",
        x="fraction of the training time",
        y="",
        names=tuple(names),
        stacks=tuple(stacks),
        is_horizontal=True,
        is_percent=True,
        note=note,
    )


def _training_seconds(run: Run) -> float:
    key = "seconds_train" if "train" in _phase_names(run) else "seconds"
    return total(record.get(key, 0.0) for record in run.records)


def _ledger(study: Study) -> Table | None:
    with_one = [run for run in study.runs if isinstance(run.summary.get("ledger"), dict)]
    if not with_one:
        return None
    shown = with_one[:_MAX_LEDGERS]
    columns = [flatten(run.summary["ledger"]) for run in shown]
    keys = dict.fromkeys(key for column in columns for key in column)
    header = ("what", *(run.folder.name for run in shown)) if len(shown) > 1 else ("what", "value")
    rows = tuple((_what(key), *(amount(key, c.get(key)) for c in columns)) for key in keys)
    notes = [f"Of {run.folder.name}: since it was resumed." for run in shown if run.is_resumed]
    if len(with_one) > len(shown):
        notes.append(f"{len(with_one) - len(shown)} more runs are omitted.")
    return Table("Ledger", header, rows, note=" ".join(notes))


def _what(key: str) -> str:
    return key.replace("_", " ").replace(".", " · ")


def _phase_colour(name: str, index: int) -> str:
    if name == _REST:
        return INK
    return PHASE_COLOURS.get(name) or colour_of(index)
