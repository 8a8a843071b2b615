"""SweepPlan: the trials of a scenario with a sweep, checked."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Any, Final

from pydantic import ValidationError

from simfl.component import Section
from simfl.errors import InputError, ScenarioError
from simfl.scenario.baselines import baseline_of
from simfl.scenario.document import Document, Path, Place, fault_at, format_path, parse_path
from simfl.scenario.faults import scenario_error
from simfl.scenario.fields import read_section
from simfl.scenario.loading import import_plugins_of, read, validated
from simfl.scenario.objects import Objects, put_objects
from simfl.scenario.overrides import put_values
from simfl.scenario.schema import Scenario, SweepSection
from simfl.scenario.space import Draw, Each, Values, parse_values, read_values
from simfl.scenario.validators import Trust
from simfl.scenario.yaml_format import flow_yaml
from simfl.seeding import numpy_generator

_ORIGIN: Final = "--over"
_MAX_TRIALS: Final = 10_000
_NOT_SWEPT: Final = ("sweep", "plugins", "search", "output")
_LABEL: Final = "label"
"""The key of a case's label, which stands for all of the case's values."""
SEED: Final = "seed"
"""The key of ``sweep.seeds``."""
_MAX_NAME: Final = 100
"""Bytes."""


@dataclass(frozen=True, kw_only=True)
class _SweepOnly(Section):
    """A scenario of which only the sweep is read."""

    sweep: SweepSection = SweepSection()


@dataclass(frozen=True)
class Trial:
    """One run of a sweep."""

    number: int
    """From 0."""
    values: Mapping[str, Any]
    """By key, in place of the scenario's own; of a case its label alone."""
    name: str
    """The name of its folder: ``3-lrate=0.1,seed=0``."""

    @property
    def label(self) -> str:
        """The values alone: ``lrate=0.1,seed=0``."""
        return self.name.partition("-")[2] or self.name


@dataclass(frozen=True)
class SweepPlan:
    """The trials of a sweep, and the scenario that they are derived from."""

    document: Document
    """The scenario with its sweep; only the sweep is checked."""
    folders: tuple[FilePath, ...]
    """Folders in which the scenario's files are looked up."""
    section: SweepSection
    num_trials: int
    trust: Trust = "all"
    trials: tuple[Trial, ...] = ()
    """All trials; none if a searcher proposes them."""

    @property
    def space(self) -> dict[str, Values]:
        """The values to try, by key."""
        cases = self.section.cases
        space: dict[str, Values] = {_LABEL: Each(tuple(cases))} if cases else {}
        space |= {key: read_values(value) for key, value in self.section.over.items()}
        if self.seeds:
            space[SEED] = Each(self.seeds)
        return space

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds with which all values are repeated, trial after trial; none without any."""
        return () if self.section.seeds is None else read_values(self.section.seeds).values

    @property
    def tried(self) -> list[Mapping[str, Any]]:
        """The values of each trial; with a searcher, one example of what it may propose."""
        first = {key: values.extremes[0] for key, values in self.space.items()}
        return [trial.values for trial in self.trials] or [first]

    def import_plugins(self) -> None:
        """Import the scenario's plug-ins; each process that checks a trial needs them."""
        import_plugins_of(self.document)

    def trial(self, number: int, values: Mapping[str, Any]) -> Trial:
        """Return the trial with these values."""
        width = len(str(self.num_trials - 1))
        return Trial(number, values, f"{number:0{width}}{_label(values)}")

    def all_values(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of a trial including those of its case."""
        label = values.get(_LABEL)
        case = self.section.cases.get(label, {}) if isinstance(label, str) else {}
        return {**case, **values}

    def scenario(self, values: Mapping[str, Any]) -> Scenario:
        """Return the scenario of a trial, checked.

        Raises:
            ScenarioError: with a line for each fault.
        """
        over: Path = ("sweep", "over")
        case: Path = ("sweep", "cases", str(values.get(_LABEL))) if self.section.cases else over
        placed = {
            parse_path(key): (
                value,
                self.document.place((*(over if key in self.section.over else case), key)),
            )
            for key, value in self.all_values(values).items()
        }
        plain = {key: value for key, value in self.document.values.items() if key != "sweep"}
        document = put_values(replace(self.document, values=plain), placed)
        scenario = validated(document, self.folders, trust=self.trust)
        baseline = next((b for b in self.section.baselines if b == values.get(_LABEL)), None)
        return scenario if baseline is None else baseline_of(scenario, baseline)

    @contextmanager
    def naming(self, values: Mapping[str, Any]) -> Iterator[None]:
        """Name the trial in errors within this block, unless it has a single value."""
        try:
            yield
        except InputError as error:
            if len(self.all_values(values)) == 1:
                raise
            where = f"(in trial {self.trial(0, values).label})"
            if not isinstance(error, ScenarioError):
                raise InputError(f"{error} {where}") from error.__cause__
            raise ScenarioError(
                [fault.with_end(where) for fault in error.faults]
            ) from error.__cause__


def load_sweep(
    path_or_mapping: str | os.PathLike[str] | Mapping[str, Any],
    *,
    overrides: Sequence[str] = (),
    over: Sequence[str] = (),
    folders: Sequence[FilePath] | None = None,
    trust: Trust = "all",
    objects: Objects | None = None,
) -> SweepPlan:
    """Read a scenario with a sweep, and check each trial as far as possible without its data.

    Args:
        path_or_mapping: as for ``load_scenario``.
        overrides: as for ``load_scenario``.
        over: ``key.path=values`` each: ``0.01,0.1``, ``0..4`` or ``{uniform: [0, 1]}``.
        folders: where the scenario's files are looked up. Default: the scenario's own folder.
        trust: as for ``load_scenario``.
        objects: as for ``load_scenario``, of all trials.

    Raises:
        ScenarioError: with a line for each fault.
    """
    document, found = read(path_or_mapping, overrides=overrides, trust=trust)
    document = _with_over(put_objects(document, objects or {}), over)
    section = _section(document)
    _check_keys(document, section)
    where = tuple(folders or found)
    plan = SweepPlan(document, where, section, num_trials=section.samples, trust=trust)
    plan = replace(plan, num_trials=section.samples * max(1, len(plan.seeds)))
    plan.import_plugins()
    if section.searcher is None:
        values = list(_combinations(plan))
        values += [
            v for name in dict.fromkeys(section.baselines) for v in _of_baseline(plan, name, values)
        ]
        plan = replace(plan, num_trials=len(values))
        plan = replace(plan, trials=tuple(plan.trial(n, v) for n, v in enumerate(values)))
    for tried in plan.tried if plan.trials else _corners(plan):
        with plan.naming(tried):
            plan.scenario(tried)
    return plan


def _with_over(document: Document, over: Sequence[str]) -> Document:
    if not over:
        return document
    sweep = document.values.get("sweep") or {}
    if not isinstance(sweep, dict):
        return document  # reported with the section's faults
    swept = dict(sweep.get("over") or {})
    places = dict(document.places)
    for text in over:
        key, equals, values = text.partition("=")
        key = format_path(parse_path(key.strip()))
        if not equals or not key or ".." in key:
            raise ScenarioError(
                [fault_at(Place(_ORIGIN), f"{text!r} is not of the form key.path=values")]
            )
        swept[key] = parse_values(values, origin=f"{_ORIGIN} {key}")
        places["sweep", "over", key] = Place(_ORIGIN)
    return Document(document.values | {"sweep": sweep | {"over": swept}}, places)


def _section(document: Document) -> SweepSection:
    sweep = document.values.get("sweep")
    alone = {} if sweep is None else {"sweep": sweep}
    try:
        return read_section(_SweepOnly, alone, context={}).sweep
    except ValidationError as error:
        raise scenario_error(error, document, schema=_SweepOnly) from None


def _check_keys(document: Document, section: SweepSection) -> None:
    if not (section.over or section.cases or section.baselines) and section.seeds is None:
        raise ScenarioError(
            [
                document.fault_line(
                    ("sweep",),
                    "tries nothing; add --over client.optimizer.lrate=0.01,0.1, "
                    "or the same under sweep.over",
                )
            ]
        )
    over: list[Path] = [("sweep", "over", key) for key in section.over]
    if section.seeds is not None:
        _check_seeds(document, section, over)
    _check_baselines(document, section)
    _check_together(document, over, before={})
    for label, values in section.cases.items():
        case: list[Path] = [("sweep", "cases", label, key) for key in values]
        _check_together(document, [*case, *over], before={(_LABEL,): "cases"})


def _check_seeds(document: Document, section: SweepSection, over: Sequence[Path]) -> None:
    """Refuse a second place for seeds, and early stopping, which would compare them."""
    cases: list[Path] = [
        ("sweep", "cases", c, key) for c, own in section.cases.items() for key in own
    ]
    for written in (*over, *cases):
        if parse_path(str(written[-1])) == (SEED,):
            message = "sweep.seeds sets it, too; remove one of the two"
            raise ScenarioError([document.fault_line(written, message)])
    if section.asha is not None:
        message = "would stop hard seeds rather than bad values; remove sweep.asha or sweep.seeds"
        raise ScenarioError([document.fault_line(("sweep", "asha"), message)])


def _check_baselines(document: Document, section: SweepSection) -> None:
    """Refuse baselines where trials are proposed or stopped by others, and a case of their name."""
    if not section.baselines:
        return
    if section.searcher is not None or section.asha is not None:
        key = "asha" if section.searcher is None else "searcher"
        message = "cannot be judged beside sweep.baselines; remove one of the two"
        raise ScenarioError([document.fault_line(("sweep", key), message)])
    for name in section.baselines:
        if name in section.cases:
            message = "has the name of one of sweep.baselines; rename it"
            raise ScenarioError([document.fault_line(("sweep", "cases", name), message)])


def _check_together(document: Document, keys: Sequence[Path], *, before: dict[Path, str]) -> None:
    """Refuse keys that cannot be swept, and keys that would override what is set before them.

    Args:
        document: for the places in errors.
        keys: where each is written, in the order in which they are set.
        before: the paths that are set before them -> the part of the sweep that sets them. The keys
            are added to it.
    """
    for written in keys:
        key = str(written[-1])
        path = parse_path(key)
        if path[0] in _NOT_SWEPT or key == "cluster.address":
            message = f"cannot be swept; set {path[0]} for all trials"
            raise ScenarioError([document.fault_line(written, message)])
        undone = next((known for known in before if known[: len(path)] == path), None)
        if undone is not None:
            what = f"{format_path(undone)} of sweep.{before[undone]}"
            message = f"would override {what}; remove one of the two"
            raise ScenarioError([document.fault_line(written, message)])
        before[path] = str(written[1])


def _combinations(plan: SweepPlan) -> Iterator[dict[str, Any]]:
    """Yield the values of each trial; those of the last list change fastest."""
    space = plan.space
    grid = {key: values.values for key, values in space.items() if isinstance(values, Each)}
    draws = {key: values for key, values in space.items() if isinstance(values, Draw)}
    points = list(itertools.islice(itertools.product(*grid.values()), _MAX_TRIALS + 1))
    if len(points) * plan.section.samples > _MAX_TRIALS:
        message = f"makes more than {_MAX_TRIALS:,} trials; try fewer values"
        raise ScenarioError([plan.document.fault_line(("sweep", "over"), message)])
    seed = plan.section.seed
    for number, (_, point) in enumerate(itertools.product(range(plan.section.samples), points)):
        values = dict(zip(grid, point, strict=True))
        for key, draw in draws.items():
            drawn = number // max(1, len(plan.seeds))
            values[key] = draw.draw(numpy_generator(seed, f"sweep {key}", round=drawn))
        yield {key: values[key] for key in space}


def _of_baseline(
    plan: SweepPlan, baseline: str, combinations: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the values of a baseline's trials: each once, without those that it leaves out."""
    space = {key: values for key, values in plan.space.items() if key != _LABEL}
    first = {_LABEL: baseline} | {key: values.extremes[0] for key, values in space.items()}
    kept = [
        key
        for key, values in space.items()
        if len(values.extremes) == 1
        or len({_identity(plan, {**first, key: value}) for value in values.extremes}) > 1
    ]
    found = [{_LABEL: baseline} | {key: one[key] for key in kept} for one in combinations]
    return [*{json.dumps(one): one for one in found}.values()]


def _identity(plan: SweepPlan, values: Mapping[str, Any]) -> str:
    with plan.naming(values):
        return json.dumps(plan.scenario(values).to_dict(), sort_keys=True)


def _corners(plan: SweepPlan) -> list[Mapping[str, Any]]:
    """Return the bounds of what a searcher may propose, one key at a time."""
    (first,) = plan.tried
    return [{**first, key: end} for key, values in plan.space.items() for end in values.extremes]


def _label(values: Mapping[str, Any]) -> str:
    """Return ``-lrate=0.1,seed=0``, as any file system accepts it."""
    short = _short_keys(list(values))
    text = ",".join(f"{short[key]}={_text(value)}" for key, value in values.items())
    safe = re.sub(r"[^\w.,=+-]+", "_", text).strip("_")
    # File systems limit bytes; a character may have four.
    return f"-{safe.encode()[:_MAX_NAME].decode(errors='ignore')}" if safe else ""


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else flow_yaml(value).replace(", ", "+")


def _short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Return the last part of each key, or the whole key if another one ends alike."""
    last = {key: str(parse_path(key)[-1]) for key in keys}
    counts = Counter(last.values())
    return {key: part if counts[part] == 1 else key for key, part in last.items()}
