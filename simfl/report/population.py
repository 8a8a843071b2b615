"""What clients hold: the data set is made again from the resolved scenario.

Shapes: C clients, S clients shown, K classes shown.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from simfl.report.charts import RUN_COLOURS, Bars, Histogram, Stack
from simfl.report.reading import SCENARIO_FILE, Run
from simfl.report.study import Section, Study

if TYPE_CHECKING:
    from simfl.data import FederatedDataset
    from simfl.scenario import Trust

_TITLE = "Population"
_MAX_SHOWN = 3


def population_section(study: Study, *, with_data: bool, trust: Trust = "all") -> Section:
    """Draw label shares and sizes of clients, once for each way in which data were split.

    Args:
        study: the runs.
        with_data: whether the data may be loaded.
        trust: whether code that the scenario names may run for that.
    """
    if not with_data:
        return Section(_TITLE, notes=("left out, since data were not to be loaded (--no-data)",))
    by_data: dict[str, Run] = {}
    for run in study.runs:
        if run.scenario:
            by_data.setdefault(_split_of(run), run)
    charts, notes = [], []
    for run in list(by_data.values())[:_MAX_SHOWN]:
        suffix = f" of {run.folder.name}" if len(by_data) > 1 else ""
        try:
            charts += _charts(run.folder / SCENARIO_FILE, suffix, trust)
        # Data that are gone, and code of the user's that fails: the report goes on without.
        except Exception as error:
            reason = (str(error) or type(error).__name__).partition("\n")[0]
            notes.append(f"the data{suffix} cannot be loaded, so they are left out: {reason}")
    if len(by_data) > _MAX_SHOWN:
        notes.append(f"{len(by_data) - _MAX_SHOWN} more data sets are left out")
    if any(len(group.runs) > 1 for group in study.groups) and charts:
        notes.append("data are split by the seed: this is one seed's split")
    return Section(_TITLE, charts=tuple(charts), notes=tuple(notes))


def _split_of(run: Run) -> str:
    """Return what says which client holds which examples, except for the seed."""
    data = run.scenario.get("data")
    if isinstance(data, dict):
        data = {key: value for key, value in data.items() if key != "holdout_fraction"}
    return json.dumps(data, sort_keys=True, default=str)


def _charts(scenario_file: Path, suffix: str, trust: Trust) -> list[Bars | Histogram]:
    from simfl.data.skew_plot import is_wide, label_shares, size_bins
    from simfl.scenario import load_scenario

    scenario = load_scenario(scenario_file, trust=trust)
    dataset = scenario.build_dataset()
    sizes_C = np.diff(dataset.offsets)
    edges = size_bins(sizes_C)
    counts = np.histogram(sizes_C, bins=edges)[0].astype(float)
    sizes = Histogram(
        title=f"Examples per client{suffix}",
        x="examples",
        y="clients",
        edges=edges,
        stacks=(Stack("clients", RUN_COLOURS[0], tuple(counts.tolist())),),
        marks=(("median", float(np.median(sizes_C))),),
        is_log=is_wide(sizes_C),
        note=f"{len(sizes_C):,} client{'s' if len(sizes_C) != 1 else ''}, "
        f"{sizes_C.sum():,} example{'s' if sizes_C.sum() != 1 else ''}.",
    )
    labels = label_shares(dataset)
    if labels is None:
        return [sizes]
    shares_SK = labels.counts / labels.counts.sum(axis=1, keepdims=True)
    skew = Bars(
        title=f"Labels of each client{suffix}",
        x="client",
        y="share of its examples",
        names=tuple(f"{client}" for client in labels.clients),
        stacks=tuple(
            Stack(name, _hex(colour), tuple(shares_SK[:, k].tolist()))
            for k, (name, colour) in enumerate(zip(labels.names, labels.colours, strict=True))
        ),
        is_percent=True,
        note=_note(dataset, shown=len(labels.clients)),
    )
    return [skew, sizes]


def _note(dataset: FederatedDataset, *, shown: int) -> str:
    """Say in numbers how labels are skewed, over all clients."""
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
        notes.append(f"Drawn are {shown} of {population:,} clients, evenly spaced by id.")
    return " ".join(notes)


def _hex(colour: object) -> str:
    from matplotlib.colors import to_hex

    return to_hex(colour)  # type: ignore[arg-type]
