"""run_sweep and resume_sweep: from a scenario with a sweep to its trials' runs, and their table."""

from __future__ import annotations

import math
import signal
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from simfl.cluster.connect import Connection, connect
from simfl.cluster.pool import cpus_of_this_machine
from simfl.cluster.room import (
    Cluster,
    Need,
    bundles,
    labels_of_bundles,
    num_actors,
    present_cluster,
    require_room,
)
from simfl.cluster.room import runs_at_once as room_for
from simfl.cluster.searching import Suggestions, require_searcher
from simfl.cluster.tuning import Asha, Order, Report, require_tune, run_trials
from simfl.errors import InputError
from simfl.observers import write_whole
from simfl.report.reading import read_run
from simfl.scenario import Scenario, Trust
from simfl.scenario.document import Document
from simfl.scenario.named import KIND
from simfl.scenario.sections import AshaSection, ClusterSection
from simfl.scenario.space import Each
from simfl.scenario.sweeps import SweepPlan, Trial, load_sweep
from simfl.scenario.yaml_format import dump_yaml
from simfl.simulation import Backend
from simfl.simulation.folder import new_folder
from simfl.sweep.ledger import LEDGER_FILE, Ledger, Past, read_past
from simfl.sweep.preflight import Prepared, prepare
from simfl.sweep.progress import NoProgress, Progress, make_progress
from simfl.sweep.results import SweepResult, TrialResult, read_trial, write_results
from simfl.sweep.trials import TRIALS_FOLDER, Trials

__all__ = ["SWEEP_FILE", "resume_sweep", "run_sweep"]

SWEEP_FILE = "sweep.yaml"
"""The scenario with its sweep, every override in it."""

_GRACE_S = 15.0
"""How long trials may take to stop after an interruption, before they are killed."""
_FINISHED = ("done", "stopped")


def run_sweep(
    scenario: Mapping[str, Any] | str | Path,
    out: str | Path | None = None,
    backend: Backend = "ray",
    *,
    over: Sequence[str] = (),
    overrides: Sequence[str] = (),
    address: str | None = None,
    progress: bool = False,
    trust: Trust = "all",
) -> SweepResult:
    """Run the trials of a sweep, as many at once as there is room for.

    Args:
        scenario: a file, the name of a shipped scenario, or plain data.
        out: the sweep's folder, in which each trial's run gets one; None: a new one under
            ``output.dir``.
        backend: ``ray``: each trial has client actors; ``inline``: it trains its clients itself.
        over: ``key.path=values`` each, beside what is under ``sweep.over``.
        overrides: ``key.path=value`` each.
        address: of a Ray cluster, instead of ``cluster.address``.
        progress: whether to show how it goes on the terminal.
        trust: ``none`` refuses a scenario that would run code of its author's.

    Returns:
        What every trial has brought, failed ones among them.

    Raises:
        InputError: if there is a trial that cannot run; none has been started then.
        MissingExtraError: if Ray Tune is not installed.
        KeyboardInterrupt: if it was interrupted; its message says how to go on.
    """
    plan = load_sweep(scenario, overrides=overrides, over=over, trust=trust)

    def make_folder(first: Scenario) -> Path:
        stem = f"{first.name or 'run'}-sweep"
        folder = Path(out) if out is not None else new_folder(Path(first.output.dir), stem)
        return _make_folder(folder, plan)

    return _Sweep(plan, Past(), backend, address, progress=progress).run(make_folder)


def resume_sweep(
    folder: str | Path,
    backend: Backend = "ray",
    *,
    address: str | None = None,
    progress: bool = False,
    trust: Trust = "all",
) -> SweepResult:
    """Go on with a sweep that was interrupted, or in which trials have failed.

    Trials that are done stay as they are. The others go on from their last checkpoints, and their
    numbers are those of trials that were never stopped.

    Args:
        folder: the sweep's.
        backend: as for ``run_sweep``; it may be another one than before.
        address: as for ``run_sweep``.
        progress: as for ``run_sweep``.
        trust: as for ``run_sweep``.

    Raises:
        InputError: if the folder holds no sweep, or one that is done.
        KeyboardInterrupt: as for ``run_sweep``.
    """
    folder = Path(folder)
    past = read_past(folder)
    folders = [Path(path) for path in past.began.get("folders", [])]
    plan = load_sweep(folder / SWEEP_FILE, folders=folders, trust=trust)
    finished = sum(event["state"] in _FINISHED for event in past.ended.values())
    if finished == plan.num_trials:
        raise InputError(f"the sweep in {folder} is done; there is nothing to go on with")
    sweep = _Sweep(plan, past, backend, address, progress=progress)
    return sweep.run(lambda _: folder)


class _Sweep:
    """One sweep, as it is told of by Ray Tune (see ``cluster.tuning.Watch``)."""

    def __init__(
        self,
        plan: SweepPlan,
        past: Past,
        backend: Backend,
        address: str | None,
        *,
        progress: bool,
    ) -> None:
        self._plan = plan
        self._past = past
        self._backend = backend
        self._address = address
        self._progress: Progress = make_progress(Console()) if progress else NoProgress()
        self._trials = {trial.number: trial for trial in plan.trials}
        for number, values in past.proposed.items():
            self._trials[number] = plan.trial(number, values)
        self._ended = dict(past.ended)
        self._values: dict[int, float] = {}
        self._suggestions: Suggestions | None = None
        self.is_stopped = False

    def run(self, make_folder: Any) -> SweepResult:
        """Run what is left, and return all."""
        _require_packages(self._plan)
        scenarios = self._scenarios()
        connection = self._connect(scenarios[0])
        try:
            prepared = prepare(self._plan, scenarios, backend=self._backend)
            self._prepared = prepared
            self._goal = prepared.goal
            self._cluster = present_cluster()
            self._at_once = self._count_at_once(prepared.needs)
            self._suggestions = self._searcher()
            self._folder: Path = make_folder(scenarios[0])
            self._ledger = Ledger(self._folder)
            self._queue = deque(self._left())
            self._run_trials(prepared)
        finally:
            connection.close()
        result = self._result()
        for line in write_results(result, with_report=not self.is_stopped):
            _tell(line)
        if self.is_stopped:
            raise KeyboardInterrupt(f"interrupted; go on with: simfl sweep --resume {self._folder}")
        return result

    def next_order(self) -> Order | None:
        """Return the next trial: one that is left, or one that the searcher proposes."""
        if self.is_stopped:
            return None
        number = self._queue.popleft() if self._queue else self._propose()
        if number is None:
            return None
        trial = self._trials[number]
        need = self._need(number)
        actors = num_actors(need, self._cluster.nodes, at_once=self._at_once)
        return Order(
            number=number,
            text=self._begin.order(trial, actors=actors),
            bundles=bundles(need, actors, beside={self._cluster.here: 0.0001}),
            labels=labels_of_bundles(need, actors),
            earlier=self._reports(trial),
        )

    @property
    def has_all(self) -> bool:
        """Whether all trials have been handed out."""
        return self.is_stopped or (not self._queue and len(self._trials) == self._plan.num_trials)

    def started(self, number: int) -> None:
        """Note it."""
        self._ended.pop(number, None)
        self._ledger.write("started", trial=number)
        self._progress.started(self._trials[number], rounds=self._rounds(number))

    def reported(self, number: int, report: Report) -> None:
        """Show it."""
        value = report.get(self._goal.metric)
        if value is not None:
            self._values[number] = value
        self._progress.reported(self._trials[number], report)

    def ended(self, number: int, report: Report) -> None:
        """Note it, and tell the searcher."""
        self.reported(number, report)
        state = report.get("state") or ("interrupted" if self.is_stopped else "stopped")
        self._end(number, state, error=report.get("error"))

    def lost(self, number: int, reason: str) -> None:
        """Note it, and tell the searcher."""
        self._end(number, "failed", error=reason)

    def _end(self, number: int, state: str, *, error: str | None) -> None:
        value = self._values.get(number)
        if value is not None and not math.isfinite(value):
            value = None
        event = {"trial": number, "state": state, "value": value, "error": error}
        self._ended[number] = event
        self._ledger.write("ended", **event)
        if self._suggestions is not None and state != "interrupted":
            self._suggestions.tell(number, value if state in _FINISHED else None)
        self._progress.ended(self._trials[number], state, value=value, error=error)

    def _scenarios(self) -> list[Scenario]:
        """Return each trial's scenario, or one where a searcher will propose them."""
        tried = [trial.values for trial in self._plan.trials]
        first = {key: values.extremes[0] for key, values in self._plan.space.items()}
        return [self._plan.scenario(values) for values in tried or [first]]

    def _connect(self, scenario: Scenario) -> Connection:
        cluster = scenario.cluster
        asked = self._plan.section.concurrent
        at_once = 1 if asked == "auto" else min(asked, self._plan.num_trials)
        name = scenario.name or "run"
        return connect(
            address=self._address or cluster.address,
            # Ray's CPUs are an account and not a limit: what is asked for may be had here.
            num_cpus=max(cpus_of_this_machine(), math.ceil(at_once * _least_cpus(cluster))),
            dashboard=cluster.dashboard,
            object_store_memory=cluster.object_store_memory,
            keeps_events=cluster.dashboard,
            metadata={"scenario": name, "job_name": f"{name} (sweep)"},
        )

    def _count_at_once(self, needs: Sequence[Need]) -> int:
        cluster: Cluster = self._cluster
        asked = self._plan.section.concurrent
        needs = list(needs) * (1 if self._plan.trials else self._plan.num_trials)
        at_once = room_for(needs, cluster.nodes, asked=None if asked == "auto" else asked)
        for need in needs:
            actors = num_actors(need, cluster.nodes, at_once=at_once)
            require_room(need, actors, cluster.nodes)
        return at_once

    def _searcher(self) -> Suggestions | None:
        """Return the searcher, brought to where it was when the sweep was interrupted."""
        chosen = _chosen_searcher(self._plan)
        if chosen is None:
            return None
        space = {
            key: ("choice", values.values)
            if isinstance(values, Each)
            else (values.kind, values.values)
            for key, values in self._plan.space.items()
        }
        suggestions = Suggestions(
            *chosen,
            space=space,
            metric=self._goal.metric,
            mode=self._goal.mode,
            seed=self._plan.section.seed,
        )
        _replay(suggestions, self._past)
        return suggestions

    def _propose(self) -> int | None:
        number = len(self._trials)
        if self._suggestions is None or number == self._plan.num_trials:
            return None
        values = self._suggestions.suggest(number)
        if values is None:
            return None
        self._trials[number] = self._plan.trial(number, values)
        self._ledger.write("proposed", trial=number, values=values)
        return number

    def _left(self) -> list[int]:
        """Return the trials that are not finished; those that had begun come first."""
        left = [n for n in sorted(self._trials) if not self._is_finished(n)]
        return sorted(left, key=lambda n: not self._folder_of(n).exists())

    def _is_finished(self, number: int) -> bool:
        event = self._ended.get(number)
        return event is not None and event["state"] in _FINISHED

    def _folder_of(self, number: int) -> Path:
        return self._folder / TRIALS_FOLDER / self._trials[number].name

    def _run_trials(self, prepared: Prepared) -> None:
        folder = self._folder.absolute()
        asha = self._plan.section.asha
        self._begin = Trials(
            plan=self._plan,
            folder=folder,
            backend=self._backend,
            metric=self._goal.metric,
            reports_metric=asha is not None,
            shared=prepared.shared,
        )
        self._ledger.write("began", folders=[str(path) for path in self._plan.folders])
        finished = [n for n in sorted(self._trials) if self._is_finished(n)]
        for note in prepared.notes:
            _tell(note)
        self._progress.begin(
            self._headline(len(finished)), total=self._plan.num_trials, goal=self._goal
        )
        try:
            for number in finished:
                event = self._ended[number]
                trial = self._trials[number]
                self._progress.ended(trial, event["state"], value=event["value"], error=None)
            with self._interruptible():
                run_trials(
                    self._begin,
                    self,
                    metric=self._goal.metric,
                    mode=self._goal.mode,
                    at_once=self._at_once,
                    max_retries=3,
                    asha=None if asha is None else _asha(asha, max_rounds=prepared.max_rounds),
                    finished=[self._reports(self._trials[n]) for n in finished],
                )
        finally:
            self._progress.close()

    def _headline(self, finished: int) -> str:
        plan = self._plan
        name = self._scenarios()[0].name or "run"
        keys = ", ".join(plan.space)
        going_on = f", {finished} of them finished before" if finished else ""
        return f"{name}: {plan.num_trials} trials over {keys}, {self._at_once} at once{going_on}"

    def _need(self, number: int) -> Need:
        needs = self._prepared.needs
        return needs[number] if self._plan.trials else needs[0]

    def _rounds(self, number: int) -> int:
        rounds = self._trials[number].values.get("rounds", self._plan.document.values["rounds"])
        return int(rounds)

    def _reports(self, trial: Trial) -> list[Report]:
        """Return what a trial's run has measured so far, for early stopping."""
        if self._plan.section.asha is None:
            return []
        with suppress(InputError):
            records = read_run(self._folder_of(trial.number), now=0.0).records
            return [dict(record) for record in records if self._goal.metric in record]
        return []

    def _result(self) -> SweepResult:
        return SweepResult(
            out=self._folder,
            goal=self._goal,
            trials=tuple(self._read(number) for number in sorted(self._trials)),
        )

    def _read(self, number: int) -> TrialResult:
        event = self._ended.get(number, {"state": "waiting", "error": None})
        folder = self._folder_of(number)
        if event["state"] == "waiting" and folder.exists():
            event = {"state": "interrupted", "error": None}
        trial = self._trials[number]
        return read_trial(trial, folder, state=event["state"], error=event["error"])

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Let Ctrl-C stop the trials in good order, and a second one at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        timer = threading.Timer(_GRACE_S, signal.raise_signal, [signal.SIGINT])
        timer.daemon = True

        def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
            if self.is_stopped:
                raise KeyboardInterrupt
            self.is_stopped = True
            self._progress.say("stopping the trials; once more to stop at once")
            timer.start()

        former = {number: signal.signal(number, stop) for number in _SIGNALS}
        try:
            yield
        except KeyboardInterrupt:
            self.is_stopped = True
        finally:
            timer.cancel()
            for number, handler in former.items():
                signal.signal(number, handler)


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _require_packages(plan: SweepPlan) -> None:
    """See that Ray Tune and the searcher can be used, before a cluster is started.

    Raises:
        InputError: if there is no such searcher, or it needs a package.
        MissingExtraError: if Ray Tune is not installed.
    """
    require_tune()
    if (chosen := _chosen_searcher(plan)) is not None:
        require_searcher(*chosen)


def _chosen_searcher(plan: SweepPlan) -> tuple[str, dict[str, Any]] | None:
    """Return the searcher's name and arguments."""
    chosen = plan.section.searcher
    if chosen is None or isinstance(chosen, str):
        return None if chosen is None else (chosen, {})
    return chosen[KIND], {key: value for key, value in chosen.items() if key != KIND}


def _asha(section: AshaSection, *, max_rounds: int) -> Asha:
    return Asha(max_rounds, section.grace_rounds, section.factor)


def _replay(suggestions: Suggestions, past: Past) -> None:
    """Ask and tell the searcher again what it was asked and told before."""
    for event in past.searched:
        number = event["trial"]
        if event["event"] == "proposed":
            if suggestions.suggest(number) != event["values"]:
                _tell(
                    "the searcher proposes otherwise than before; it goes on without knowing what "
                    f"trial {number} and those after it have brought"
                )
                return
        else:
            suggestions.tell(number, event["value"] if event["state"] in _FINISHED else None)


def _make_folder(folder: Path, plan: SweepPlan) -> Path:
    """Make the sweep's folder, with the scenario in it.

    Raises:
        InputError: if it holds a sweep or a run, or cannot be written.
    """
    for name in (SWEEP_FILE, LEDGER_FILE):
        if (folder / name).exists():
            raise InputError(
                f"{folder} holds a sweep already ({name}); choose another folder, "
                f"or go on with: simfl sweep --resume {folder}"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / SWEEP_FILE, dump_yaml(_values(plan.document)))
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror}; choose another") from None
    return folder


def _values(document: Document) -> dict[Any, Any]:
    """Return a scenario's values, its sweep last."""
    values = {key: value for key, value in document.values.items() if key != "sweep"}
    return values | {"sweep": document.values["sweep"]}


def _tell(line: str) -> None:
    Console(stderr=True).print(line, highlight=False, markup=False, soft_wrap=True)


def _least_cpus(cluster: ClusterSection) -> float:
    """Return the CPUs of the actors that a trial cannot do without, as far as that is known."""
    groups = cluster.groups or (cluster,)
    return sum(g.num_cpus * (1 if g.actors == "auto" else g.actors) for g in groups)
