"""Small multiples: each chart for parts of the runs, which differ in one key or in two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from simfl.errors import InputError, did_you_mean
from simfl.report.charts import Bars, Chart, Facets, Histogram, Lines, colour_of, name_of
from simfl.report.comparison import flatten
from simfl.report.report import Report, make_report
from simfl.report.study import Study, make_study

_MAX_TITLES = 12
"""Of columns or rows; more are not legible."""


def make_facets(study: Study, keys: Sequence[str]) -> list[Facets]:
    """Divide the runs by the values of a key, or of two, and return each chart of all parts.

    A group's colour is the same in all parts.

    Args:
        study: the runs.
        keys: of columns, and perhaps of rows: those of resolved scenarios, as ``name``.

    Raises:
        InputError: if there are more than two keys, a key that no run has, or too many values.
    """
    if len(keys) > 2:
        raise InputError(f"--facet takes a key for columns and one for rows, not {len(keys)}")
    flat = {run.folder: flatten(run.scenario) for run in study.runs}
    columns, *more = [_values(key, list(flat.values())) for key in keys]
    rows = more[0] if more else [""]
    parts = [
        [_part(study, flat, dict(zip(keys, (column, row), strict=False))) for column in columns]
        for row in rows
    ]
    colours = _colours([part for row in parts for part in row if part is not None])
    names = dict.fromkeys(
        name_of(chart) for row in parts for part in row if part for chart in part.charts
    )
    titles = [_titles(*of) for of in zip(keys, (columns, rows), strict=False)]
    return [
        Facets(
            name=name,
            columns=titles[0],
            rows=titles[1] if more else ("",),
            charts=tuple(tuple(_chart(part, name, colours) for part in row) for row in parts),
        )
        for name in names
    ]


def _values(key: str, scenarios: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the values of a key: numbers by size, anything else in the order of the runs."""
    found = list(dict.fromkeys(one[key] for one in scenarios if key in one))
    if not found:
        known = {known for one in scenarios for known in one}
        raise InputError(f"--facet {key}: no run has this key. {did_you_mean(key, known)}")
    if len(found) > _MAX_TITLES:
        raise InputError(f"--facet {key}: has {len(found)} values; {_MAX_TITLES} are legible")
    try:
        return sorted(found, key=float)
    except ValueError:
        return found


def _titles(key: str, values: Sequence[str]) -> tuple[str, ...]:
    if key in ("name", "label"):
        return tuple(values)
    return tuple(f"{key.rpartition('.')[2]} = {value}" for value in values)


def _part(
    study: Study, flat: Mapping[Path, Mapping[str, str]], values: Mapping[str, str]
) -> Report | None:
    """Return the report of the runs with these values; None without any."""
    runs = [run for run in study.runs if values.items() <= flat[run.folder].items()]
    if not runs:
        return None
    target = None if study.is_target_chosen else study.target
    return make_report(make_study(runs, target=target, view=study.view), with_data=False)


def _colours(parts: Sequence[Report]) -> dict[str, str]:
    """Return the colour of each group's label; none if no two groups share a chart."""
    groups = [[group.label for group in part.study.groups] for part in parts]
    labels = dict.fromkeys(label for part in groups for label in part)
    is_shared = any(len(part) > 1 for part in groups)
    return {label: colour_of(index) for index, label in enumerate(labels)} if is_shared else {}


def _chart(part: Report | None, name: str, colours: Mapping[str, str]) -> Chart | None:
    charts = part.charts if part is not None else []
    chart = next((chart for chart in charts if name_of(chart) == name), None)
    if isinstance(chart, Lines):
        own = (replace(one, colour=colours.get(one.entry, one.colour)) for one in chart.lines)
        return replace(chart, lines=tuple(own))
    if isinstance(chart, Bars | Histogram):
        stacks = (replace(one, colour=colours.get(one.label, one.colour)) for one in chart.stacks)
        return replace(chart, stacks=tuple(stacks))
    return chart
