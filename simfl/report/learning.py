"""Learning curves, and the tables of their last numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from simfl.report.charts import Band, Line, Lines
from simfl.report.confusion import confusion_charts
from simfl.report.curves import Curve, Floats, Indexes, curve
from simfl.report.judging import main_metric, metric_keys
from simfl.report.over_seeds import final_table, paired_table, target_table
from simfl.report.reading import Run, total
from simfl.report.study import Group, Section, Study
from simfl.report.targets import elapsed
from simfl.report.wording import title_of

_MAX_POINTS = 2000
_MAX_CHARTS = 12


def learning_section(study: Study) -> Section:
    """Draw each metric over rounds, and the main one over time."""
    keys = metric_keys(study.runs)
    charts = [_over_rounds(study, key) for key in keys[:_MAX_CHARTS]]
    main = main_metric(study.runs)
    if main is not None and any(
        "seconds" in record for run in study.runs for record in run.records
    ):
        charts.append(_over_time(study, main))
    matrices = tuple(confusion_charts(study))
    notes = [] if charts else ["no round has been written yet: there are no curves"]
    notes += _not_finite(study, keys)
    tables = [final_table(study, keys)] if any(len(g.runs) > 1 for g in study.groups) else []
    tables += [] if study.target is None else [target_table(study, study.target)]
    tables += [] if (tests := paired_table(study)) is None else [tests]
    has_band = any(line.band for chart in charts for line in chart.lines)
    lead = f"Shaded: {study.view.note}." if has_band else ""
    if any(chart.y_range for chart in charts):
        lead += " It may exceed the chart; double-click to show all of it."
    return Section(
        title="Learning",
        lead=lead,
        charts=(*(chart for chart in charts if chart.lines), *matrices),
        tables=tuple(tables),
        notes=tuple(notes),
    )


def _over_rounds(study: Study, key: str) -> Lines:
    lines = []
    for group in study.groups:
        found = curve(group.runs, key, view=study.view)
        if found is not None:
            lines.append(_line(study, group, found, found.rounds))
    unit = next((f" [{run.units[key]}]" for run in study.runs if key in run.units), "")
    title = title_of(key)
    label = f"{title[0].lower()}{title[1:]}{unit}"
    return Lines(title, x="round", y=label, lines=tuple(lines), name=key)


def _over_time(study: Study, key: str) -> Lines:
    lines = []
    for group in study.groups:
        found = curve(group.runs, key, view=study.view)
        if found is not None:
            lines.append(_line(study, group, found, _mean_elapsed(group.runs, found.rounds)))
    title, name = f"{title_of(key)} over time", f"{key}-over-time"
    return Lines(title, x="seconds", y=key, lines=tuple(lines), name=name)


def _line(study: Study, group: Group, found: Curve, x_R: Floats) -> Line:
    kept = _thinned(len(x_R))
    band = Band(found.low[kept], found.high[kept]) if found.has_band else None
    return Line(group.label, study.colour(group), x_R[kept], found.mean[kept], band)


def _thinned(points: int) -> Indexes:
    """Return the indexes of at most 2,000 points, the first and the last among them."""
    shown = np.linspace(0, points - 1, min(points, _MAX_POINTS))
    return np.unique(shown.round().astype(int))


def _mean_elapsed(runs: Sequence[Run], rounds_R: Floats) -> Floats:
    """Return the seconds to each round's end, on average over the runs that have the round."""
    ends: dict[float, list[float]] = {}
    for run in runs:
        for record, end in zip(run.records, elapsed(run.records), strict=True):
            ends.setdefault(record["round"], []).append(end)
    return np.array([total(ends[r]) / len(ends[r]) for r in rounds_R], dtype=np.float64)


def _not_finite(study: Study, keys: Sequence[str]) -> list[str]:
    notes = []
    for run in study.runs:
        for key in keys:
            rounds = [r["round"] for r in run.records if not math.isfinite(r.get(key, 0.0))]
            if rounds:
                count = "1 round" if len(rounds) == 1 else f"{len(rounds)} rounds, first"
                notes.append(
                    f"{run.folder.name}: {key} has no finite value in {count} (round {rounds[0]:g})"
                    ": shown as a gap, and excluded from means"
                )
    return notes
