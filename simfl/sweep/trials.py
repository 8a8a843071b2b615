"""A trial in its process: an ordinary run, which reports its progress now and then."""

from __future__ import annotations

import itertools
import json
import math
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from simfl.cluster.code import install_main
from simfl.cluster.setup import SharedData
from simfl.errors import ClientError, InputError, SimflError
from simfl.record import RoundRecord
from simfl.report.reading import read_run
from simfl.scenario import Scenario
from simfl.scenario.sweeps import SweepPlan, Trial
from simfl.sections import ActorsSection, ClusterSection
from simfl.simulation import Backend, RunOptions, open_run
from simfl.sweep.ledger import TRIALS_FOLDER, read_past

A = TypeVar("A", bound=ActorsSection)

ERROR_FILE = "error.txt"
"""In a trial's folder: the traceback of the error that ended it."""

_SECONDS_BETWEEN = 0.5

Report: TypeAlias = "dict[str, Any]"
"""The progress of a trial: its ``round``, and the ``value`` of the metric if it was measured. The
last one has ``done``, the trial's ``state`` and its ``error``."""


@dataclass(frozen=True)
class Order:
    """A trial that is to run now."""

    number: int
    text: str
    """For ``Trials.begin``."""
    bundles: Sequence[Mapping[str, float]]
    """The resources of its own process, then of each of its actors."""
    labels: Sequence[Mapping[str, str]]
    """The nodes that each of these may be on, as Ray's label selectors."""
    earlier: Sequence[Report] = ()
    """Its reports so far, if it continues and may be stopped early."""


@dataclass(frozen=True)
class Trials:
    """Begins trials; it is sent to each trial's process."""

    plan: SweepPlan
    folder: Path
    """The sweep's, absolute."""
    backend: Backend
    metric: str
    stops_early: bool
    """Whether each value of the metric is reported, and not only enough to show progress."""
    shared: Mapping[str, SharedData]
    """Where data is in the object store, by ``data_key``."""
    main: Mapping[str, Any] = field(default_factory=dict)
    """What the scenario uses of the ``__main__`` of the sweep, by name."""

    def order(self, trial: Trial, *, actors: Sequence[int]) -> str:
        """Return a trial's order as text.

        Args:
            trial: the trial.
            actors: how many client actors it has, by group.
        """
        return json.dumps(
            {"number": trial.number, "values": dict(trial.values), "actors": [*actors]}
        )

    def begin(self, order: str) -> RunningTrial:
        """Return a trial, to be run or continued in this process."""
        found = json.loads(order)
        return RunningTrial(
            self, self.plan.trial(found["number"], found["values"]), actors=found["actors"]
        )

    def folder_of(self, trial: Trial) -> Path:
        """Return the folder of a trial's run."""
        return self.folder / TRIALS_FOLDER / trial.name

    def earlier_reports(self, trial: Trial) -> list[Report]:
        """Return what a trial has reported so far, by which trials are stopped early."""
        if not self.stops_early:
            return []
        with suppress(InputError):
            records = read_run(self.folder_of(trial), now=0.0).records
            return [self.report(record) for record in records if self.metric in record]
        return []

    def report(self, record: Mapping[str, Any]) -> Report:
        """Return the report of a round, with NaN for an undefined value: Ray Tune compares them."""
        report = {"round": record["round"]}
        if self.metric in record:
            value = record[self.metric]
            report["value"] = math.nan if value is None else value
        return report


class RunningTrial:
    """Runs a trial from one report to the next. Its errors end this trial alone."""

    def __init__(self, trials: Trials, trial: Trial, *, actors: Sequence[int]) -> None:
        self._trials = trials
        self._trial = trial
        self._actors = actors
        self._run = ExitStack()
        self._rounds: Iterator[RoundRecord] | None = None
        self._latest: Report = {}
        self._reported_s = -math.inf

    def step(self) -> Report:
        """Run until the next report is due, and return it."""
        try:
            return self._next_report()
        except Exception as error:
            self._write_error(error)
            what = (
                str(error) if isinstance(error, SimflError) else f"{type(error).__name__}: {error}"
            )
            return {"done": True, "state": "failed", "error": what}

    def stop(self) -> None:
        """End the run early: as stopped if the ledger says so, and as interrupted otherwise."""
        with suppress(KeyboardInterrupt), self._run:
            if self._trial.number not in read_past(self._trials.folder).ended:
                raise KeyboardInterrupt("the sweep was interrupted")

    def _next_report(self) -> Report:
        with self._run as run:
            if self._rounds is None:
                self._rounds = self._start(run)
            for record in self._rounds:
                report = self._trials.report(record)
                self._latest |= report
                is_due = self._trials.stops_early and "value" in report
                if is_due or time.monotonic() - self._reported_s > _SECONDS_BETWEEN:
                    self._reported_s = time.monotonic()
                    self._run = run.pop_all()  # stays open until the next step
                    return report
        return {"done": True, "state": "done", **self._latest}

    def _start(self, run: ExitStack) -> Iterator[RoundRecord]:
        trials = self._trials
        install_main(trials.main)
        trials.plan.import_plugins()
        scenario = trials.plan.scenario(self._trial.values)
        scenario = _in_its_place(scenario, self._trial, actors=self._actors)
        options = RunOptions(trials.backend, shared=trials.shared.get(data_key(scenario)))
        opened = open_run(scenario, trials.folder_of(self._trial), options)
        return run.enter_context(opened).rounds()

    def _write_error(self, error: Exception) -> None:
        own = error.client_traceback if isinstance(error, ClientError) else None
        with suppress(OSError):
            folder = self._trials.folder_of(self._trial)
            folder.mkdir(parents=True, exist_ok=True)
            text = own or "".join(traceback.format_exception(error))
            (folder / ERROR_FILE).write_text(text, encoding="utf-8")


def data_key(scenario: Scenario) -> str:
    """Return a key that is the same for scenarios with the same data."""
    data = scenario.to_dict()["data"]
    del data["augment"]
    seed = scenario.seed if data["seed"] is None else None
    own = [data, seed, scenario.client_columns]
    return json.dumps(own, sort_keys=True)


def _in_its_place(scenario: Scenario, trial: Trial, *, actors: Sequence[int]) -> Scenario:
    """Return the scenario with the trial's number of actors and location of checkpoints."""
    cluster, checkpoint = scenario.cluster, scenario.checkpoint
    if cluster.placement == "pool":
        cluster = _with_actors(cluster, actors)
    if checkpoint.location is not None:
        location = f"{checkpoint.location.rstrip('/')}/{trial.name}"
        checkpoint = replace(checkpoint, location=location)
    return replace(scenario, cluster=cluster, checkpoint=checkpoint)


def _with_actors(cluster: ClusterSection, actors: Sequence[int]) -> ClusterSection:
    """Return the section with this many actors in each group; in a trial they are fixed.

    Inline, where the groups share a process, there is one number for all of them.
    """
    if not cluster.groups:
        return _fixed(cluster, actors[0])
    return replace(cluster, groups=tuple(map(_fixed, cluster.groups, itertools.cycle(actors))))


def _fixed(section: A, actors: int) -> A:
    return replace(section, actors=actors, min_actors=None, max_actors=None)
