"""How a metric is spread over clients: mean, worst tenth, variance, and the last evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simfl.record import GLOBAL, PERSONAL, TUNED, client_keys, evaluated_as, evaluations
from simfl.report.bands import written
from simfl.report.charts import Band, Histogram, Line, Lines, Stack, Table
from simfl.report.client_tables import Evaluation
from simfl.report.curves import Floats, curve
from simfl.report.judging import main_client_metric, smaller_is_better
from simfl.report.reading import Run
from simfl.report.study import Group, Section, Study
from simfl.report.wording import sentence

_TITLE = "Accuracy of single clients"
_FIGURES = (
    *("round", "clients", "mean", "variance", "worst 10 %", "best 10 %", "lowest"),
    "Jain's index",
)
_NOTES = {
    PERSONAL: "each client's own weights",
    TUNED: "after some steps on the client's own examples",
}
_BINS = 20
_WORST = 0.1


def fairness_section(study: Study) -> Section:
    """Draw how a metric is spread over clients, if clients were evaluated."""
    metric = main_client_metric(study.runs)
    if metric is None:
        note = "clients were not evaluated one by one; evaluation.clients_every does that"
        return Section(_TITLE, notes=(note,))
    evaluated = _evaluations(study, metric)
    lines = [
        _means_and_worst(study, metric),
        *(_side_by_side(study, metric, model) for model, is_new in evaluated[1:] if not is_new),
        *([_new_clients(study, metric, evaluated)] if (GLOBAL, True) in evaluated else []),
        _variance(study, metric),
    ]
    last = _last(study, metric)
    notes = (
        () if last else ("no table of evaluations: only mean and variance over clients are known",)
    )
    return Section(
        title=_TITLE if metric == "accuracy" else f"{metric} of single clients",
        lead="Each client is evaluated on its own examples, and counts once.",
        charts=(*(chart for chart in lines if chart.lines), *([last] if last else [])),
        tables=(_table(study, metric, evaluated),),
        notes=notes,
    )


def _evaluations(study: Study, metric: str) -> list[tuple[str, bool]]:
    """Return which models were evaluated on which clients, the global one first."""
    return [
        (model, is_new)
        for model, is_new in evaluations(personalizes=True, personal_steps=1, has_new=True)
        if (model, is_new) == (GLOBAL, False)
        or any(run.latest(_key(metric, model, is_new)) is not None for run in study.runs)
    ]


def _key(metric: str, model: str, is_new: bool) -> str:
    return client_keys(evaluated_as(metric, model, is_new))["mean"]


@dataclass(frozen=True)
class Spread:
    """How one evaluation is spread over clients."""

    mean: float
    variance: float
    worst: float
    """The mean over the worst tenth of clients."""
    best: float
    """The mean over the best tenth of clients."""
    lowest: float


def spread_of(values_M: Floats, *, is_loss: bool) -> Spread:
    """Sum up ascending values, of which the largest are the worst if the metric is a loss."""
    worst_first_M = values_M[::-1] if is_loss else values_M
    tenth = max(1, round(_WORST * len(values_M)))
    return Spread(
        mean=float(values_M.mean()),
        variance=float(values_M.var()),
        worst=float(worst_first_M[:tenth].mean()),
        best=float(worst_first_M[-tenth:].mean()),
        lowest=float(values_M[0]),
    )


def _means_and_worst(study: Study, metric: str) -> Lines:
    lines = []
    for group in study.groups:
        colour = study.colour(group)
        mean = curve(group.runs, f"client_{metric}", view=study.view)
        worst = curve(group.runs, f"client_{metric}_worst", view=study.view)
        if mean is not None:
            # Fans of several groups would hide one another.
            band = _middle(study, group, metric, mean.rounds) if len(study.groups) == 1 else None
            lines.append(Line(group.label, colour, mean.rounds, mean.mean, band))
        if worst is not None:
            label = f"{group.label}, worst 10 %"
            belongs_to = "" if mean is None else group.label
            lines.append(
                Line(
                    *(label, colour, worst.rounds, worst.mean),
                    is_dashed=True,
                    belongs_to=belongs_to,
                )
            )
    note = "Solid: the mean over clients. Dashed: the mean over the worst tenth of them."
    if any(line.band for line in lines):
        note += " Shaded: from the 10th to the 90th percentile."
    return Lines("Mean and worst tenth of clients", "round", metric, tuple(lines), note)


def _side_by_side(study: Study, metric: str, model: str) -> Lines:
    """Draw the mean over clients of the global model, and that of their own."""
    keys = {"global": _key(metric, GLOBAL, False), model: _key(metric, model, False)}
    title = "Global and personal" if model == PERSONAL else "Before and after tuning"
    note = f"Solid: the server's weights. Dashed: {_NOTES[model]}. Means over clients."
    return Lines(title, "round", metric, _pairs(study, keys), note)


def _new_clients(study: Study, metric: str, evaluated: Sequence[tuple[str, bool]]) -> Lines:
    """Draw the mean over clients that never train, with the global model and with their last."""
    last = evaluated[-1][0]
    keys = {"new clients": _key(metric, GLOBAL, True)}
    note = "Solid: the server's weights."
    if last != GLOBAL:
        keys[f"new clients, {last}"] = _key(metric, last, True)
        note += f" Dashed: {_NOTES[last]}."
    title = "Clients that never train"
    return Lines(title, "round", metric, _pairs(study, keys), note)


def _pairs(study: Study, keys: Mapping[str, str]) -> tuple[Line, ...]:
    """Return each group's curves: the first is solid, the others are dashed."""
    lines: list[Line] = []
    for group in study.groups:
        first = ""
        for name, key in keys.items():
            found = curve(group.runs, key, view=study.view)
            if found is None:
                continue
            label, colour = f"{group.label}, {name}", study.colour(group)
            is_first = key == next(iter(keys.values()))
            lines.append(
                Line(
                    *(label, colour, found.rounds, found.mean),
                    is_dashed=not is_first,
                    belongs_to=first,
                )
            )
            first = first or label
    return tuple(lines)


def _middle(study: Study, group: Group, metric: str, rounds_R: Floats) -> Band | None:
    """Return the 10th and the 90th percentile of clients, over all seeds together."""
    pooled: dict[int, list[Floats]] = {}
    for run in group.runs:
        for evaluation in study.evaluations[run.folder].get(metric, ()):
            pooled.setdefault(evaluation.round, []).append(evaluation.values)
    if not pooled:
        return None
    empty = np.full(2, math.nan)
    edges = [
        np.quantile(np.concatenate(pooled[int(r)]), (0.1, 0.9)) if int(r) in pooled else empty
        for r in rounds_R
    ]
    low_R, high_R = np.array(edges).T
    return Band(low_R, high_R)


def _variance(study: Study, metric: str) -> Lines:
    lines = []
    for group in study.groups:
        key = f"client_{metric}_std"
        found = curve(group.runs, key, of=lambda std: std**2, view=study.view)
        if found is not None:
            lines.append(Line(group.label, study.colour(group), found.rounds, found.mean))
    return Lines("Variance over clients", "round", f"variance of {metric}", tuple(lines))


def _last(study: Study, metric: str) -> Histogram | None:
    """Draw the last evaluation of each group, its seeds together."""
    shown = [
        (group, values) for group in study.groups if len(values := _pooled(study, group, metric))
    ]
    if not shown:
        return None
    low = min(float(values.min()) for _, values in shown)
    high = max(float(values.max()) for _, values in shown)
    if low >= 0 and high <= 1 and not _is_loss(study, metric):
        low, high = 0.0, 1.0
    edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)
    stacks = tuple(
        Stack(group.label, study.colour(group), _shares(values, edges)) for group, values in shown
    )
    return Histogram(
        title="Clients by their last evaluation",
        x=metric,
        y="% of clients",
        edges=edges,
        stacks=stacks,
    )


def _pooled(study: Study, group: Group, metric: str) -> Floats:
    lasts = [_last_evaluation(study, run.folder, metric) for run in group.runs]
    found = [evaluation.values for evaluation in lasts if evaluation is not None]
    return np.concatenate(found) if found else np.zeros(0)


def _last_evaluation(study: Study, folder: Path, metric: str) -> Evaluation | None:
    evaluations: Sequence[Evaluation] = study.evaluations[folder].get(metric, ())
    return evaluations[-1] if evaluations else None


def _shares(values: Floats, edges: Floats) -> tuple[float, ...]:
    counts = np.histogram(values, bins=edges)[0]
    return tuple((100 * counts / len(values)).tolist())


def _table(study: Study, metric: str, evaluated: Sequence[tuple[str, bool]]) -> Table:
    has_seeds = any(len(group.runs) > 1 for group in study.groups)
    rows, colours = [], []
    for group in study.groups:
        for model, is_new in evaluated:
            name = (_name(group), *([_model_name(model, is_new)] if len(evaluated) > 1 else []))
            rows.append((*name, *_row(study, group, metric, evaluated_as(metric, model, is_new))))
            colours.append(study.colour(group))
    return Table(
        "After the last evaluation",
        ("run", *(["model"] if len(evaluated) > 1 else []), *_FIGURES),
        tuple(rows),
        tuple(colours),
        note=sentence(study.view.in_words) if has_seeds else "",
    )


def _name(group: Group) -> str:
    return group.runs[0].folder.name if len(group.runs) == 1 else group.label


def _model_name(model: str, is_new: bool) -> str:
    return f"{model}, new clients" if is_new else model


def _row(study: Study, group: Group, metric: str, name: str) -> tuple[str, ...]:
    lasts = [_last_evaluation(study, run.folder, name) for run in group.runs]
    rounds = {str(last.round) for last in lasts if last is not None}
    sizes = {f"{len(last.values):,}" for last in lasts if last is not None}
    is_loss = _is_loss(study, metric)
    by_seed = [
        _numbers(last, run, name, is_loss=is_loss)
        for last, run in zip(lasts, group.runs, strict=True)
    ]
    columns = [
        [value for value in column if value is not None] for column in zip(*by_seed, strict=True)
    ]
    band = study.view.in_tables
    return (_one_of(rounds), _one_of(sizes), *(written(column, band) for column in columns))


def _numbers(
    last: Evaluation | None, run: Run, name: str, *, is_loss: bool
) -> tuple[float | None, ...]:
    """Return the figures of a row; without a table what metrics.jsonl knows."""
    if last is not None and len(last.values):
        spread = spread_of(last.values, is_loss=is_loss)
        jain = jain_index(spread.mean, spread.variance)
        return (spread.mean, spread.variance, spread.worst, spread.best, spread.lowest, jain)
    known = {part: run.latest(key) for part, key in client_keys(name).items()}
    mean, deviation = known["mean"], known["std"]
    variance = None if deviation is None else deviation**2
    jain = None if mean is None or variance is None else jain_index(mean, variance)
    return (mean, variance, known["worst"], known["best"], None, jain)


def jain_index(mean: float, variance: float) -> float | None:
    """Return Jain's index of fairness: 1 if all clients have the same value, 1/M if one has all.

    It is (sum x)² / (M sum x²); None if all values are 0.

    Source: Jain, Chiu and Hawe, 1984, https://arxiv.org/abs/cs/9809099

    >>> jain_index(0.5, 0.0), jain_index(0.25, 3 / 16)
    (1.0, 0.25)
    """
    squares = mean**2 + variance
    return mean**2 / squares if squares > 0 else None


def _is_loss(study: Study, metric: str) -> bool:
    return smaller_is_better(f"client_{metric}", study.runs)


def _one_of(texts: set[str]) -> str:
    return " or ".join(sorted(texts)) or "—"
