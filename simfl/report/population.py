"""What clients hold, from the data set rebuilt from the scenario, and how often they took part.

Shapes: C clients, S clients shown, K classes shown.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from simfl.record import SCENARIO_FILE
from simfl.report.charts import INK, RUN_COLOURS, Bars, Histogram, Stack, Table
from simfl.report.client_tables import ClientHistory
from simfl.report.curves import Floats
from simfl.report.reading import Run
from simfl.report.study import Group, Section, Study
from simfl.report.wording import quantity

if TYPE_CHECKING:
    from simfl.data import FederatedDataset
    from simfl.scenario import Trust


_TITLE = "Population"
_MAX_SHOWN = 3


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
            charts += _charts(run.folder / SCENARIO_FILE, suffix, trust)
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


def _hex(colour: object) -> str:
    from matplotlib.colors import to_hex

    return to_hex(colour)  # type: ignore[arg-type]


_MAX_BINS = 40
_MAX_BARS = 60


def participation_section(study: Study) -> Section:
    """Show how often clients took part."""
    shown = [
        (group, _times(group.runs[0], histories[0]))
        for group in study.groups
        if (histories := study.histories_of(group))
    ]
    if not shown:
        return Section("Participation", notes=("no table of clients: participation is unknown",))
    highest = int(max(times.max() for _, times in shown))
    lowest = int(min(times.min() for _, times in shown))
    step = max(1, -(-(highest - lowest + 1) // _MAX_BINS))
    edges = np.arange(lowest, highest + step + 1, step, dtype=np.float64) - 0.5
    stacks = [
        Stack(group.label, study.colour(group), _counts(times, edges)) for group, times in shown
    ]
    # The same seed draws the same cohorts, independent of what is trained.
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
        note=_note_on_cohorts(study, is_same=is_same),
    )
    return Section("Participation", charts=(chart,), tables=(_participation_table(study, shown),))


def _note_on_cohorts(study: Study, *, is_same: bool) -> str:
    notes = []
    if len(study.runs) > len(study.groups):
        notes.append("The first seed of each group.")
    if is_same:
        notes.append("It is the same for all groups: cohorts follow from the seed.")
    return " ".join(notes)


def population_of(run: Run) -> int | None:
    """Return the number of clients, if the scenario or the summary states it."""
    data = run.scenario.get("data")
    partition = data.get("partition") if isinstance(data, dict) else None
    for place in (run.summary, partition, data):
        for key in ("population", "clients"):
            value = place.get(key) if isinstance(place, dict) else None
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return None


def _times(run: Run, history: ClientHistory) -> Floats:
    """Return how often each client of the population took part."""
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
