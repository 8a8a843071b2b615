"""run and resume: from a scenario to a Result and a folder."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console

from simfl.checkpoint import Found
from simfl.engine import Engine, require_profiler
from simfl.errors import InputError
from simfl.observers import (
    JsonLines,
    Observer,
    RoundRecord,
    RunInfo,
    Summary,
    TensorBoard,
    make_progress,
)
from simfl.scenario import Scenario, load_scenario
from simfl.simulation.backends import Backend, make_engine
from simfl.simulation.build import Simulation, build
from simfl.simulation.checkpoints import NOTHING, Checkpoints
from simfl.simulation.folder import (
    SCENARIO_FILE,
    extend_run,
    holds_run,
    is_done,
    make_folder,
    read_history,
    write_weights,
)
from simfl.simulation.journal import Journal
from simfl.simulation.profile import profiled
from simfl.simulation.rounds import run_rounds

__all__ = ["Result", "resume", "run"]


@dataclass(frozen=True)
class Result:
    """What a run has brought."""

    history: list[RoundRecord]
    """One dict a round: ``round``, ``seconds`` of wall time, ``train_loss``, and metrics when
    evaluated. The lines of ``metrics.jsonl``."""
    weights: dict[str, np.ndarray[Any, Any]]
    """The final weights by name."""
    summary: Summary
    """As in ``summary.json``."""
    out: Path
    """The run's folder."""


def run(
    scenario: Scenario | Mapping[str, Any] | str | Path,
    out: str | Path | None = None,
    backend: Backend = "ray",
    *,
    address: str | None = None,
    progress: bool = False,
    resume: Literal["never", "auto"] = "never",
    profile: bool = False,
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

    Raises:
        InputError: for a scenario that cannot run; nothing has been started then.
        RunError: if the run fails; its folder holds what came before.
    """
    if profile:
        require_profiler()
    if not isinstance(scenario, Scenario):
        scenario = load_scenario(scenario)
    simulation = build(scenario)
    if resume == "auto" and out is not None and holds_run(Path(out)):
        folder = Path(out)
        extend_run(folder, scenario)
    else:
        folder = make_folder(scenario, out)
    checkpoints = _checkpoints(scenario, folder)
    if resume == "never":
        checkpoints.require_none()
    found = checkpoints.find() if resume == "auto" else NOTHING
    return _run(simulation, folder, checkpoints, found, backend, address, progress, profile)


def resume(
    folder: str | Path,
    backend: Backend = "ray",
    *,
    address: str | None = None,
    progress: bool = False,
) -> Result:
    """Go on with a run that was stopped, from its last checkpoint or else from its start.

    The numbers are those of a run that was never stopped.

    Args:
        folder: the run's.
        backend: as for ``run``; it may be another one than before.
        address: as for ``run``.
        progress: as for ``run``.

    Raises:
        InputError: if the folder holds no run, or one that is done.
        RunError: if the run fails.
    """
    folder = Path(folder)
    if not (folder / SCENARIO_FILE).exists():
        raise InputError(f"{folder} holds no run: there is no {SCENARIO_FILE} in it")
    scenario = load_scenario(folder / SCENARIO_FILE)
    if is_done(folder, scenario):
        raise InputError(f"the run in {folder} is done; there is nothing to go on with")
    checkpoints = _checkpoints(scenario, folder)
    found = checkpoints.find()
    return _run(build(scenario), folder, checkpoints, found, backend, address, progress)


def _run(
    simulation: Simulation,
    folder: Path,
    checkpoints: Checkpoints,
    found: Found,
    backend: Backend,
    address: str | None,
    progress: bool,
    profile: bool = False,
) -> Result:
    done = found.checkpoint.round if found.checkpoint else 0
    history = read_history(folder, done)
    observers = _observers(simulation.scenario, folder, progress=progress)
    journal = Journal(observers, history=history)
    try:
        location = checkpoints.location
        engine = make_engine(
            simulation, backend, address=address, location=location, profile=profile
        )
        with closing(engine), profiled(engine, folder) if profile else nullcontext():
            journal.start(_run_info(simulation, engine, folder, history=tuple(history)))
            handle = engine.restore(found) if done else engine.start()
            rounds = run_rounds(simulation, engine, checkpoints, handle=handle, round=done)
            for record, following in rounds:
                journal.add(record)
                handle = following
            weights = engine.get_weights(handle)
            write_weights(folder, weights)
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        journal.end(status="interrupted" if interrupted else "failed", error=str(error))
        raise
    summary = journal.end(status="done")
    return Result(journal.history, weights.to_numpy(), summary, folder)


def _checkpoints(scenario: Scenario, folder: Path) -> Checkpoints:
    console = Console(stderr=True)
    return Checkpoints(
        scenario, folder, tell=lambda line: console.print(line, highlight=False, markup=False)
    )


def _run_info(
    simulation: Simulation, engine: Engine, folder: Path, *, history: tuple[RoundRecord, ...]
) -> RunInfo:
    return RunInfo(
        name=simulation.scenario.name or "run",
        rounds=simulation.scenario.rounds,
        population=simulation.population,
        cohort_size=simulation.cohort_size,
        out=folder,
        workers=engine.describe(),
        history=history,
    )


def _observers(scenario: Scenario, folder: Path, *, progress: bool) -> list[Observer]:
    observers: list[Observer] = [JsonLines(folder)]
    if scenario.output.tensorboard:
        observers.append(TensorBoard(folder))
    if progress:
        observers.append(make_progress(Console()))
    return observers
