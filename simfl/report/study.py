"""Study: the runs of a report, in groups, with all that was read of them."""

from __future__ import annotations

import itertools
import json
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from simfl.report.bands import DEFAULT_VIEW, View
from simfl.report.charts import Chart, Table, colour_of
from simfl.report.client_tables import (
    ClientHistory,
    Evaluation,
    read_client_history,
    read_evaluations,
)
from simfl.report.comparison import Difference, differences
from simfl.report.reading import Run
from simfl.report.targets import Target, default_target


@dataclass(frozen=True)
class Section:
    """A part of the report; empty ones are omitted."""

    title: str
    lead: str = ""
    """A sentence on how to read it."""
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    """What is missing, and why."""
    texts: tuple[tuple[str, str], ...] = ()
    """Longer texts that are shown on request: title and text."""

    @property
    def is_empty(self) -> bool:
        """Whether it has no content."""
        return not (self.lead or self.charts or self.tables or self.notes or self.texts)


@dataclass(frozen=True)
class Study:
    """The runs of a report, grouped, with their tables of clients."""

    groups: tuple[Group, ...]
    target: Target | None
    is_target_chosen: bool
    """Whether the target is a default, not the user's."""
    histories: Mapping[Path, ClientHistory]
    """By run folder, if its table could be read."""
    evaluations: Mapping[Path, Mapping[str, Sequence[Evaluation]]]
    """By run folder, then by metric."""
    faults: tuple[tuple[str, str], ...]
    """What is missing or damaged: folder and message."""
    view: View = DEFAULT_VIEW
    """How numbers over seeds are shown."""

    @property
    def runs(self) -> list[Run]:
        """All runs, group by group."""
        return [run for group in self.groups for run in group.members]

    @property
    def is_single(self) -> bool:
        """Whether there is a single run."""
        return len(self.runs) == 1

    def colour(self, group: Group) -> str:
        """Return a group's colour, the same in all charts."""
        return colour_of(self.groups.index(group))

    def histories_of(self, group: Group) -> list[ClientHistory]:
        """Return the client tables of the group's runs, one per seed."""
        found = [self.histories.get(run.folder) for run in group.runs]
        return [history for history in found if history is not None]


def make_study(
    runs: Sequence[Run],
    *,
    target: Target | None,
    view: View = DEFAULT_VIEW,
) -> Study:
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
        view=view,
    )


NO_PART = ("seed", "name", "label", "search", "checkpoint", "output")
"""Sections that have no part in what a run's numbers and times are, and the seed."""
_LABEL_WIDTH = 60
_VALUE_WIDTH = 24
_SEED_AT_END = re.compile(r"[-_. ]*(seed|s)?[-_. =]*\d*$", re.IGNORECASE)


@dataclass(frozen=True)
class Group:
    """Runs of one scenario."""

    label: str
    runs: tuple[Run, ...]
    """One for each seed, by seed."""
    repeats: tuple[Run, ...] = ()
    """Runs that repeat a seed of the group, and so its numbers."""

    @property
    def members(self) -> tuple[Run, ...]:
        """All runs of the group."""
        return (*self.runs, *self.repeats)


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Group runs, in the order in which they are given."""
    by_key: dict[str, list[Run]] = {}
    for run in runs:
        by_key.setdefault(_key(run), []).append(run)
    members = list(by_key.values())
    labels = _labels(members)
    return [_group(label, found) for label, found in zip(labels, members, strict=True)]


def _key(run: Run) -> str:
    if not run.scenario:
        return f"no scenario: {run.folder}"
    kept = {key: value for key, value in run.scenario.items() if key not in NO_PART}
    return json.dumps(kept, sort_keys=True, default=str)


def _group(label: str, members: Sequence[Run]) -> Group:
    by_seed: dict[int | None, Run] = {}
    for run in members:
        by_seed.setdefault(run.seed, run)
    firsts = sorted(by_seed.values(), key=lambda run: -1 if run.seed is None else run.seed)
    repeats = [run for run in members if run not in firsts]
    return Group(label, tuple(firsts), tuple(repeats))


def count_of_groups(groups: Sequence[Group]) -> str:
    """Return the number of groups, and of seeds in each.

    Empty if each run is a separate group.
    """
    sizes = sorted({len(group.runs) for group in groups})
    if sizes[-1] == 1:
        return ""
    seeds = f"{sizes[0]} seeds" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]} seeds"
    return f"1 group of {seeds}" if len(groups) == 1 else f"{len(groups)} groups of {seeds}"


def _labels(groups: Sequence[Sequence[Run]]) -> list[str]:
    """Name groups by their labels, or by what differs; never by the name of a single run."""
    names = [_alike(members, "name") for members in groups]
    by_keys = _labels_by_keys(groups)
    if all(names) and len(set(names)) == len(groups):
        by_keys = [str(name) for name in names]
    found = [
        _alike(members, "label") or label or _common_name(members)
        for members, label in zip(groups, by_keys, strict=True)
    ]
    return _told_apart(_with_keys(found, groups))


def _with_keys(labels: Sequence[str], groups: Sequence[Sequence[Run]]) -> list[str]:
    """Add the differences between groups with the same label."""
    found = list(labels)
    for label in set(labels):
        alike = [n for n, own in enumerate(labels) if own == _alike(groups[n], "label") == label]
        if len(alike) > 1:
            keys = _labels_by_keys([groups[n] for n in alike])
            for n, key in zip(alike, keys, strict=True):
                found[n] = f"{label} ({key})" if key else label
    return found


def _alike(members: Sequence[Run], key: str) -> str | None:
    """Return a text from the scenario, if it is the same in all runs of a group."""
    found = {run.scenario.get(key) for run in members if isinstance(run.scenario.get(key), str)}
    return found.pop() or None if len(found) == 1 else None


def _told_apart(labels: Sequence[str]) -> list[str]:
    """Add numbers to labels that are equal, or become equal when shortened."""
    different: list[str] = []
    for label in labels:
        short = label if len(label) <= _LABEL_WIDTH else f"{label[: _LABEL_WIDTH - 1]}…"
        numbered = (f"{short} ({number})" for number in itertools.count(2))
        different.append(next(n for n in itertools.chain([short], numbered) if n not in different))
    return different


def _common_name(members: Sequence[Run]) -> str:
    """Return ``fedavg`` for the folders ``fedavg-seed-0`` and ``fedavg-seed-1``: whole words."""
    names = [run.folder.name for run in members]
    if len(names) == 1:
        return names[0]
    alike = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    common = "".join(letters[0] for letters in alike)
    is_cut = any(name[len(common) :][:1].isalpha() for name in names) and common[-1:].isalpha()
    whole = common.rstrip(string.ascii_letters) if is_cut else common
    return _SEED_AT_END.sub("", whole) or names[0]


def _labels_by_keys(groups: Sequence[Sequence[Run]]) -> list[str]:
    """Name groups by the fewest keys that distinguish them; empty without any."""
    kept = [
        {key: value for key, value in members[0].scenario.items() if key not in NO_PART}
        for members in groups
    ]
    found = differences(kept)
    chosen = _telling(found, len(groups))
    short = short_keys([difference.key for difference in chosen])

    def label(index: int) -> str:
        parts = [
            f"{short[difference.key]}={_shortened(value)}"
            for difference in chosen
            if (value := difference.values[index]) is not None
        ]
        # A group that has none of these keys is named by its first difference.
        rest = (d for d in found if d.values[index] is not None)
        parts = parts or [f"{_last(d.key)}={_shortened(str(d.values[index]))}" for d in rest][:1]
        return ", ".join(parts)

    return [label(index) for index in range(len(groups))]


def _telling(found: Sequence[Difference], num_groups: int) -> list[Difference]:
    """Choose the differences that distinguish most groups, one by one, until all are distinct."""
    chosen: list[Difference] = []

    def count(differences: Sequence[Difference]) -> int:
        columns = [difference.values for difference in differences]
        return len(set(zip(*columns, strict=True))) if columns else min(1, num_groups)

    while count(chosen) < num_groups:
        best = max(found, key=lambda one: count([*chosen, one]), default=None)
        if best is None or count([*chosen, best]) == count(chosen):
            break
        chosen.append(best)
    return sorted(chosen, key=found.index)


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Return the last part of each key, or the whole key if another has the same last part."""
    last = [_last(key) for key in keys]
    return {
        key: part if last.count(part) == 1 else key for key, part in zip(keys, last, strict=True)
    }


def _last(key: str) -> str:
    """Return the last part of a key, or the one before where the last is ``kind``."""
    *before, last = key.split(".")
    return before[-1] if last == "kind" and before else last


def _shortened(value: str) -> str:
    return value if len(value) <= _VALUE_WIDTH else f"{value[: _VALUE_WIDTH - 1]}…"
