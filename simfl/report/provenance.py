"""What was run: differences between scenarios, the scenarios, and the versions."""

from __future__ import annotations

from simfl.regular_files import read_regular
from simfl.report.charts import Table
from simfl.report.differences import differences, flatten
from simfl.report.reading import SCENARIO_FILE, Run
from simfl.report.study import Section, Study

_MAX_RUNS = 12
_MAX_SIDE_BY_SIDE = 4


def differences_section(study: Study) -> Section:
    """Show where the groups' resolved scenarios differ."""
    groups = [group for group in study.groups if group.runs[0].scenario]
    if len(groups) < 2:
        return Section("Differences")
    # Seeds differ within groups; where code is looked for, and what is written, is no difference.
    kept = [_without(group.runs[0], ("seed", "label", "search", "output")) for group in groups]
    rows = [
        (difference.key, *("—" if value is None else value for value in difference.values))
        for difference in differences(kept)
    ]
    seeds = [", ".join("?" if r.seed is None else str(r.seed) for r in g.runs) for g in groups]
    if len(set(seeds)) > 1:
        rows.append(("seed", *seeds))
    header = ("key", *(group.label for group in groups))
    return Section("Differences", tables=(_differences(study, header, rows),) if rows else ())


def _differences(study: Study, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    """Put a key in each row; or a group in each, where they are many."""
    title = "Where the resolved scenarios differ"
    if len(header) - 1 <= max(_MAX_SIDE_BY_SIDE, len(rows)):
        return Table(title, header, tuple(rows))
    (_, *keys), *by_group = zip(header, *rows, strict=True)
    colours = {group.label: study.colour(group) for group in study.groups}
    return Table(
        title,
        ("run", *keys),
        tuple(by_group),
        tuple(colours[label] for label, *_ in by_group),
    )


def provenance_section(study: Study) -> Section:
    """Show the resolved scenarios, versions, and what could not be read."""
    texts = []
    for group in study.groups[:_MAX_RUNS]:
        run = group.runs[0]
        if run.scenario:
            title = f"Resolved scenario of {run.folder.name}"
            if len(group.members) > 1:
                title += f" (the {len(group.members)} runs of its group differ in the seed only)"
            texts.append((title, _text(run)))
    versions = _versions(study)
    return Section(
        title="Provenance",
        tables=(versions,) if versions else (),
        notes=tuple(_faults(study)),
        texts=tuple(texts),
    )


def _faults(study: Study) -> list[str]:
    """Return a line for each fault, with the runs that have it."""
    by_fault: dict[str, list[str]] = {}
    for folder, fault in study.faults:
        by_fault.setdefault(fault, []).append(folder)
    if study.is_single:
        return list(by_fault)
    return [f"{fault} ({', '.join(folders)})" for fault, folders in by_fault.items()]


def _without(run: Run, keys: tuple[str, ...]) -> dict[str, object]:
    return {key: value for key, value in run.scenario.items() if key not in keys}


def _text(run: Run) -> str:
    return read_regular(run.folder / SCENARIO_FILE).decode(errors="replace")


def _versions(study: Study) -> Table | None:
    """Return a row for each package; a column for each set of versions that runs had."""
    by_versions: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for run in study.runs:
        if run.versions:
            key = tuple(flatten(run.versions).items())
            by_versions.setdefault(key, []).append(run.folder.name)
    if not by_versions:
        return None
    columns = [dict(key) for key in by_versions]
    names = dict.fromkeys(name for column in columns for name in column)
    is_same = len(columns) == 1
    header = (
        ("package", "version") if is_same else ("package", *map(", ".join, by_versions.values()))
    )
    rows = tuple((name, *(column.get(name, "—") for column in columns)) for name in names)
    return Table("Versions", header, rows)
