"""The final value of the main metric against the values of the keys that differ between groups.

Shapes: G groups, V values of a key.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simfl.report.bands import mean_and_edges
from simfl.report.charts import Band, Chart, HeatMap, Line, Lines, colour_of
from simfl.report.comparison import differences
from simfl.report.judging import main_metric, smaller_is_better
from simfl.report.over_seeds import finals
from simfl.report.study import NO_PART, Group, Section, Study, short_keys
from simfl.report.wording import sentence, title_of

_FEWEST = 3
"""The number of groups below which there is nothing to see."""
_MAX_LINES = 8
_MAX_FIELDS = 20
"""The number of columns and rows of the largest heat map that is still legible."""
_MAX_CHARTS = 6
_LOG_RATIO = 10.0
"""Positive values that span more are on a logarithmic axis."""


@dataclass(frozen=True)
class _Key:
    """A key that differs between groups."""

    name: str
    values: tuple[str, ...]
    """[G] as text; "" where a group lacks the key."""

    @property
    def is_numeric(self) -> bool:
        """Whether each group has a number."""
        return all(math.isfinite(_number(value)) for value in self.values)

    @property
    def partition(self) -> tuple[int, ...]:
        """[G] the first group with the same value: which groups the key tells apart."""
        return tuple(self.values.index(value) for value in self.values)

    @property
    def distinct(self) -> list[str]:
        """[V] numbers by size, anything else in the order of the groups."""
        found = list(dict.fromkeys(self.values))
        return sorted(found, key=_number) if self.is_numeric else found

    @property
    def log(self) -> str:
        """``x`` if the values need a logarithmic axis."""
        numbers = [_number(value) for value in self.values]
        return "x" if min(numbers) > 0 and max(numbers) / min(numbers) > _LOG_RATIO else ""


@dataclass(frozen=True)
class _Result:
    """The final values of a group over its seeds."""

    mean: float
    low: float
    high: float


def values_section(study: Study) -> Section:
    """Draw the main metric's final value against the keys that were varied."""
    metric = main_metric(study.runs)
    results = [] if metric is None else [_result(study, finals(g, metric)) for g in study.groups]
    shown = [n for n, result in enumerate(results) if math.isfinite(result.mean)]
    if metric is None or len(shown) < _FEWEST:
        return Section("Values")
    keys = _varied([study.groups[n] for n in shown])
    is_loss = smaller_is_better(metric, study.runs)
    charts = _charts(metric, keys, [results[n] for n in shown], is_loss=is_loss)
    lead = sentence(f"final {metric}, {study.view.note}") if charts else ""
    if charts and any(run.state == "stopped" for run in study.runs):
        lead += " Runs that were stopped early count with their last value."
    return Section("Values", lead, charts=tuple(charts))


def _varied(groups: Sequence[Group]) -> list[_Key]:
    """Return the keys that were varied; labels count as one, and stand for what they imply.

    Of several keys that tell the same groups apart, such as a module's fields, the first is taken,
    unless all of them are numbers that no two groups share, as draws are.
    """
    scenarios = [group.runs[0].scenario for group in groups]
    labels = tuple(str(scenario.get("label") or "") for scenario in scenarios)
    kept = [{key: v for key, v in one.items() if key not in NO_PART} for one in scenarios]
    found = [(d.key, tuple(v or "" for v in d.values)) for d in differences(kept)]
    varied = [(key, values) for key, values in found if _varies(values, labels)]
    short = short_keys([key for key, _ in varied])
    keys = [_Key("label", labels)] if len(set(labels)) > 1 else []
    seen = {key.partition for key in keys}
    for name, values in varied:
        key = _Key(short[name], values)
        is_draw = key.is_numeric and len(set(values)) == len(groups)
        if key.partition not in seen or is_draw:
            keys.append(key)
            seen.add(key.partition)
    return keys


def _varies(values: Sequence[str], labels: Sequence[str]) -> bool:
    """Return whether a key varies among groups with the same label."""
    return len(set(zip(values, labels, strict=True))) > len(set(labels))


def _result(study: Study, values: Sequence[float]) -> _Result:
    """Return a group's result; NaN unless all of its values are finite."""
    if not values or not all(map(math.isfinite, values)):
        return _Result(math.nan, math.nan, math.nan)
    return _Result(*mean_and_edges(values, study.view.in_charts))


def _charts(
    metric: str, keys: Sequence[_Key], results: Sequence[_Result], *, is_loss: bool
) -> list[Chart]:
    """Choose the charts by how many keys there are, and whether their values are numbers."""
    numeric = [key for key in keys if key.is_numeric and len(key.distinct) > 1]
    others = [key for key in keys if not key.is_numeric]
    if len(keys) == 1 and numeric:
        return [_lines(metric, keys[0], None, results)]
    if len(keys) == 2 and len(numeric) == 1 and len(others[0].distinct) <= _MAX_LINES:
        return [_lines(metric, numeric[0], others[0], results)]
    if len(keys) == 2 and _is_grid(keys, results):
        return [_heat_map(metric, keys[0], keys[1], results, is_loss=is_loss)]
    return [_points(metric, key, results) for key in numeric[:_MAX_CHARTS]]


def _is_grid(keys: Sequence[_Key], results: Sequence[_Result]) -> bool:
    """Return whether more than half of all pairs of values have a result."""
    sizes = [len(key.distinct) for key in keys]
    return max(sizes) <= _MAX_FIELDS and 2 * len(results) > math.prod(sizes)


def _lines(metric: str, x: _Key, by: _Key | None, results: Sequence[_Result]) -> Lines:
    """Draw a line over a key's values, or one for each value of another key."""
    lines = []
    for index, label in enumerate(by.distinct if by else [metric]):
        own = [n for n in range(len(results)) if by is None or by.values[n] == label]
        own.sort(key=lambda n: _number(x.values[n]))
        low, high = (np.array([getattr(results[n], e) for n in own]) for e in ("low", "high"))
        lines.append(
            Line(
                label=label or ("others" if by and by.name == "label" else "(not there)"),
                colour=colour_of(index),
                x=np.array([_number(x.values[n]) for n in own]),
                y=np.array([results[n].mean for n in own]),
                band=Band(low, high) if np.isfinite(low).any() else None,
            )
        )
    return _against(metric, x, tuple(lines))


def _points(metric: str, x: _Key, results: Sequence[_Result]) -> Lines:
    """Draw a point for each group, where several keys were varied at once."""
    values = np.array([_number(value) for value in x.values])
    means = np.array([result.mean for result in results])
    return _against(metric, x, (Line("groups", colour_of(0), values, means, is_points=True),))


def _against(metric: str, x: _Key, lines: tuple[Line, ...]) -> Lines:
    title = title_of(metric)
    return Lines(
        title=f"{title} against {x.name}",
        x=x.name,
        y=f"{title[0].lower()}{title[1:]}",
        lines=lines,
        name=_name(metric, x.name),
        log=x.log,
        is_marked=True,
    )


def _heat_map(
    metric: str, x: _Key, y: _Key, results: Sequence[_Result], *, is_loss: bool
) -> HeatMap:
    columns, rows = x.distinct, y.distinct
    found = dict(zip(zip(x.values, y.values, strict=True), results, strict=True))
    values = np.full((len(rows), len(columns)), np.nan)
    texts = [[""] * len(columns) for _ in rows]
    for (row, y_value), (column, x_value) in itertools.product(enumerate(rows), enumerate(columns)):
        if (result := found.get((x_value, y_value))) is not None:
            values[row, column] = result.mean
            texts[row][column] = f"{result.mean:#.3g}"
            if math.isfinite(result.high):
                texts[row][column] += f"\n± {result.high - result.mean:#.2g}"
    return HeatMap(
        title=f"{title_of(metric)} against {x.name} and {y.name}",
        x=x.name,
        y=y.name,
        columns=tuple(columns),
        rows=tuple(rows),
        values=values,
        texts=tuple(map(tuple, texts)),
        name=_name(metric, f"{x.name}-and-{y.name}"),
        is_reversed=is_loss,
    )


def _name(metric: str, keys: str) -> str:
    return f"{metric}-against-{re.sub(r'[^A-Za-z0-9_.-]+', '-', keys)}"


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
