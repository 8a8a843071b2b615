"""run_sweep and resume_sweep: from a scenario with a sweep to its trials' runs and their table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

from simfl.checkpoint import Lease
from simfl.cluster.environment import import_ray
from simfl.cluster.processes import cpus_of_this_machine
from simfl.cluster.session import Connection, chosen_address, connect
from simfl.errors import InputError, MissingExtraError
from simfl.observers import RunConsole
from simfl.scenario import (
    Objects,
    Scenario,
    Trust,
    find_missing,
    list_own,
    own_address,
    own_objects,
)
from simfl.scenario.sweeps import SweepPlan, load_sweep
from simfl.sections import ClusterSection
from simfl.simulation import Backend
from simfl.simulation.folder import checked_folder, new_folder, require_writable
from simfl.simulation.runner import notify
from simfl.states import open_storage
from simfl.sweep.ledger import (
    SWEEP_FILE,
    TRIALS_FOLDER,
    Ledger,
    Past,
    read_past,
    require_no_sweep,
    write_scenario,
)
from simfl.sweep.preflight import Prepared, find_room, prepare
from simfl.sweep.progress import make_progress
from simfl.sweep.results import Goal, SweepResult, read_trial, write_results
from simfl.sweep.schedule import Schedule
from simfl.sweep.trials import Trials


def run_sweep(
    scenario: Mapping[str, Any] | str | Path,
    out: str | Path | None = None,
    backend: Backend = "ray",
    *,
    over: Sequence[str] = (),
    overrides: Sequence[str] = (),
    baselines: Sequence[str] = (),
    address: str | None = None,
    progress: bool = False,
    trust: Trust = "all",
    **objects: Unpack[Objects],
) -> SweepResult:
    """Run the trials of a sweep, as many at once as there is room for.

    Args:
        scenario: a file, the name of a shipped scenario, or plain data.
        out: the sweep's folder, which gets a folder for each trial's run; None: a new one under
            ``output.dir``.
        backend: ``ray``: each trial has client actors; ``inline``: it trains its clients itself.
        over: ``key.path=values`` each, in addition to ``sweep.over``.
        overrides: ``key.path=value`` each.
        baselines: ``centralized``, ``local`` or both, in place of ``sweep.baselines``.
        address: of a Ray cluster, instead of ``cluster.address``.
        progress: whether to show progress on the terminal.
        trust: ``none`` refuses a scenario that would run its author's code.
        **objects: as for ``simfl.run``, of all trials.

    Returns:
        The results of all trials, including those that failed.

    Raises:
        InputError: if a trial cannot run; then none has been started.
        MissingExtraError: if Ray Tune is not installed.
        KeyboardInterrupt: if it was interrupted; its message says how to continue.
    """
    beside = [f"sweep.baselines=[{', '.join(baselines)}]"] if baselines else []
    overrides = [*overrides, *beside, *own_address(address, trust)]
    plan = load_sweep(scenario, overrides=overrides, over=over, trust=trust, objects=objects)

    def make_folder(first: Scenario) -> Path:
        if out is None:
            folder = new_folder(checked_folder(first.output.dir), f"{first.name or 'run'}-sweep")
        else:
            folder = checked_folder(out)
        require_no_sweep(folder)
        _hold(folder, held)
        require_no_sweep(folder)
        write_scenario(folder, plan)
        return folder

    with ExitStack() as held:
        return _Sweep(plan, Past(), backend, address).run(make_folder, progress=progress)


def resume_sweep(
    folder: str | Path,
    backend: Backend = "ray",
    *,
    address: str | None = None,
    progress: bool = False,
    trust: Trust = "all",
    **objects: Unpack[Objects],
) -> SweepResult:
    """Continue a sweep that was interrupted, or in which trials have failed.

    Trials that are done stay as they are. The others continue from their last checkpoints, with
    the numbers of trials that were never stopped.

    Args:
        folder: the sweep's.
        backend: as for ``run_sweep``; it may be another one than before.
        address: as for ``run_sweep``.
        progress: as for ``run_sweep``.
        trust: as for ``run_sweep``.
        **objects: those that the sweep was given, again.

    Raises:
        InputError: if the folder holds no sweep, or one that is done.
        KeyboardInterrupt: as for ``run_sweep``.
    """
    folder = checked_folder(folder)
    read_past(folder)
    with ExitStack() as held:
        _hold(folder, held)
        past = read_past(folder)
        folders = [Path(path) for path in past.began.get("folders", [])]
        own = own_address(address, trust)
        _require_own(folder, past, objects)
        plan = load_sweep(
            folder / SWEEP_FILE, overrides=own, folders=folders, trust=trust, objects=objects
        )
        if sum(map(past.is_finished, past.ended)) == plan.num_trials:
            raise InputError(f"the sweep in {folder} is done; there is nothing to continue")
        return _Sweep(plan, past, backend, address).run(lambda _: folder, progress=progress)


@dataclass(frozen=True)
class _Sweep:
    """A sweep that is about to run, or to continue."""

    plan: SweepPlan
    past: Past
    backend: Backend
    address: str | None

    def run(self, make_folder: Callable[[Scenario], Path], *, progress: bool) -> SweepResult:
        """Run what is left, and return the results of all trials.

        Args:
            make_folder: returns the sweep's folder, given the first trial's scenario. Called once
                all trials are known to be able to run.
            progress: whether to show progress.
        """
        plan = self.plan
        scenarios = [plan.scenario(values) for values in plan.tried]
        cluster = scenarios[0].cluster
        import_ray(self.address or cluster.address, keeps_events=cluster.dashboard)
        require_packages(plan)
        from simfl.sweep.searching import make_suggestions
        from simfl.sweep.tuning import run_trials

        with closing(self._connect(scenarios[0])):
            prepared = prepare(plan, scenarios, backend=self.backend)
            room = find_room(plan, prepared.needs)
            searcher = make_suggestions(plan, prepared.goal, self.past, notify=notify)
            folder = make_folder(scenarios[0])
            trials = self._trials(folder, prepared, scenarios)
            console = RunConsole(quiet=not progress)
            schedule = Schedule(
                plan,
                Ledger(folder, self.past),
                searcher=searcher,
                own=[pair for scenario in scenarios for pair in list_own(scenario)],
                make_order=lambda trial: room.order(trial, trials),
                progress=make_progress(console, prepared.goal, total=plan.num_trials),
            )
            for note in prepared.notes:
                notify(note)
            with schedule.running(self._headline(len(schedule.finished), at_once=room.at_once)):
                run_trials(trials, schedule, prepared, at_once=room.at_once)
        return _results(folder, schedule, prepared.goal)

    def _connect(self, first: Scenario) -> Connection:
        plan, cluster = self.plan, first.cluster
        asked = plan.section.concurrent
        at_once = 1 if asked == "auto" else min(asked, plan.num_trials)
        name = first.name or "run"
        return connect(
            address=chosen_address(self.address, cluster.address),
            # Ray only counts CPUs, so there may be as many as the trials ask for.
            num_cpus=max(cpus_of_this_machine(), math.ceil(at_once * _least_cpus(cluster))),
            dashboard=cluster.dashboard,
            object_store_memory=cluster.object_store_memory,
            keeps_events=cluster.dashboard,
            metadata={"scenario": name, "job_name": f"{name} (sweep)"},
        )

    def _trials(self, folder: Path, prepared: Prepared, scenarios: Sequence[Scenario]) -> Trials:
        return Trials(
            plan=self.plan,
            folder=folder.absolute(),
            backend=self.backend,
            metric=prepared.goal.metric,
            stops_early=self.plan.section.asha is not None,
            shared=prepared.shared,
            main={name: own for s in scenarios for name, own in own_objects(s).items()},
        )

    def _headline(self, num_finished: int, *, at_once: int) -> str:
        plan = self.plan
        name = plan.document.values.get("name") or "run"
        keys = ", ".join(plan.space)
        resumed = f", {num_finished} of them finished before" if num_finished else ""
        trials = "1 trial" if plan.num_trials == 1 else f"{plan.num_trials} trials"
        return f"{name}: {trials} over {keys}, {at_once} at once{resumed}"


def require_packages(plan: SweepPlan) -> None:
    """Check that Ray Tune and the searcher can be used, before a cluster is started.

    Raises:
        InputError: if there is no such searcher, or it needs a package.
        MissingExtraError: if Ray Tune is not installed.
    """
    try:
        from simfl.sweep import searching, tuning  # noqa: F401
    except ImportError as error:
        package = error.name or "ray[tune]"
        raise MissingExtraError("simfl sweep", package=package, extra="tune") from error
    searching.require_searcher(plan)


def _results(folder: Path, schedule: Schedule, goal: Goal) -> SweepResult:
    """Return the results of all trials, and write their table and report.

    Raises:
        KeyboardInterrupt: if the sweep was interrupted.
    """
    trials = [schedule.trials[number] for number in sorted(schedule.trials)]
    found = [read_trial(t, folder / TRIALS_FOLDER / t.name, schedule.past) for t in trials]
    result = SweepResult(out=folder, goal=goal, trials=tuple(found))
    for message in write_results(result, with_report=not schedule.is_stopped):
        notify(message)
    if schedule.is_stopped:
        raise KeyboardInterrupt(f"interrupted; continue with: simfl sweep --resume {folder}")
    return result


def _least_cpus(cluster: ClusterSection) -> float:
    """Return the CPUs of the actors that a trial needs at least, as far as known."""
    groups = cluster.groups or (cluster,)
    return sum(g.num_cpus * (1 if g.actors == "auto" else g.actors) for g in groups)


def _require_own(folder: Path, past: Past, objects: Objects) -> None:
    """Check that this process has what the sweep's notebook or script had defined."""
    if missing := find_missing(past.began.get("own", []), objects):
        raise InputError(
            f"the sweep in {folder} was started by a notebook or script, which defines "
            f"{', '.join(missing)}; resume it there, by simfl.resume_sweep({str(folder)!r}), and "
            "give it the same objects"
        )


def _hold(folder: Path, held: ExitStack) -> None:
    """Keep other processes from writing to the sweep's folder."""
    require_writable(folder)
    held.enter_context(Lease(open_storage(folder), notify=notify))
