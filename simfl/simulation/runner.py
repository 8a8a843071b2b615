"""Run: a prepared simulation, run round by round."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from simfl.checkpoint import Found
from simfl.cluster.setup import SharedData
from simfl.cluster.telemetry import RayMetrics
from simfl.engine import Engine, Handle, Sampling, give_back_freed_memory
from simfl.errors import InputError
from simfl.observers import (
    Callback,
    ClientFiles,
    ClientTable,
    FailSafeObserver,
    JsonLines,
    Observer,
    RunConsole,
    RunInfo,
    SummaryFile,
    as_observer,
    make_progress,
)
from simfl.observers.console import say
from simfl.record import CLIENTS_FILE, METRICS_FILE, SUMMARY_FILE, RoundRecord
from simfl.scenario import Scenario
from simfl.simulation.backends import Backend, make_engine
from simfl.simulation.best_weights import BestWeights
from simfl.simulation.building import Simulation
from simfl.simulation.checkpoints import Checkpoints
from simfl.simulation.evaluation import better_values, without_last_evaluation
from simfl.simulation.folder import (
    delete_summary,
    read_history,
    read_run_id,
    write_files,
    write_weights,
)
from simfl.simulation.journal import PROGRESS, Journal
from simfl.simulation.judging import Watch, rules_of
from simfl.simulation.results import Result
from simfl.simulation.rounds import Done, PhaseClock, run_rounds

PROFILE_FOLDER = "profile"


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
    callbacks: tuple[Callback, ...] = ()
    """What is called after each round, besides the scenario's observers."""
    is_kept: bool = True
    """Whether the run's folder is kept, so that the progress ends with its name."""

    def __post_init__(self) -> None:
        if self.backend not in get_args(Backend):
            raise InputError(f"backend is {self.backend!r}, but must be 'ray' or 'inline'")


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
        self.simulation = simulation
        """Without the examples once the engine has them."""
        self.folder = folder
        self.checkpoints = checkpoints
        self.found = found
        self.clock = clock
        self._options = options
        self._round = found.checkpoint.round if found.checkpoint else 0
        self._handle: Handle = None
        self._watch = Watch()
        self._best: BestWeights | None = None
        self._done: Iterator[Done] = iter(())
        self._in_series = False
        """Whether all rounds are run before anybody may leave."""

    @contextmanager
    def started(self) -> Iterator[None]:
        """Start the run; at the end of the block, write its weights and summary.

        If rounds are left then, the run is stopped there: its summary says ``stopped``, and it can
        be resumed. If the block raises an exception, the run has failed or was interrupted.
        """
        with self.opened() as engine, closing(self._start(engine)) as self._done:
            yield
            self._end_rounds(engine)
            self.end(engine, self._handle, status="done" if self._is_complete else "stopped")

    @contextmanager
    def opened(self) -> Iterator[Engine]:
        """Start the engine and the observers; ``end`` is to be called before the block ends."""
        journal = self._journal = self._make_journal(self._past())
        delete_summary(self.folder)
        try:
            with self._engine() as engine:
                journal.start(self._info(engine))
                yield engine
        except BaseException as error:
            if self.checkpoints.are_lost:
                journal.leave()
            else:
                is_interrupted = isinstance(error, KeyboardInterrupt)
                journal.end("interrupted" if is_interrupted else "failed", error=str(error))
            raise
        arrays, memory, status = self._ended
        summary = journal.end(status, memory=memory, judged=self._watch.summary())
        history = [record.line for record in journal.history]
        self.result = Result(history, arrays, summary, self.folder, self.simulation)

    def end(self, engine: Engine, handle: Handle, *, status: str) -> None:
        """Write the final weights, those of a handle, and say how the run has ended."""
        self.clock.enter("finish")
        weights = self.simulation.complete(engine.get_weights(handle))
        self.checkpoints.require_held()
        write_weights(self.folder, weights)
        write_files(self.folder, self.simulation.files(weights))
        if self._best is not None:
            self._best.finish(engine, self.simulation.files)
        if self._watch.reason is not None:
            notify(f"the run ends after round {self._round}: {self._watch.reason}")
        self._ended = weights.to_numpy(), engine.peak_memory(), status

    def rounds(self) -> Iterator[RoundRecord]:
        """Run the rounds that are left; yield the record of each when it is done.

        Rounds that are repeated after a loss are yielded again, with the same numbers.
        """
        for done in self._done:
            self._go_on(done)
            yield done.record

    def to_end(self) -> Result:
        """Run all rounds that are left."""
        self._in_series = True
        with self.started():
            for _ in self.rounds():
                pass
        return self.result

    @property
    def reason_to_stop(self) -> str | None:
        """Why the run ends early, after the last round; None: it goes on."""
        return self._watch.reason

    @property
    def num_rounds(self) -> int:
        """How many rounds the history has."""
        return len(self._journal.history)

    @property
    def _is_complete(self) -> bool:
        is_last = self._round == self.simulation.scenario.rounds
        return is_last or self._watch.reason is not None

    def _past(self) -> list[RoundRecord]:
        """Check that the run can be resumed, and return the records of the finished rounds."""
        simulation, checkpoints = self.simulation, self.checkpoints
        found = self.found = checkpoints.checked(self.found, simulation)
        history = read_history(self.folder, self._round)
        checkpoints.require_history(found, history)
        return self._judged(history)

    def _judged(self, history: list[RoundRecord]) -> list[RoundRecord]:
        """Judge the finished rounds; return their records, without what only a last one has."""
        simulation = self.simulation
        scenario = simulation.scenario
        rules = rules_of(scenario, better_values(simulation))
        shorter = history  # a loop of one's own evaluates when it likes
        if not self.checkpoints.is_loop:
            shorter = without_last_evaluation(history, scenario.evaluation)
        is_over = self._round == scenario.rounds or Watch(rules, shorter).reason is not None
        history = history if is_over else shorter
        self._watch = Watch(rules, history)
        if rules.best is not None:
            self._best = BestWeights(
                self.folder,
                self._watch,
                scenario.checkpoint,
                lambda shared: self.simulation.complete(shared),  # by then without the examples
            )
            self._best.require_stored()
        return history

    def _make_journal(self, history: list[RoundRecord]) -> Journal:
        for note in self.simulation.notes:
            notify(note)
        observers = _make_observers(self.simulation.scenario, self.folder, self._options)
        last = FailSafeObserver(
            SummaryFile(self.folder), SUMMARY_FILE, out=self.folder, notify=notify
        )
        client = self.simulation.client
        return Journal(
            observers,
            last,
            history=history,
            clock=self.clock,
            base_bytes=client.fixed_bytes,
            base_digest=client.base_digest,
        )

    @contextmanager
    def _engine(self) -> Iterator[Engine]:
        self.clock.enter("start")
        options = self._options
        engine = make_engine(
            self.simulation,
            options.backend,
            address=options.address,
            location=self.checkpoints.location,
            profile=options.profile,
            notify=notify,
            shared=options.shared,
        )
        with closing(engine):
            # Nothing else refers to the examples, so that this process releases their memory,
            # before the actors need theirs.
            self.simulation = self.simulation.without_examples()
            give_back_freed_memory()
            engine.open()
            with _profiled(engine, self.folder) if options.profile else nullcontext():
                yield engine

    def _start(self, engine: Engine) -> Generator[Done]:
        self._handle = engine.restore(self.found) if self._round else engine.start()
        return run_rounds(
            self.simulation,
            engine,
            self.checkpoints,
            handle=self._handle,
            round=self._round,
            sampled=self.found.checkpoint.sampler if self.found.checkpoint else None,
            clock=self.clock,
            watch=self._watch,
            best=self._best,
            in_series=self._in_series,
        )

    def _go_on(self, done: Done) -> None:
        self.note(done.record, done.clients)
        if self.checkpoints.is_due(done.record.round):
            self.note_history(done.record.round)
        self._round, self._handle = done.record.round, done.handle

    def note(self, record: RoundRecord, clients: ClientTable) -> None:
        """Add a round to the history, and notify the observers."""
        self.checkpoints.require_held()
        self._journal.add(record, clients)

    def judge(self, record: RoundRecord, handle: Handle) -> None:
        """Judge a round of a loop of one's own, and keep its weights if they are the best.

        Raises:
            InputError: if they are, and there is no handle.
        """
        self._watch.take(record)
        self._round = record.round
        if self._best is not None and self._watch.best_round() == record.round:
            if handle is None:
                raise InputError(
                    f"log: round {record.round} is the best by output.best, but nothing was "
                    f"evaluated after training; call log({record.round}, weights=...)"
                )
            self._best.note(record.round, handle)

    def store_best(self, engine: Engine, *, round: int, saved: Sequence[int]) -> None:
        """Write a loop's best weights before a checkpoint; ``saved`` are those before it."""
        if self._best is not None:
            self._best.store(engine, round=round, saved=saved)

    def note_history(self, round: int) -> None:
        """Have the next checkpoint identify the records of the rounds up to this one."""
        self._journal.flush()
        self.checkpoints.note_history(self._journal.history[:round])

    def _end_rounds(self, engine: Engine) -> None:
        """Finish what remains to be saved, however many rounds the caller asked for."""
        if not self._is_complete:
            self.checkpoints.finish(engine)
            return
        for done in self._done:
            self._go_on(done)

    def _info(self, engine: Engine) -> RunInfo:
        simulation = self.simulation
        return RunInfo(
            name=simulation.scenario.name or "run",
            rounds=simulation.scenario.rounds,
            population=len(simulation.participants),
            cohort_size=simulation.cohort_size,
            out=self.folder,
            workers=engine.describe(),
            num_actors=engine.num_actors,
            backend=self._options.backend,
            run_id=read_run_id(self.folder),
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
    for index, callback in enumerate(options.callbacks):
        observers[f"callbacks[{index}]"] = as_observer(callback)
    if options.backend == "ray":
        observers["metrics for Prometheus"] = RayMetrics(notify=notify)
    if options.progress:
        observers[PROGRESS] = make_progress(RunConsole(), names_folder=options.is_kept)
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
