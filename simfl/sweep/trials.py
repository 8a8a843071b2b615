"""A trial in its process: an ordinary run, which says now and then how far it is."""

from __future__ import annotations

import json
import math
import time
import traceback
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from simfl.cluster.references import SharedData
from simfl.cluster.tuning import Report
from simfl.errors import ClientError, SimflError
from simfl.record import RoundRecord
from simfl.scenario import Scenario
from simfl.scenario.sweeps import SweepPlan, Trial
from simfl.sections import ActorsSection, ClusterSection
from simfl.simulation import Backend, RunOptions, open_run
from simfl.sweep.ledger import read_past

A = TypeVar("A", bound=ActorsSection)

TRIALS_FOLDER = "trials"
ERROR_FILE = "error.txt"
"""In a trial's folder: the traceback of what ended it."""

_SECONDS_BETWEEN = 0.5


class _Interrupted(KeyboardInterrupt):
    """Ends the run of a trial as interrupted."""


@dataclass(frozen=True)
class Trials:
    """Begins trials; it is sent to each trial's process."""

    plan: SweepPlan
    folder: Path
    """The sweep's, absolute."""
    backend: Backend
    metric: str
    reports_metric: bool
    """Whether each value of the metric is reported, and not only what a person can follow."""
    shared: Mapping[str, SharedData]
    """Where data lies in the object store, by ``data_key``."""

    def order(self, trial: Trial, *, actors: Sequence[int]) -> str:
        """Write down a trial, for ``__call__`` in its process."""
        return json.dumps(
            {"number": trial.number, "values": dict(trial.values), "actors": [*actors]}
        )

    def folder_of(self, trial: Trial) -> Path:
        """Return the folder of a trial's run."""
        return self.folder / TRIALS_FOLDER / trial.name

    def __call__(self, order: str) -> Generator[Report, None, None]:
        """Run a trial, or go on with it; the last report says how it has ended.

        An error of the trial's is in its report: it ends this trial alone.
        """
        found = json.loads(order)
        trial = self.plan.trial(found["number"], found["values"])
        try:
            yield from self._run(trial, actors=found["actors"])
        except Exception as error:
            self._write_error(trial, error)
            what = (
                str(error) if isinstance(error, SimflError) else f"{type(error).__name__}: {error}"
            )
            yield {"done": True, "state": "failed", "error": what}

    def _run(self, trial: Trial, *, actors: Sequence[int]) -> Generator[Report, None, None]:
        self.plan.import_plugins()
        scenario = _in_its_place(self.plan.scenario(trial.values), trial, actors=actors)
        options = RunOptions(self.backend, shared=self.shared.get(data_key(scenario)))
        latest: Report = {}
        shown = 0.0
        with suppress(_Interrupted):
            with open_run(scenario, self.folder_of(trial), options) as run:
                for record in run.rounds():
                    report = {"round": record.round, **_numbers(record)}
                    latest |= report
                    is_due = self.reports_metric and self.metric in record
                    if is_due or time.monotonic() - shown > _SECONDS_BETWEEN:
                        shown = time.monotonic()
                        try:
                            yield report
                        except GeneratorExit:
                            if trial.number in read_past(self.folder).ended:
                                return  # stopped before its end
                            raise _Interrupted("the sweep was interrupted") from None
            yield {"done": True, "state": "done", **latest}

    def _write_error(self, trial: Trial, error: Exception) -> None:
        own = error.client_traceback if isinstance(error, ClientError) else None
        with suppress(OSError):
            folder = self.folder_of(trial)
            folder.mkdir(parents=True, exist_ok=True)
            text = own or "".join(traceback.format_exception(error))
            (folder / ERROR_FILE).write_text(text, encoding="utf-8")


def _numbers(record: RoundRecord) -> dict[str, float]:
    """Return what was measured; NaN for what has no value, as Ray Tune compares numbers."""
    return {name: math.nan if v is None else v for name, v in record.measures.items()}


def data_key(scenario: Scenario) -> str:
    """Return what two scenarios have in common whose data are the same."""
    data = scenario.to_dict()["data"]
    seed = scenario.seed if data["seed"] is None else None
    own = [data, seed, scenario.client_columns]
    return json.dumps(own, sort_keys=True)


def _in_its_place(scenario: Scenario, trial: Trial, *, actors: Sequence[int]) -> Scenario:
    """Return the scenario with what is the trial's own: its actors, and its checkpoints' place."""
    cluster, checkpoint = scenario.cluster, scenario.checkpoint
    if cluster.placement == "pool":
        cluster = _with_actors(cluster, actors)
    if checkpoint.location is not None:
        location = f"{checkpoint.location.rstrip('/')}/{trial.name}"
        checkpoint = replace(checkpoint, location=location)
    return replace(scenario, cluster=cluster, checkpoint=checkpoint)


def _with_actors(cluster: ClusterSection, actors: Sequence[int]) -> ClusterSection:
    """Return the section with so many actors in each group; in a trial they neither come nor go."""
    if not cluster.groups:
        return _fixed(cluster, actors[0])
    groups = tuple(map(_fixed, cluster.groups, actors))
    return replace(cluster, groups=groups)


def _fixed(section: A, actors: int) -> A:
    return replace(section, actors=actors, min_actors=None, max_actors=None)
