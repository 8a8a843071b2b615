"""Learning curves, and how long each took to a target."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from simfl.record import split_metrics
from simfl.report.charts import Band, Line, Lines, Table
from simfl.report.curves import (
    BAND,
    Curve,
    Floats,
    Indexes,
    Reached,
    Target,
    curve,
    elapsed,
    reach,
)
from simfl.report.judging import best, main_metric, metric_keys
from simfl.report.reading import Run, total
from simfl.report.study import Group, Section, Study
from simfl.report.wording import OVER_SEEDS, duration, mean_and_deviation

_MAX_POINTS = 2000
_MAX_CHARTS = 12
_MAX_COLUMNS = 6


def learning_section(study: Study) -> Section:
    """Draw each metric over rounds, and the main one over time."""
    keys = metric_keys(study.runs)
    charts = [_over_rounds(study, key) for key in keys[:_MAX_CHARTS]]
    main = main_metric(study.runs)
    if main is not None and any(
        "seconds" in record for run in study.runs for record in run.records
    ):
        charts.append(_over_time(study, main))
    notes = [] if charts else ["no round has been written yet: there are no curves"]
    notes += _not_finite(study, keys)
    tables = [_over_seeds(study, keys)] if any(len(g.runs) > 1 for g in study.groups) else []
    tables += [] if study.target is None else [_target_table(study, study.target)]
    lead = f"Shaded: {BAND}." if any(line.band for c in charts for line in c.lines) else ""
    if any(chart.y_range for chart in charts):
        lead += " It may exceed the chart; double-click to show all of it."
    return Section(
        title="Learning",
        lead=lead,
        charts=tuple(chart for chart in charts if chart.lines),
        tables=tuple(tables),
        notes=tuple(notes),
    )


def title_of(key: str) -> str:
    """Write a record's key as a title.

    >>> title_of("train_loss"), title_of("delta_norm"), title_of("loss")
    ('Train loss', 'Norm of the aggregated delta', 'Test loss')
    """
    _, over_clients = split_metrics([key])
    if over_clients:
        return f"{title_of(over_clients[0]).removeprefix('Test ')}, mean over clients"
    special = {
        "loss": "Test loss",
        "accuracy": "Test accuracy",
        "delta_norm": "Norm of the aggregated delta",
    }
    return special.get(key) or key.replace("_", " ").capitalize()


def _over_rounds(study: Study, key: str) -> Lines:
    lines = []
    for group in study.groups:
        found = curve(group.runs, key)
        if found is not None:
            lines.append(_line(study, group, found, found.rounds))
    unit = next((f" [{run.units[key]}]" for run in study.runs if key in run.units), "")
    label = f"{key.replace('_', ' ')}{unit}"
    return Lines(title_of(key), x="round", y=label, lines=tuple(lines))


def _over_time(study: Study, key: str) -> Lines:
    lines = []
    for group in study.groups:
        found = curve(group.runs, key)
        if found is not None:
            lines.append(_line(study, group, found, _mean_elapsed(group.runs, found.rounds)))
    return Lines(f"{title_of(key)} over time", x="seconds", y=key, lines=tuple(lines))


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


def _over_seeds(study: Study, keys: Sequence[str]) -> Table:
    """Return each group's final numbers."""
    shown = [key for key in keys if key != "delta_norm"][:_MAX_COLUMNS]
    rows = []
    for group in study.groups:
        finals = [[v for run in group.runs if (v := run.latest(key)) is not None] for key in shown]
        rows.append((group.label, str(len(group.runs)), *map(mean_and_deviation, finals)))
    return Table(
        title="Final numbers over seeds",
        header=("group", "seeds", *shown),
        rows=tuple(rows),
        colours=tuple(study.colour(group) for group in study.groups),
        note=f"{OVER_SEEDS.capitalize()}.",
    )


def _target_table(study: Study, target: Target) -> Table:
    note = (
        "The highest whole percent that all finished runs reach which are at least half as good "
        "as the best; --target sets another. "
        if study.is_target_chosen
        else ""
    )
    return Table(
        title=f"To {target}",
        header=("run", "reached it", "rounds", "time", f"final {target.metric}", "best round's"),
        rows=tuple(_target_row(group, study, target) for group in study.groups),
        colours=tuple(study.colour(group) for group in study.groups),
        note=f"{note}Mean over the seeds that reached it, with their range; rounds are those that "
        "were evaluated, and time begins with the first round. The last two: "
        f"{OVER_SEEDS}.",
    )


def _target_row(group: Group, study: Study, target: Target) -> tuple[str, ...]:
    runs, metric = group.runs, target.metric
    reached = [found for run in runs if (found := reach(run, target)) is not None]
    values = [[r[metric] for r in run.records if metric in r] for run in runs]
    in_best_round = [best(metric, v, study.runs) for v in values]
    final = [v[-1] for v in values if v]
    return (
        group.label,
        f"{len(reached)} of {len(runs)}",
        _spread([float(found.round) for found in reached], lambda value: f"{value:.0f}"),
        _spread(_seconds(reached), duration),
        mean_and_deviation(final),
        mean_and_deviation([value for value in in_best_round if value is not None]),
    )


def _seconds(reached: Sequence[Reached]) -> list[float]:
    return [found.seconds for found in reached if found.seconds is not None]


def _spread(values: Sequence[float], write: Callable[[float], str]) -> str:
    if not values:
        return "—"
    mean = write(total(values) / len(values))
    if min(values) == max(values):
        return mean
    return f"{mean} ({write(min(values))} to {write(max(values))})"
