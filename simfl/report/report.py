"""From runs to a report, whatever it is written as."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from simfl.report.charts import Chart, Entry, Table
from simfl.report.fairness import fairness_section
from simfl.report.groups import count_of_groups
from simfl.report.learning import learning_section
from simfl.report.overview import Tile, runs_table, tiles
from simfl.report.participation import failures_section, participation_section
from simfl.report.population import population_section
from simfl.report.provenance import differences_section, provenance_section
from simfl.report.study import Section, Study
from simfl.report.timing import timing_section

if TYPE_CHECKING:
    from simfl.scenario import Trust


@dataclass(frozen=True)
class Report:
    """All that a report says, whatever it is written as."""

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
        trust: whether code that the scenarios name may run for that.
    """
    sections = (
        learning_section(study),
        differences_section(study),
        fairness_section(study),
        participation_section(study),
        population_section(study, with_data=with_data, trust=trust),
        timing_section(study),
        failures_section(study),
        provenance_section(study),
    )
    runs = study.runs
    # A run without a name is called like its group, not like its folder, which contains the seed.
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
        sections=tuple(section for section in sections if not section.is_empty),
        study=study,
    )


def _subtitle(study: Study) -> str:
    labels = [group.label for group in study.groups]
    shown = ", ".join(labels[:5]) + (f" and {len(labels) - 5} more" if len(labels) > 5 else "")
    of_seeds = count_of_groups(study.groups)
    return f"{len(study.runs)} runs{f', {of_seeds}' if of_seeds else ''}: {shown}"
