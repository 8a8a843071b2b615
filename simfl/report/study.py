"""Study: the runs of a report, in groups, with all that was read of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from simfl.report.charts import Chart, Table, colour_of
from simfl.report.client_tables import (
    ClientHistory,
    Evaluation,
    read_client_history,
    read_evaluations,
)
from simfl.report.groups import Group, group_runs
from simfl.report.reading import Run
from simfl.report.targets import Target, default_target


@dataclass(frozen=True)
class Section:
    """A part of the report; one that has nothing to say is left out."""

    title: str
    lead: str = ""
    """A sentence on how to read it."""
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    """What is not there, and why."""
    texts: tuple[tuple[str, str], ...] = ()
    """Longer texts that are shown on request: title and text."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.lead or self.charts or self.tables or self.notes or self.texts)


@dataclass(frozen=True)
class Study:
    """What a report is about."""

    groups: tuple[Group, ...]
    target: Target | None
    is_target_chosen: bool
    """Whether nobody has asked for this target."""
    histories: Mapping[Path, ClientHistory]
    """Of each run's folder whose table could be read."""
    evaluations: Mapping[Path, Mapping[str, Sequence[Evaluation]]]
    """Of each run's folder, by metric."""
    faults: tuple[tuple[str, str], ...]
    """What is missing or damaged: the folder, and a line."""

    @property
    def runs(self) -> list[Run]:
        """All runs, group by group."""
        return [run for group in self.groups for run in group.members]

    @property
    def is_single(self) -> bool:
        """Whether there is one run only."""
        return len(self.runs) == 1

    def colour(self, group: Group) -> str:
        """Return the colour that a group has everywhere."""
        return colour_of(self.groups.index(group))

    def histories_of(self, group: Group) -> list[ClientHistory]:
        """Return what the tables of the group's runs say, a run a seed."""
        found = [self.histories.get(run.folder) for run in group.runs]
        return [history for history in found if history is not None]


def make_study(runs: Sequence[Run], *, target: Target | None) -> Study:
    """Group the runs, and read their tables of clients."""
    faults = [(run.folder.name, fault) for run in runs for fault in run.faults]
    histories, evaluations = {}, {}
    for run in runs:
        found: list[str] = []
        history = read_client_history(run.folder, found)
        if history is not None:
            histories[run.folder] = history
        evaluations[run.folder] = read_evaluations(run.folder, found)
        faults += [(run.folder.name, fault) for fault in found]
    return Study(
        groups=tuple(group_runs(runs)),
        target=target or default_target(runs),
        is_target_chosen=target is None,
        histories=histories,
        evaluations=evaluations,
        faults=tuple(faults),
    )
