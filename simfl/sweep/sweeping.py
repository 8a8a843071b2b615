"""run_sweep and resume_sweep: from a scenario with a sweep to its trials' runs, and their table."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from simfl.checkpoint import Lease
from simfl.cluster.placement import (
    Need,
    bundles,
    labels_of_bundles,
    num_actors,
    require_room_for_run,
)
from simfl.cluster.placement import runs_at_once as room_for
from simfl.cluster.pool import cpus_of_this_machine
from simfl.cluster.searching import Suggestions
from simfl.cluster.session import Connection, chosen_address, connect, import_ray
from simfl.cluster.survey import Cluster, present_cluster
from simfl.cluster.tuning import Asha, Order, Report, run_trials
from simfl.errors import InputError
from simfl.observers import RunConsole
from simfl.report.reading import read_run
from simfl.scenario import Scenario, Trust, own_address
from simfl.scenario.schema import AshaSection
from simfl.scenario.sweeps import SweepPlan, Trial, load_sweep
from simfl.sections import ClusterSection
from simfl.simulation import Backend
from simfl.simulation.folder import checked_folder, new_folder, require_writable
from simfl.states import open_storage
from simfl.sweep.folder import SWEEP_FILE, make_sweep_folder, require_no_sweep
from simfl.sweep.interruption import Interruption
from simfl.sweep.ledger import FINISHED, Ledger, Past, read_past
from simfl.sweep.preflight import Prepared, prepare
from simfl.sweep.progress import NoProgress, Progress, make_progress
from simfl.sweep.proposals import make_suggestions, require_packages
from simfl.sweep.results import SweepResult, TrialResult, read_trial, write_results
from simfl.sweep.trials import TRIALS_FOLDER, Trials


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
    overrides = [*overrides, *own_address(address, trust)]
    plan = load_sweep(scenario, overrides=overrides, over=over, trust=trust)

    def make_folder(first: Scenario, held: ExitStack) -> Path:
        if out is None:
            folder = new_folder(checked_folder(first.output.dir), f"{first.name or 'run'}-sweep")
        else:
            folder = checked_folder(out)
        require_no_sweep(folder)
        _hold(folder, held)
        return make_sweep_folder(folder, plan)

    with ExitStack() as held:
        sweep = _Sweep(plan, Past(), backend, address, progress=progress)
        return sweep.run(lambda first: make_folder(first, held))


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
    folder = checked_folder(folder)
    read_past(folder)
    with ExitStack() as held:
        _hold(folder, held)
        sweep = _sweep_in(folder, backend, address, progress=progress, trust=trust)
        return sweep.run(lambda _: folder)


def _sweep_in(
    folder: Path, backend: Backend, address: str | None, *, progress: bool, trust: Trust
) -> _Sweep:
    """Return what is left of a folder's sweep."""
    past = read_past(folder)
    folders = [Path(path) for path in past.began.get("folders", [])]
    own = own_address(address, trust)
    plan = load_sweep(folder / SWEEP_FILE, overrides=own, folders=folders, trust=trust)
    finished = sum(event["state"] in FINISHED for event in past.ended.values())
    if finished == plan.num_trials:
        raise InputError(f"the sweep in {folder} is done; there is nothing to go on with")
    return _Sweep(plan, past, backend, address, progress=progress)


def _hold(folder: Path, held: ExitStack) -> None:
    """Keep others from the sweep's folder."""
    require_writable(folder)
    held.enter_context(Lease(open_storage(folder), tell=_tell))


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
        self._progress: Progress = make_progress(RunConsole()) if progress else NoProgress()
        self._trials = {trial.number: trial for trial in plan.trials}
        for number, values in past.proposed.items():
            self._trials[number] = plan.trial(number, values)
        self._ended = dict(past.ended)
        self._values: dict[int, float] = {}
        self._suggestions: Suggestions | None = None
        self._interruption = Interruption(self._progress.say)

    def run(self, make_folder: Callable[[Scenario], Path]) -> SweepResult:
        """Run what is left, and return all."""
        scenarios = [self._plan.scenario(values) for values in self._plan.tried]
        cluster = scenarios[0].cluster
        import_ray(self._address or cluster.address, keeps_events=cluster.dashboard)
        require_packages(self._plan)
        connection = self._connect(scenarios[0])
        try:
            prepared = prepare(self._plan, scenarios, backend=self._backend)
            self._prepared = prepared
            self._goal = prepared.goal
            self._cluster = present_cluster()
            self._at_once = self._count_at_once(prepared.needs)
            self._suggestions = make_suggestions(self._plan, self._goal, self._past, tell=_tell)
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
    def is_stopped(self) -> bool:
        """Whether the sweep was interrupted."""
        return self._interruption.is_asked

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
            self._suggestions.tell(number, value if state in FINISHED else None)
        self._progress.ended(self._trials[number], state, value=value, error=error)

    def _connect(self, scenario: Scenario) -> Connection:
        cluster = scenario.cluster
        asked = self._plan.section.concurrent
        at_once = 1 if asked == "auto" else min(asked, self._plan.num_trials)
        name = scenario.name or "run"
        return connect(
            address=chosen_address(self._address, cluster.address),
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
            require_room_for_run(need, actors, cluster.nodes)
        return at_once

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
        return event is not None and event["state"] in FINISHED

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
            with self._interruption.awaited():
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
        name = plan.document.values.get("name") or "run"
        keys = ", ".join(plan.space)
        going_on = f", {finished} of them finished before" if finished else ""
        trials = "1 trial" if plan.num_trials == 1 else f"{plan.num_trials} trials"
        return f"{name}: {trials} over {keys}, {self._at_once} at once{going_on}"

    def _need(self, number: int) -> Need:
        needs = self._prepared.needs
        return needs[number] if self._plan.trials else needs[0]

    def _rounds(self, number: int) -> int:
        own = self._plan.all_values(self._trials[number].values)
        return int(own.get("rounds") or self._plan.document.values["rounds"])

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


def _asha(section: AshaSection, *, max_rounds: int) -> Asha:
    return Asha(max_rounds, section.grace_rounds, section.factor)


def _tell(line: str) -> None:
    RunConsole(stderr=True).print(line, highlight=False, markup=False, soft_wrap=True)


def _least_cpus(cluster: ClusterSection) -> float:
    """Return the CPUs of the actors that a trial cannot do without, as far as that is known."""
    groups = cluster.groups or (cluster,)
    return sum(g.num_cpus * (1 if g.actors == "auto" else g.actors) for g in groups)
