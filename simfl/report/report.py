"""From runs to a report, independent of its file format."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from simfl.report.charts import Chart, Entry, Lines, Table
from simfl.report.fairness import fairness_section
from simfl.report.judging import best, main_metric, metric_keys
from simfl.report.learning import learning_section
from simfl.report.participation import participation_section, population_of
from simfl.report.population import population_section
from simfl.report.provenance import differences_section, failures_section, provenance_section
from simfl.report.reading import Run, total
from simfl.report.study import Group, Section, Study, count_of_groups
from simfl.report.timing import timing_section
from simfl.report.values import values_section
from simfl.report.wording import duration, number, quantity

if TYPE_CHECKING:
    from simfl.scenario import Trust


@dataclass(frozen=True)
class Report:
    """The content of a report, independent of its file format."""

    title: str
    subtitle: str
    tiles: tuple[Tile, ...]
    runs: Table
    sections: tuple[Section, ...]
    study: Study

    @property
    def charts(self) -> list[Chart]:
        """All charts, in order."""
        return [chart for section in self.sections for chart in section.charts]

    @property
    def key(self) -> tuple[Entry, ...]:
        """The legend of the groups, which have one colour everywhere; none for a single one."""
        study = self.study
        entries = tuple(Entry(group.label, study.colour(group)) for group in study.groups)
        return entries if len(entries) > 1 else ()


def make_report(study: Study, *, with_data: bool, trust: Trust = "all") -> Report:
    """Put a report together.

    Args:
        study: the runs.
        with_data: whether data may be loaded to show what clients hold.
        trust: whether code named by the scenarios may run for that.
    """
    sections = (
        learning_section(study),
        values_section(study),
        differences_section(study),
        fairness_section(study),
        participation_section(study),
        population_section(study, with_data=with_data, trust=trust),
        timing_section(study),
        failures_section(study),
        provenance_section(study),
    )
    runs = study.runs
    # A run without a name is named after its group, not like its folder, which contains the seed.
    names = list(
        dict.fromkeys(
            group.label if run.name == run.folder.name else run.name
            for group in study.groups
            for run in group.runs
        )
    )
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return Report(
        title=shown,
        subtitle=str(runs[0].folder) if study.is_single else _subtitle(study),
        tiles=tuple(tiles(study)),
        runs=runs_table(study),
        sections=tuple(
            _with_axes(section, study.view.log) for section in sections if not section.is_empty
        ),
        study=study,
    )


def _with_axes(section: Section, log: str) -> Section:
    """Return a section whose curves have these logarithmic axes, too."""
    charts = tuple(
        replace(chart, log="".join(axis for axis in "xy" if axis in log + chart.log))
        if isinstance(chart, Lines)
        else chart
        for chart in section.charts
    )
    return replace(section, charts=charts)


def _subtitle(study: Study) -> str:
    labels = [group.label for group in study.groups]
    shown = ", ".join(labels[:5]) + (f" and {len(labels) - 5} more" if len(labels) > 5 else "")
    of_seeds = count_of_groups(study.groups)
    return f"{len(study.runs)} runs{f', {of_seeds}' if of_seeds else ''}: {shown}"


@dataclass(frozen=True)
class Tile:
    """One figure of the summary strip."""

    label: str
    value: str
    detail: str = ""
    tone: str = ""
    """The run's state, if the tile shows it."""


def tiles(study: Study) -> list[Tile]:
    """Return the strip of the run, or of all runs together."""
    return _tiles_of_run(study) if study.is_single else _tiles_of_runs(study)


def runs_table(study: Study) -> Table:
    """Return a row for each run."""
    keys = [key for key in metric_keys(study.runs) if key != "delta_norm"][:5]
    rows, colours = [], []
    for group in study.groups:
        for run in group.members:
            colours.append(study.colour(group))
            rows.append(
                (
                    run.folder.name,
                    *([group.label] if len(study.groups) < len(study.runs) else []),
                    "—" if run.seed is None else str(run.seed),
                    run.state,
                    run.progress,
                    *(number(run.latest(key)) for key in keys),
                    duration(run.seconds),
                )
            )
    grouped = ["group"] if len(study.groups) < len(study.runs) else []
    header = ("run", *grouped, "seed", "state", "round", *keys, "time")
    repeats = [run.folder.name for group in study.groups for run in group.repeats]
    note = (
        f"They repeat the seed of another run, and are excluded from means: {', '.join(repeats)}."
    )
    return Table("Runs", header, tuple(rows), tuple(colours), note=note if repeats else "")


def _tiles_of_run(study: Study) -> list[Tile]:
    (run,) = study.runs
    metric = main_metric([run])
    shown = [
        Tile("state", run.state, tone=run.state),
        Tile("rounds", quantity(run.rounds), f"of {run.planned_rounds or '?'}"),
    ]
    if metric is not None:
        shown.append(_metric_tile(run, metric))
    return [
        *shown,
        Tile("time", duration(run.seconds), _pace(run)),
        _clients_tile(run),
        Tile("seed", "—" if run.seed is None else str(run.seed)),
    ]


def _metric_tile(run: Run, metric: str) -> Tile:
    """Show the final value, and the best value of all rounds."""
    values = {int(r["round"]): r[metric] for r in run.records if metric in r}
    top = best(metric, values.values(), [run])
    round = next((round for round, value in values.items() if value == top), None)
    is_last = round is None or values[round] == run.latest(metric)
    detail = "final and best" if is_last else f"final; best {number(top)} in round {round}"
    return Tile(metric.replace("_", " "), number(run.latest(metric)), detail)


def _mean_final(group: Group, metric: str) -> float:
    """Return the mean over seeds; NaN unless each has a value."""
    finals = [run.latest(metric) for run in group.runs]
    return total(math.nan if v is None else v for v in finals) / len(finals)


def _pace(run: Run) -> str:
    if not run.seconds or not run.rounds:
        return ""
    slow = run.seconds > run.rounds
    return (
        f"{run.seconds / run.rounds:.1f} s/round"
        if slow
        else f"{run.rounds / run.seconds:.1f} rounds/s"
    )


def _clients_tile(run: Run) -> Tile:
    client = run.scenario.get("client")
    cohort = client.get("per_round") if isinstance(client, dict) else None
    population = population_of(run)
    shown: float | None = cohort if isinstance(cohort, int) else population
    if run.records and (shown is None or isinstance(cohort, float)):
        shown = (run.latest("clients") or 0) + (run.latest("dropped") or 0)
    detail = f"of {population:,}" if population else ""
    return Tile("clients a round", quantity(shown), detail)


def _tiles_of_runs(study: Study) -> list[Tile]:
    runs = study.runs
    metric = main_metric(runs)
    done = sum(run.state == "done" for run in runs)
    shown = [
        Tile("runs", str(len(runs)), count_of_groups(study.groups)),
        Tile(
            "done", str(done), f"{len(runs) - done} not", tone="done" if done == len(runs) else ""
        ),
    ]
    if metric is not None:
        finals = {group.label: _mean_final(group, metric) for group in study.groups}
        top = best(metric, finals.values(), runs)
        whose = next((name for name, value in finals.items() if value == top), "")
        over_seeds = ", mean over seeds" if any(len(g.runs) > 1 for g in study.groups) else ""
        label = f"best final {metric.replace('_', ' ')}"
        shown.append(Tile(label, number(top), f"{whose}{over_seeds}"))
    total = sum(run.seconds or 0 for run in runs)
    return [*shown, Tile("time", duration(total), "all runs together")]
