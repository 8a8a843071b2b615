"""How often clients took part."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simfl.report.charts import INK, Histogram, Stack, Table
from simfl.report.client_tables import ClientHistory
from simfl.report.curves import Floats
from simfl.report.reading import Run
from simfl.report.study import Group, Section, Study
from simfl.report.wording import quantity

_MAX_BINS = 40


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
