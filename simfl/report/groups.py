"""Runs that differ in their seed only are one group: one curve, one colour."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from simfl.report.differences import differences
from simfl.report.reading import Run

__all__ = ["Group", "group_runs"]

_NO_PART = ("seed", "name", "search", "checkpoint", "output")
"""Sections that have no part in what a run's numbers and times are, and the seed."""
_LABEL_WIDTH = 48
_MADE_UP = re.compile(r"-\d{8}-\d{6}(-\d+)?$")
"""How the folder of a run ends that was given no name: with date and time."""
_SEED_AT_END = re.compile(r"[-_. ]*(seed|s)?[-_. =]*\d*$", re.IGNORECASE)


@dataclass(frozen=True)
class Group:
    """Runs of one scenario."""

    label: str
    runs: tuple[Run, ...]
    """One for each seed, by seed."""
    repeats: tuple[Run, ...] = ()
    """Runs with a seed that another has: their numbers are the same, and say nothing new."""

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
    kept = {key: value for key, value in run.scenario.items() if key not in _NO_PART}
    return json.dumps(kept, sort_keys=True, default=str)


def _group(label: str, members: Sequence[Run]) -> Group:
    by_seed: dict[int | None, Run] = {}
    for run in members:
        by_seed.setdefault(run.seed, run)
    firsts = sorted(by_seed.values(), key=lambda run: -1 if run.seed is None else run.seed)
    repeats = [run for run in members if run not in firsts]
    return Group(label, tuple(firsts), tuple(repeats))


def _labels(groups: Sequence[Sequence[Run]]) -> list[str]:
    """Name groups by their scenario, by what their folders have in common, or by what differs."""
    names = [members[0].name for members in groups]
    folders = [_common_name(members) for members in groups]
    keys = _labels_by_keys(groups)
    are_chosen = not any(_MADE_UP.search(run.folder.name) for members in groups for run in members)
    for labels in (names, *((folders, keys) if are_chosen else (keys, folders))):
        if len(set(labels)) == len(labels) and all(0 < len(x) <= _LABEL_WIDTH for x in labels):
            return labels
    return [str(members[0].folder) for members in groups]


def _common_name(members: Sequence[Run]) -> str:
    """Return ``fedavg`` for the folders ``fedavg-seed-0`` and ``fedavg-seed-1``."""
    names = [run.folder.name for run in members]
    if len(names) == 1:
        return names[0]
    alike = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    common = "".join(letters[0] for letters in alike)
    return _SEED_AT_END.sub("", common)


def _labels_by_keys(groups: Sequence[Sequence[Run]]) -> list[str]:
    kept = [
        {key: value for key, value in members[0].scenario.items() if key not in _NO_PART}
        for members in groups
    ]
    found = differences(kept)
    return [
        ", ".join(
            f"{_short(difference.key)}={value}"
            for difference in found
            if (value := difference.values[index]) is not None
        )
        for index in range(len(groups))
    ]


def _short(key: str) -> str:
    """Return the last part of a key, or the one before where the last is ``kind``."""
    *before, last = key.split(".")
    return before[-1] if last == "kind" and before else last
