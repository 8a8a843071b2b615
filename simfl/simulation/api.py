"""run, run_by_round, resume and federation: from a scenario to a prepared Run in a folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, Unpack

from simfl.checkpoint import Lease
from simfl.engine import require_profiler
from simfl.errors import InputError
from simfl.observers import Callback
from simfl.record import SCENARIO_FILE, record_units
from simfl.scenario import (
    Baseline,
    Objects,
    Scenario,
    Trust,
    baseline_of,
    load_scenario,
    own_address,
)
from simfl.simulation.backends import Backend
from simfl.simulation.build import build
from simfl.simulation.checkpoints import NOTHING, Checkpoints, hold
from simfl.simulation.evaluation import better_values, metric_units
from simfl.simulation.folder import (
    begin_run,
    checked_folder,
    extend_run,
    holds_run,
    is_done,
    make_folder,
    require_loop,
    require_own,
    require_writable,
    write_provenance,
)
from simfl.simulation.loop import Federation
from simfl.simulation.provenance import provenance_of
from simfl.simulation.results import Result
from simfl.simulation.rounds import PHASES, PhaseClock
from simfl.simulation.runner import Run, RunOptions, notify


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
    callbacks: Sequence[Callback] = (),
    baseline: Baseline | None = None,
    **objects: Unpack[Objects],
) -> Result:
    """Run a scenario to its end.

    >>> simfl.run("quickstart", model=net, data=(x, y, clients))    # doctest: +SKIP

    Args:
        scenario: as returned by ``load_scenario``, or an argument for it.
        out: the run's folder; None: a new one under ``output.dir``.
        backend: ``ray`` for actors, ``inline`` for this process; the numbers are the same.
        address: of a Ray cluster, instead of ``cluster.address``.
        progress: whether to show the progress on the terminal.
        resume: ``auto`` continues from the last checkpoint if the folder ``out`` holds a run.
        profile: whether to write flame graphs of all processes, and Ray's timeline, into
            ``profile`` in the folder.
        trust: ``none`` refuses a scenario that would run code of its author's. A scenario that is
            already loaded is taken as it is.
        callbacks: called after each round with its record, a mapping; or observers.
        baseline: ``centralized`` or ``local`` runs this baseline of the scenario instead.
        **objects: ``model``, ``loss``, ``data``, ``algorithm`` and ``aggregator`` as objects of
            Python, which replace what the scenario says; see ``simfl.scenario.Objects``.

    Raises:
        InputError: for a scenario that cannot run; nothing has been started then.
        RunError: if the run fails; its folder holds the rounds before the failure.
    """
    if profile:
        require_profiler()
    clock = PhaseClock("prepare")
    scenario = _loaded(scenario, objects, address=address, trust=trust)
    scenario = scenario if baseline is None else baseline_of(scenario, baseline)
    options = RunOptions(backend, address, progress, profile, callbacks=tuple(callbacks))
    with ExitStack() as held:
        return _prepare(scenario, out, options, clock, held, resume=resume).to_end()


@contextmanager
def run_by_round(
    scenario: Scenario | Mapping[str, Any] | str | Path,
    out: str | Path | None = None,
    backend: Backend = "ray",
    *,
    address: str | None = None,
    progress: bool = False,
    resume: Literal["never", "auto"] = "never",
    trust: Trust = "all",
    callbacks: Sequence[Callback] = (),
    **objects: Unpack[Objects],
) -> Iterator[Run]:
    """Start a run, for a caller that asks for its rounds.

    At the end of the block the run is finished, or stopped if rounds are left. The arguments and
    errors are those of ``run``.

    >>> with simfl.run_by_round("quickstart") as run:      # doctest: +SKIP
    ...     for record in run.rounds():
    ...         if record.train_loss < 0.1:
    ...             break
    >>> run.result.summary["status"]                      # doctest: +SKIP
    'stopped'
    """
    clock = PhaseClock("prepare")
    scenario = _loaded(scenario, objects, address=address, trust=trust)
    options = RunOptions(backend, address, progress, callbacks=tuple(callbacks))
    with ExitStack() as held:
        run = _prepare(scenario, out, options, clock, held, resume=resume)
        with run.started():
            yield run


@contextmanager
def open_run(
    scenario: Scenario, out: str | Path, options: RunOptions | None = None
) -> Iterator[Run]:
    """Start a run, or continue the one in its folder, for a caller that asks for its rounds.

    At the end of the block the run is finished, or stopped if rounds are left; see ``Run``.

    Args:
        scenario: the scenario to run.
        out: the run's folder.
        options: how to run it.

    Raises:
        SimflError: as ``run``.
    """
    clock = PhaseClock("prepare")
    with ExitStack() as held:
        run = _prepare(scenario, out, options or RunOptions(), clock, held, resume="auto")
        with run.started():
            yield run


@contextmanager
def federation(
    scenario: Scenario | Mapping[str, Any] | str | Path,
    backend: Backend = "ray",
    *,
    out: str | Path | None = None,
    address: str | None = None,
    progress: bool = False,
    resume: Literal["never", "auto"] = "never",
    trust: Trust = "all",
    callbacks: Sequence[Callback] = (),
    **objects: Unpack[Objects],
) -> Iterator[Federation]:
    """Open a scenario's federation, for a loop of one's own.

    The folder is that of a run: with the history that ``log`` writes, checkpoints by ``save``, and
    at the end of the block the weights.

    >>> with simfl.federation("quickstart", backend="inline") as fed:      # doctest: +SKIP
    ...     w = fed.initial_weights()
    ...     for r in fed.rounds:
    ...         total = fed.train(w, fed.sample(r), round=r)
    ...         w = w - total.mean
    ...         fed.log(r, **fed.evaluate(w))

    Args:
        scenario: as for ``run``.
        backend: as for ``run``.
        out: as for ``run``.
        address: as for ``run``.
        progress: as for ``run``.
        resume: ``auto`` has ``restore`` return what a loop in the folder ``out`` has saved last.
        trust: as for ``run``.
        callbacks: as for ``run``, called by ``log``.
        **objects: as for ``run``.

    Raises:
        SimflError: as ``run``.
    """
    clock = PhaseClock("prepare")
    scenario = _loaded(scenario, objects, address=address, trust=trust)
    options = RunOptions(backend, address, progress, callbacks=tuple(callbacks))
    with ExitStack() as held:
        run = _prepare(scenario, out, options, clock, held, resume=resume, is_loop=True)
        with run.opened() as engine:
            opened = Federation(run, engine)
            yield opened
            opened.close()


def resume(
    folder: str | Path,
    backend: Backend = "ray",
    *,
    address: str | None = None,
    progress: bool = False,
    trust: Trust = "all",
    callbacks: Sequence[Callback] = (),
    **objects: Unpack[Objects],
) -> Result:
    """Continue a run that was stopped, from its last checkpoint or else from its start.

    The numbers are those of a run that was never stopped.

    Args:
        folder: the run's.
        backend: as for ``run``; it may differ from the previous one.
        address: as for ``run``.
        progress: as for ``run``.
        trust: as for ``run``; it concerns the scenario in the folder.
        callbacks: as for ``run``.
        **objects: those that the run was given, again.

    Raises:
        InputError: if the folder holds no run, or one that is done.
        RunError: if the run fails.
    """
    clock = PhaseClock("prepare")
    folder = checked_folder(folder)
    if not holds_run(folder):
        raise InputError(f"{folder} holds no run: there is no {SCENARIO_FILE} in it")
    require_loop(folder, is_loop=False)
    require_own(folder, objects)
    scenario = _loaded(folder / SCENARIO_FILE, objects, address=address, trust=trust)
    if is_done(folder, scenario):
        raise InputError(f"the run in {folder} is done; there is nothing to resume")
    options = RunOptions(backend, address, progress, callbacks=tuple(callbacks))
    with ExitStack() as held:
        leases = _hold(scenario, folder, held)
        checkpoints = Checkpoints(scenario, folder, notify=notify, leases=leases)
        found = checkpoints.find()
        run = Run(build(scenario), folder, checkpoints, found, options=options, clock=clock)
        return run.to_end()


def _loaded(
    scenario: Scenario | Mapping[str, Any] | str | Path,
    objects: Objects,
    *,
    address: str | None,
    trust: Trust,
) -> Scenario:
    """Return a scenario with objects in place of what it says."""
    if not isinstance(scenario, Scenario):
        own = own_address(address, trust)
        return load_scenario(scenario, overrides=own, trust=trust, objects=objects)
    if not objects:
        return scenario
    return load_scenario(scenario.to_dict(), trust=scenario.trust, objects=objects)


def _prepare(
    scenario: Scenario,
    out: str | Path | None,
    options: RunOptions,
    clock: PhaseClock,
    held: ExitStack,
    *,
    resume: Literal["never", "auto"],
    is_loop: bool = False,
) -> Run:
    """Check a scenario, and write it into its folder.

    Args:
        scenario: as written.
        out: the run's folder; None: a new one.
        options: how to run it.
        clock: of the run.
        held: releases the folder at its end.
        resume: ``auto`` continues the run in the folder, if there is one.
        is_loop: whether it is a federation's.
    """
    if scenario.sweep is not None:
        raise scenario.fault(
            "sweep",
            "describes many runs; start them with 'simfl sweep', or set sweep to null for one",
        )
    folder = None if out is None or resume == "never" else checked_folder(out)
    continues = folder is not None and holds_run(folder)
    if folder is not None and continues:  # fail before loading the data
        require_loop(folder, is_loop=is_loop)
        leases = _hold(scenario, folder, held)
    simulation = build(scenario, options.shared.read() if options.shared else None)
    resolved = simulation.scenario
    if folder is None or not continues:
        folder = make_folder(resolved, out)
        leases = _hold(resolved, folder, held)
    checkpoints = Checkpoints(resolved, folder, notify=notify, leases=leases, is_loop=is_loop)
    if resume == "never":
        checkpoints.require_none()
    if continues:
        extend_run(folder, resolved)
    else:
        units = record_units(PHASES) | metric_units(simulation)
        better = better_values(simulation)
        begin_run(folder, resolved, better=better, units=units, is_loop=is_loop)
        write_provenance(folder, provenance_of(simulation))
    found = checkpoints.find() if resume == "auto" else NOTHING
    return Run(simulation, folder, checkpoints, found, options=options, clock=clock)


def _hold(scenario: Scenario, folder: Path, held: ExitStack) -> list[Lease]:
    require_writable(folder)
    return hold(scenario, folder, held, notify=notify)
