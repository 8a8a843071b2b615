"""Run: a prepared simulation, run round by round."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simfl.checkpoint import Found
from simfl.cluster.setup import SharedData
from simfl.cluster.telemetry import RayMetrics
from simfl.engine import Engine, Handle, Sampling, give_back_freed_memory
from simfl.observers import (
    ClientFiles,
    FailSafeObserver,
    JsonLines,
    Observer,
    RunConsole,
    RunInfo,
    Summary,
    SummaryFile,
    make_progress,
)
from simfl.observers.console import say
from simfl.record import CLIENTS_FILE, METRICS_FILE, SUMMARY_FILE, RoundRecord
from simfl.scenario import Scenario
from simfl.simulation.backends import Backend, make_engine
from simfl.simulation.build import Simulation
from simfl.simulation.checkpoints import Checkpoints
from simfl.simulation.evaluation import without_last_evaluation
from simfl.simulation.folder import read_history, read_run_id, tidy, write_files, write_weights
from simfl.simulation.journal import PROGRESS, Journal
from simfl.simulation.rounds import Done, PhaseClock, run_rounds

PROFILE_FOLDER = "profile"


@dataclass(frozen=True)
class Result:
    """What a run has produced."""

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


@dataclass(frozen=True)
class RunOptions:
    """How a scenario is run; none of it affects the numbers."""

    backend: Backend = "ray"
    address: str | None = None
    """Of a Ray cluster, instead of ``cluster.address``."""
    progress: bool = False
    profile: bool = False
    shared: SharedData | None = None
    """The reference to the data in the object store, if it is there."""


class Run:
    """A run of a simulation.

    >>> with run.started():                     # doctest: +SKIP
    ...     for record in run.rounds():
    ...         print(record.train_loss)
    >>> run.result.summary["status"]            # doctest: +SKIP
    'done'

    Args:
        simulation: resolved and checked.
        folder: the run's; no other process writes to it.
        checkpoints: the run's.
        found: the checkpoint from which to continue, if any.
        options: how to run it.
        clock: in the phase ``prepare``.
    """

    result: Result
    """Available once the block of ``started`` has ended without an exception."""

    def __init__(
        self,
        simulation: Simulation,
        folder: Path,
        checkpoints: Checkpoints,
        found: Found,
        *,
        options: RunOptions,
        clock: PhaseClock,
    ) -> None:
        self._simulation = simulation
        self._folder = folder
        self._checkpoints = checkpoints
        self._found = found
        self._options = options
        self._clock = clock
        self._round = found.checkpoint.round if found.checkpoint else 0
        self._handle: Handle = None
        self._done: Iterator[Done] = iter(())

    @contextmanager
    def started(self) -> Iterator[None]:
        """Start the run; at the end of the block, write its weights and summary.

        If rounds are left then, the run is stopped there: its summary says ``stopped``, and it can
        be resumed. If the block raises an exception, the run has failed or was interrupted.
        """
        journal = self._journal = self._make_journal(self._past())
        tidy(self._folder)
        try:
            with self._engine() as engine:
                self._start(engine)
                yield
                self._end_rounds(engine)
                self._clock.enter("finish")
                weights = self._simulation.complete(engine.get_weights(self._handle))
                self._checkpoints.require_held()
                write_weights(self._folder, weights)
                write_files(self._folder, self._simulation.files(weights))
                arrays, memory = weights.to_numpy(), engine.peak_memory()
        except BaseException as error:
            if self._checkpoints.are_lost:
                journal.leave()
            else:
                is_interrupted = isinstance(error, KeyboardInterrupt)
                journal.end("interrupted" if is_interrupted else "failed", error=str(error))
            raise
        summary = journal.end("done" if self._is_complete else "stopped", memory=memory)
        history = [record.line for record in journal.history]
        self.result = Result(history, arrays, summary, self._folder)

    def rounds(self) -> Iterator[RoundRecord]:
        """Run the rounds that are left; yield the record of each when it is done.

        Rounds that are repeated after a loss are yielded again, with the same numbers.
        """
        for done in self._done:
            self._take(done)
            yield done.record

    def to_end(self) -> Result:
        """Run all rounds that are left."""
        with self.started():
            for _ in self.rounds():
                pass
        return self.result

    @property
    def _is_complete(self) -> bool:
        return self._round == self._simulation.scenario.rounds

    def _past(self) -> list[RoundRecord]:
        """Check that the run can be resumed, and return the records of the finished rounds."""
        simulation, checkpoints = self._simulation, self._checkpoints
        found = self._found = checkpoints.without_unsent(self._found, simulation.client.fixed)
        if found.checkpoint is not None:
            checkpoints.require_fit(found, simulation.server.build().get_weights())
        checkpoints.note_run(found, simulation)
        history = read_history(self._folder, self._round)
        checkpoints.require_history(found, history)
        if self._is_complete:
            return history
        return without_last_evaluation(history, simulation.scenario.evaluation)

    def _make_journal(self, history: list[RoundRecord]) -> Journal:
        for note in self._simulation.notes:
            notify(note)
        observers = _make_observers(self._simulation.scenario, self._folder, self._options)
        last = FailSafeObserver(
            SummaryFile(self._folder), SUMMARY_FILE, out=self._folder, notify=notify
        )
        base_bytes = self._simulation.client.fixed_bytes
        return Journal(observers, last, history=history, clock=self._clock, base_bytes=base_bytes)

    @contextmanager
    def _engine(self) -> Iterator[Engine]:
        self._clock.enter("start")
        options = self._options
        engine = make_engine(
            self._simulation,
            options.backend,
            address=options.address,
            location=self._checkpoints.location,
            profile=options.profile,
            notify=notify,
            shared=options.shared,
        )
        # Nothing else refers to the examples, so that this process releases their memory.
        self._simulation = self._simulation.without_examples()
        give_back_freed_memory()
        profile = _profiled(engine, self._folder) if options.profile else nullcontext()
        with closing(engine), profile:
            yield engine

    def _start(self, engine: Engine) -> None:
        self._journal.start(self._info(engine))
        self._handle = engine.restore(self._found) if self._round else engine.start()
        self._done = run_rounds(
            self._simulation,
            engine,
            self._checkpoints,
            handle=self._handle,
            round=self._round,
            sampled=self._found.checkpoint.sampler if self._found.checkpoint else None,
            clock=self._clock,
        )

    def _take(self, done: Done) -> None:
        self._checkpoints.require_held()
        self._journal.add(done.record, done.clients)
        if self._checkpoints.is_due(done.record.round):
            self._journal.flush()
            self._checkpoints.note_history(self._journal.history[: done.record.round])
        self._round, self._handle = done.record.round, done.handle

    def _end_rounds(self, engine: Engine) -> None:
        """Finish what remains to be saved, however many rounds the caller asked for."""
        if not self._is_complete:
            self._checkpoints.finish(engine)
            return
        for done in self._done:
            self._take(done)

    def _info(self, engine: Engine) -> RunInfo:
        simulation = self._simulation
        return RunInfo(
            name=simulation.scenario.name or "run",
            rounds=simulation.scenario.rounds,
            population=len(simulation.participants),
            cohort_size=simulation.cohort_size,
            out=self._folder,
            workers=engine.describe(),
            num_actors=engine.num_actors,
            backend=self._options.backend,
            run_id=read_run_id(self._folder),
            scenario=simulation.scenario.to_dict(),
            dashboard=engine.dashboard,
            history=tuple(self._journal.history),
        )


def notify(message: str) -> None:
    """Show the user a message, on one line of standard error."""
    say(RunConsole(stderr=True), message)


def _make_observers(
    scenario: Scenario, folder: Path, options: RunOptions
) -> list[FailSafeObserver]:
    """Return a run's observers in the order of their calls; ``metrics.jsonl`` comes first."""
    observers: dict[str, Observer] = {METRICS_FILE: JsonLines(folder, notify=notify)}
    if scenario.output.clients:
        observers[CLIENTS_FILE] = ClientFiles(folder)
    for index, named in enumerate(scenario.output.observers):
        # A new one for this run: another run of the same scenario may take place at the same time.
        observer = type(named).from_config(named.get_config())
        observer.prepare()
        observers[f"output.observers[{index}] {named.name!r}"] = observer
    if options.backend == "ray":
        observers["metrics for Prometheus"] = RayMetrics(notify=notify)
    if options.progress:
        observers[PROGRESS] = make_progress(RunConsole())
    return [
        FailSafeObserver(observer, label, out=folder, notify=notify)
        for label, observer in observers.items()
    ]


@contextmanager
def _profiled(engine: Engine, folder: Path) -> Iterator[None]:
    """Profile this process, and write its flame graph and those of the engine's processes.

    Also for a run that fails, for those of its processes that still exist.

    Args:
        engine: writes the profiles of other processes.
        folder: the run's; files go into ``profile`` in it.
    """
    own = Sampling()
    try:
        yield
    finally:
        page = own.render()
        profile = folder / PROFILE_FOLDER
        profile.mkdir(exist_ok=True)
        (profile / "driver.html").write_text(page, encoding="utf-8")
        engine.write_profiles(profile)
