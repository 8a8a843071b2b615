"""What clients hold, from the data set rebuilt from the scenario.

Shapes: C clients, S clients shown, K classes shown.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from simfl.record import SCENARIO_FILE
from simfl.report.charts import RUN_COLOURS, Bars, Histogram, Stack
from simfl.report.curves import Floats
from simfl.report.draw_matplotlib import draw_overview
from simfl.report.reading import Run
from simfl.report.study import Section, Study

if TYPE_CHECKING:
    from simfl.data import FederatedDataset
    from simfl.scenario import Trust


_TITLE = "Population"
_MAX_SHOWN = 3
_MAX_CLIENTS: Final = 30
_MAX_CLASSES: Final = 20
_MAX_BINS: Final = 30
_WIDE: Final = 10
"""The ratio of the largest to the smallest client from which the axis is logarithmic."""
_TEN: Final = (  # Tableau 10
    *("#4e79a7", "#f28e2b", "#e15759", "#76b7b2", "#59a14f"),
    *("#edc948", "#b07aa1", "#ff9da7", "#9c755f", "#bab0ac"),
)
_TWENTY: Final = (  # matplotlib's tab20
    *("#1f77b4", "#aec7e8", "#ff7f0e", "#ffbb78", "#2ca02c", "#98df8a", "#d62728", "#ff9896"),
    *("#9467bd", "#c5b0d5", "#8c564b", "#c49c94", "#e377c2", "#f7b6d2", "#7f7f7f", "#c7c7c7"),
    *("#bcbd22", "#dbdb8d", "#17becf", "#9edae5"),
)
_OTHERS: Final = "#e8e8e8"


def population_section(study: Study, *, with_data: bool, trust: Trust = "all") -> Section:
    """Draw label distributions and sizes of clients, once for each way the data were split.

    Args:
        study: the runs.
        with_data: whether the data may be loaded.
        trust: whether code named by the scenario may run for that.
    """
    if not with_data:
        return Section(_TITLE, notes=("omitted, since data were not loaded (--no-data)",))
    by_data: dict[str, Run] = {}
    for run in study.runs:
        if run.scenario:
            by_data.setdefault(_split_of(run), run)
    charts, notes = [], []
    for run in list(by_data.values())[:_MAX_SHOWN]:
        suffix = f" of {run.folder.name}" if len(by_data) > 1 else ""
        try:
            charts += population_charts(_dataset(run, trust), suffix)
        # Missing data, or failing code of the user's: the report continues without this section.
        except Exception as error:
            reason = (str(error) or type(error).__name__).partition("\n")[0]
            notes.append(f"the data{suffix} cannot be loaded, and are omitted: {reason}")
    if len(by_data) > _MAX_SHOWN:
        notes.append(f"{len(by_data) - _MAX_SHOWN} more data sets are omitted")
    if any(len(group.runs) > 1 for group in study.groups) and charts:
        notes.append("data are split by the seed: this is one seed's split")
    return Section(_TITLE, charts=tuple(charts), notes=tuple(notes))


def _split_of(run: Run) -> str:
    """Return the configuration that determines the split, except for the seed."""
    data = run.scenario.get("data")
    if isinstance(data, dict):
        data = {key: value for key, value in data.items() if key != "holdout_fraction"}
    return json.dumps(data, sort_keys=True, default=str)


def draw_population(dataset: FederatedDataset, path: Path) -> None:
    """Draw the labels of up to 30 clients and the sizes of all, as a PNG.

    If targets are not class ids, only the sizes are drawn.

    Args:
        dataset: what to draw.
        path: the file to write.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    charts = population_charts(dataset)
    notes = " ".join(dict.fromkeys(chart.note for chart in charts))
    draw_overview(charts, path, title=notes)


def population_charts(dataset: FederatedDataset, suffix: str = "") -> list[Bars | Histogram]:
    """Return charts of the labels of up to 30 clients, and of the sizes of all.

    Args:
        dataset: what to draw.
        suffix: ends the titles.
    """
    sizes_C = np.diff(dataset.offsets)
    edges = _size_bins(sizes_C)
    counts = np.histogram(sizes_C, bins=edges)[0].astype(float)
    sizes = Histogram(
        title=f"Examples per client{suffix}",
        x="examples",
        y="clients",
        edges=edges,
        stacks=(Stack("clients", RUN_COLOURS[0], tuple(counts.tolist())),),
        marks=(("median", float(np.median(sizes_C))),),
        is_log=_is_wide(sizes_C),
        note=f"{len(sizes_C):,} client{'s' if len(sizes_C) != 1 else ''}, "
        f"{sizes_C.sum():,} example{'s' if sizes_C.sum() != 1 else ''}.",
    )
    labels = _label_fractions(dataset, suffix)
    return [sizes] if labels is None else [labels, sizes]


def _label_fractions(dataset: FederatedDataset, suffix: str) -> Bars | None:
    """Draw evenly spaced clients and the most frequent classes; None without class ids."""
    from simfl.data import label_counts
    from simfl.data.describe import class_ids

    ids = class_ids(dataset)
    if ids is None:
        return None
    last = dataset.num_clients - 1
    shown = np.linspace(0, last, min(dataset.num_clients, _MAX_CLIENTS)).round().astype(int)
    shown = np.unique(shown).tolist()
    names = [dataset.class_names[i] if 0 <= i < len(dataset.class_names) else str(i) for i in ids]
    counts_SK, names = _merge_rare(label_counts(dataset, shown), names)
    fractions_SK = counts_SK / counts_SK.sum(axis=1, keepdims=True)
    return Bars(
        title=f"Labels of each client{suffix}",
        x="client",
        y="fraction of its examples",
        names=tuple(map(str, shown)),
        stacks=tuple(
            Stack(name, _class_colour(k, names), tuple(fractions_SK[:, k].tolist()))
            for k, name in enumerate(names)
        ),
        is_percent=True,
        note=_note(dataset, shown=len(shown)),
    )


def _class_colour(k: int, names: Sequence[str]) -> str:
    if names[k].endswith(" others"):
        return _OTHERS
    return (_TEN if len(names) <= len(_TEN) else _TWENTY)[k]


def _dataset(run: Run, trust: Trust) -> FederatedDataset:
    from simfl.scenario import load_scenario

    return load_scenario(run.folder / SCENARIO_FILE, trust=trust).build_dataset()


def _note(dataset: FederatedDataset, *, shown: int) -> str:
    """Summarize the label skew over all clients."""
    from simfl.data import summarize

    summary = summarize(dataset)
    labels, population = summary.labels, summary.num_clients
    notes = []
    if labels is not None:
        notes.append(
            f"A client holds {labels.mean_per_client:.1f} of {labels.num_classes} labels on "
            f"average; their entropy is {labels.mean_entropy:.2f} bits, and that of all clients' "
            f"labels together {labels.overall_entropy:.2f}."
        )
    if shown < population:
        notes.append(f"Shown are {shown} of {population:,} clients, evenly spaced by id.")
    return " ".join(notes)


def _merge_rare(counts_SK: Floats, names: list[str]) -> tuple[Floats, list[str]]:
    if len(names) <= _MAX_CLASSES:
        return counts_SK, names
    by_frequency = np.argsort(-counts_SK.sum(axis=0), kind="stable")
    kept = np.sort(by_frequency[: _MAX_CLASSES - 1])
    rest = np.sort(by_frequency[_MAX_CLASSES - 1 :])
    merged = np.column_stack([counts_SK[:, kept], counts_SK[:, rest].sum(axis=1)])
    return merged, [names[k] for k in kept] + [f"{len(rest)} others"]


def _is_wide(sizes_C: Floats) -> bool:
    """Return whether the range of sizes calls for a logarithmic axis."""
    return bool(sizes_C.max() > _MAX_BINS and sizes_C.max() / sizes_C.min() > _WIDE)


def _size_bins(sizes_C: Floats) -> Floats:
    """Return the edges of bins for counts, evenly spaced or, for a wide range, logarithmic."""
    low, high = int(sizes_C.min()), int(sizes_C.max())
    num_bins = min(_MAX_BINS, 8 + int(np.sqrt(len(sizes_C))))
    if _is_wide(sizes_C):
        return np.unique(np.geomspace(low, high + 1, num_bins + 1).round()) - 0.5
    step = -(-(high - low + 1) // num_bins)
    return np.arange(low, high + step + 1, step, dtype=np.float64) - 0.5
