"""run and resume: from a scenario to a Result and a folder."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from simfl.checkpoint import Found, Lease
from simfl.cluster.references import SharedData
from simfl.cluster.telemetry import RayMetrics
from simfl.engine import Engine, require_profiler
from simfl.errors import InputError, printable
from simfl.observers import (
    CLIENTS_FILE,
    METRICS_FILE,
    SUMMARY_FILE,
    ClientFiles,
    Guarded,
    JsonLines,
    Observer,
    RunConsole,
    RunInfo,
    Summary,
    SummaryFile,
    make_progress,
)
from simfl.record import RoundRecord
from simfl.scenario import Scenario, Trust, load_scenario, own_address
from simfl.simulation.backends import Backend, make_engine
from simfl.simulation.build import Simulation, build
from simfl.simulation.checkpoints import NOTHING, Checkpoints, hold
from simfl.simulation.clock import PhaseClock
from simfl.simulation.evaluation import better_values, without_last_evaluation
from simfl.simulation.folder import (
    SCENARIO_FILE,
    begin_run,
    checked_folder,
    extend_run,
    holds_run,
    is_done,
    make_folder,
    read_history,
    read_run_id,
    require_writable,
    tidy,
    write_weights,
)
from simfl.simulation.journal import PROGRESS, Journal
from simfl.simulation.ledger import NOT_KNOWN, Memory
from simfl.simulation.memory import give_back_freed_memory
from simfl.simulation.profile import profiled
from simfl.simulation.rounds import run_rounds

Rounds: TypeAlias = Generator[RoundRecord, None, "Result"]
"""Yields each round when it is done."""

_Prepared: TypeAlias = "tuple[Simulation, Path, Checkpoints, Found]"


@dataclass(frozen=True)
class Result:
    """What a run has brought."""

    history: list[dict[str, Any]]
    """One dict a round: ``round``, ``seconds`` of wall time, ``train_loss``, and metrics when
    evaluated. The lines of ``metrics.jsonl``."""
    weights: dict[str, np.ndarray[Any, Any]]
    """The final weights by name; bfloat16 as float32, since numpy has no bfloat16."""
    summary: Summary
    """As in ``summary.json``."""
    out: Path
    """The run's folder."""

    def __repr__(self) -> str:
        """Return a summary of the run in one line."""
        status, final = self.summary.get("status"), self.summary.get("final")
        rounds = f"{len(self.history)} round{'s' if len(self.history) != 1 else ''}"
        return f"Result({status}, {rounds}, final={final}, out={str(self.out)!r})"


def run(
    scenario: Scenario | Mapping[str, Any] | str | Path,
    out: str | Path | None = None,
    backend: Backend = "ray",
    *,
    address: str | None = None,
    progress: bool = False,
    resume: Literal["never", "auto"] = "never",
    profile: bool = False,
    trust: Trust = "all",
) -> Result:
    """Run a scenario to its end.

    Args:
        scenario: as ``load_scenario`` returns it, or what it takes.
        out: the run's folder; None: a new one under ``output.dir``.
        backend: ``ray`` for actors, ``inline`` for this process; the numbers are the same.
        address: of a Ray cluster, instead of ``cluster.address``.
        progress: whether to show how it goes on the terminal.
        resume: ``auto`` goes on from the last checkpoint if the folder ``out`` holds one.
        profile: whether to write flame graphs of all processes, and Ray's timeline, into
            ``profile`` in the folder.
        trust: ``none`` refuses a scenario that would run code of its author's. One that was loaded
            is taken as it is.

    Raises:
        InputError: for a scenario that cannot run; nothing has been started then.
        RunError: if the run fails; its folder holds what came before.
    """
    if profile:
        require_profiler()
    how = _How(backend, address, progress, profile)
    return _result(_begin(scenario, out, how, resume=resume, trust=trust))


def run_by_round(
    scenario: Scenario,
    out: str | Path,
    backend: Backend = "ray",
    *,
    shared: SharedData | None = None,
) -> Rounds:
    """Run a scenario as the caller asks for its rounds, or go on where the folder's run was.

    Closed before its end, the run is stopped there: its weights are written, its summary says
    ``stopped``, and ``resume`` would go on.

    Args:
        scenario: what is run.
        out: the run's folder.
        backend: as for ``run``.
        shared: where its data lies in the object store, if it does.

    Raises:
        SimflError: as ``run``.
    """
    how = _How(backend, address=None, progress=False, shared=shared)
    return _begin(scenario, out, how, resume="auto")


def resume(
    folder: str | Path,
    backend: Backend = "ray",
    *,
    address: str | None = None,
    progress: bool = False,
    trust: Trust = "all",
) -> Result:
    """Go on with a run that was stopped, from its last checkpoint or else from its start.

    The numbers are those of a run that was never stopped.

    Args:
        folder: the run's.
        backend: as for ``run``; it may be another one than before.
        address: as for ``run``.
        progress: as for ``run``.
        trust: as for ``run``; it concerns the scenario in the folder.

    Raises:
        InputError: if the folder holds no run, or one that is done.
        RunError: if the run fails.
    """
    clock = PhaseClock("prepare")
    folder = checked_folder(folder)
    if not holds_run(folder):
        raise InputError(f"{folder} holds no run: there is no {SCENARIO_FILE} in it")
    own = own_address(address, trust)
    scenario = load_scenario(folder / SCENARIO_FILE, overrides=own, trust=trust)
    if is_done(folder, scenario):
        raise InputError(f"the run in {folder} is done; there is nothing to go on with")

    def prepare(held: ExitStack) -> _Prepared:
        leases = _hold(scenario, folder, held)
        checkpoints = Checkpoints(scenario, folder, tell=_tell, leases=leases)
        found = checkpoints.find()
        return build(scenario), folder, checkpoints, found

    return _result(_run(prepare, _How(backend, address, progress), clock))


def _begin(
    scenario: Scenario | Mapping[str, Any] | str | Path,
    out: str | Path | None,
    how: _How,
    *,
    resume: Literal["never", "auto"],
    trust: Trust = "all",
) -> Rounds:
    clock = PhaseClock("prepare")
    if not isinstance(scenario, Scenario):
        own = own_address(how.address, trust)
        scenario = load_scenario(scenario, overrides=own, trust=trust)
    if scenario.sweep is not None:
        raise scenario.fault(
            "sweep",
            "is there, so these are many runs; start them with 'simfl sweep', "
            "or set sweep to null for one",
        )

    def prepare(held: ExitStack) -> _Prepared:
        folder = None if out is None or resume == "never" else checked_folder(out)
        leases: list[Lease] = []
        if folder is not None and holds_run(folder):  # before data is loaded in vain
            leases = _hold(scenario, folder, held)
        simulation = build(scenario, how.shared.read() if how.shared else None)
        resolved = simulation.scenario
        goes_on = folder is not None and bool(leases)
        if folder is None or not goes_on:
            folder = make_folder(resolved, out)
            leases = _hold(resolved, folder, held)
        checkpoints = Checkpoints(resolved, folder, tell=_tell, leases=leases)
        if resume == "never":
            checkpoints.require_none()
        if goes_on:
            extend_run(folder, resolved)
        else:
            begin_run(folder, resolved, better=better_values(simulation))
        found = checkpoints.find() if resume == "auto" else NOTHING
        return simulation, folder, checkpoints, found

    return _run(prepare, how, clock)


def _result(rounds: Rounds) -> Result:
    """Run all rounds."""
    while True:
        try:
            next(rounds)
        except StopIteration as end:
            result: Result = end.value
            return result


@dataclass(frozen=True)
class _How:
    """What has no part in a run's numbers."""

    backend: Backend
    address: str | None
    progress: bool
    profile: bool = False
    shared: SharedData | None = None


def _run(prepare: Callable[[ExitStack], _Prepared], how: _How, clock: PhaseClock) -> Rounds:
    with ExitStack() as held:
        return (yield from _run_prepared(*prepare(held), how, clock))


def _run_prepared(
    simulation: Simulation,
    folder: Path,
    checkpoints: Checkpoints,
    found: Found,
    how: _How,
    clock: PhaseClock,
) -> Rounds:
    history = _past(simulation, folder, checkpoints, found)
    done = len(history)
    for note in simulation.notes:
        _tell(note)
    observers = _observers(simulation.scenario, folder, how.backend, progress=how.progress)
    last = Guarded(SummaryFile(folder), SUMMARY_FILE, out=folder, tell=_tell)
    journal = Journal(observers, last, history=history, clock=clock)
    memory: Memory = NOT_KNOWN
    status = "done"
    tidy(folder)
    try:
        clock.enter("start")
        engine = make_engine(
            simulation,
            how.backend,
            address=how.address,
            location=checkpoints.location,
            profile=how.profile,
            tell=_tell,
            shared=how.shared,
        )
        # Nobody else holds the examples, so that this process lets go of their memory.
        simulation = simulation.without_examples()
        give_back_freed_memory()
        with closing(engine), profiled(engine, folder) if how.profile else nullcontext():
            journal.start(_run_info(simulation, engine, folder, how.backend, tuple(history)))
            handle = engine.restore(found) if done else engine.start()
            rounds = run_rounds(
                simulation, engine, checkpoints, handle=handle, round=done, clock=clock
            )
            for record, clients, following in rounds:
                checkpoints.require_held()
                journal.add(record, clients)
                if checkpoints.is_due(record.round):
                    journal.flush()
                    checkpoints.note_history(journal.history[: record.round])
                handle = following
                try:
                    yield record
                except GeneratorExit:
                    if record.round < simulation.scenario.rounds:
                        status = "stopped"
                        break
            if status == "stopped":
                checkpoints.finish(engine)
            clock.enter("finish")
            weights = engine.get_weights(handle)
            checkpoints.require_held()
            write_weights(folder, weights)
            arrays = weights.to_numpy()
            memory = engine.peak_memory()
    except BaseException as error:
        if checkpoints.are_lost:
            journal.leave()
            raise
        interrupted = isinstance(error, KeyboardInterrupt)
        journal.end(status="interrupted" if interrupted else "failed", error=str(error))
        raise
    summary = journal.end(status=status, memory=memory)
    return Result([record.line for record in journal.history], arrays, summary, folder)


def _past(
    simulation: Simulation, folder: Path, checkpoints: Checkpoints, found: Found
) -> list[RoundRecord]:
    """Check that the run can be resumed, and return the records of the finished rounds."""
    if found.checkpoint is not None:
        checkpoints.require_fit(found, simulation.server.build_model().get_weights())
    checkpoints.note_run(found, simulation)
    history = read_history(folder, found.checkpoint.round if found.checkpoint else 0)
    checkpoints.require_history(found, history)
    if len(history) == simulation.scenario.rounds:
        return history
    return without_last_evaluation(history, simulation.scenario.evaluation)


def _hold(scenario: Scenario, folder: Path, held: ExitStack) -> list[Lease]:
    require_writable(folder)
    return hold(scenario, folder, held, tell=_tell)


def _run_info(
    simulation: Simulation,
    engine: Engine,
    folder: Path,
    backend: Backend,
    history: tuple[RoundRecord, ...],
) -> RunInfo:
    return RunInfo(
        name=simulation.scenario.name or "run",
        rounds=simulation.scenario.rounds,
        population=simulation.population,
        cohort_size=simulation.cohort_size,
        out=folder,
        workers=engine.describe(),
        num_actors=engine.num_actors,
        backend=backend,
        run_id=read_run_id(folder),
        scenario=simulation.scenario.to_dict(),
        dashboard=engine.dashboard,
        history=history,
    )


def _observers(
    scenario: Scenario, folder: Path, backend: Backend, *, progress: bool
) -> list[Guarded]:
    """Return who is told of the run, in this order: what the history is kept by comes first."""
    observers: dict[str, Observer] = {METRICS_FILE: JsonLines(folder, tell=_tell)}
    if scenario.output.clients:
        observers[CLIENTS_FILE] = ClientFiles(folder)
    for index, named in enumerate(scenario.output.observers):
        # One of this run's own: another run of the same scenario may go on beside it.
        observer = type(named).from_config(named.get_config())
        observer.prepare()
        observers[f"output.observers[{index}] {named.name!r}"] = observer
    if backend == "ray":
        observers["metrics for Prometheus"] = RayMetrics(notify=_tell)
    if progress:
        observers[PROGRESS] = make_progress(RunConsole())
    return [
        Guarded(observer, label, out=folder, tell=_tell) for label, observer in observers.items()
    ]


def _tell(line: str) -> None:
    """Say what a person should know, in one line."""
    RunConsole(stderr=True).print(printable(line), highlight=False, markup=False, soft_wrap=True)
