"""From a scenario to a prepared Run in a folder: what is checked before anything is started."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from threading import Thread
from typing import Any, Literal

from simfl.checkpoint import Lease
from simfl.errors import InputError
from simfl.record import SCENARIO_FILE, record_units
from simfl.scenario import Objects, Scenario, Trust, load_scenario, own_address
from simfl.simulation.building import Simulation, build
from simfl.simulation.checkpoints import NOTHING, Checkpoints, hold
from simfl.simulation.evaluation import better_values, metric_units
from simfl.simulation.folder import (
    begin_run,
    checked_folder,
    delete_leftovers,
    extend_run,
    holds_run,
    is_done,
    make_folder,
    require_loop,
    require_own,
    require_writable,
    write_provenance,
)
from simfl.simulation.provenance import provenance_of
from simfl.simulation.rounds import PHASES, PhaseClock
from simfl.simulation.runner import Run, RunOptions, notify


def loaded(
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


def prepare(
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
        leases = hold_folder(scenario, folder, held)
    simulation = build(scenario, options.shared.read() if options.shared else None)
    resolved = simulation.scenario
    if folder is None or not continues:
        folder = make_folder(resolved, out)
        leases = hold_folder(resolved, folder, held)
    checkpoints = Checkpoints(resolved, folder, notify=notify, leases=leases, is_loop=is_loop)
    if resume == "never":
        checkpoints.require_none()
    if continues:
        extend_run(folder, resolved)
    else:
        units = record_units(PHASES) | metric_units(simulation)
        better = better_values(simulation)
        begin_run(folder, resolved, better=better, units=units, is_loop=is_loop)
    found = checkpoints.find() if resume == "auto" else NOTHING
    if not continues or found.checkpoint is None:
        write_provenance_aside(folder, simulation, held)
    return Run(simulation, folder, checkpoints, found, options=options, clock=clock)


def write_provenance_aside(folder: Path, simulation: Simulation, held: ExitStack) -> None:
    """Write where the numbers come from, while Ray starts: the digest of a GB takes a second."""
    found, dataset = provenance_of(simulation.scenario), simulation.dataset
    writing = Thread(target=lambda: write_provenance(folder, found.with_data(dataset)))
    writing.start()
    held.callback(writing.join)


def hold_folder(scenario: Scenario, folder: Path, held: ExitStack) -> list[Lease]:
    """Hold a run's folder, which no other process may write to, until ``held`` ends."""
    require_writable(folder)
    leases = hold(scenario, folder, held, notify=notify)
    delete_leftovers(folder)
    return leases


def prepare_resumed(
    folder: str | Path, options: RunOptions, held: ExitStack, objects: Objects, *, trust: Trust
) -> Run:
    """Check the run in a folder, to continue it.

    Args:
        folder: the run's.
        options: how to run it.
        held: releases the folder at its end.
        objects: those that the run was given, again.
        trust: as for ``loaded``; it concerns the scenario in the folder.
    """
    clock = PhaseClock("prepare")
    folder = checked_folder(folder)
    if not holds_run(folder):
        raise InputError(f"{folder} holds no run: there is no {SCENARIO_FILE} in it")
    require_loop(folder, is_loop=False)
    require_own(folder, objects)
    scenario = loaded(folder / SCENARIO_FILE, objects, address=options.address, trust=trust)
    if is_done(folder, scenario):
        raise InputError(f"the run in {folder} is done; there is nothing to resume")
    leases = hold_folder(scenario, folder, held)
    checkpoints = Checkpoints(scenario, folder, notify=notify, leases=leases)
    found = checkpoints.find()
    simulation = build(scenario)
    if found.checkpoint is None:  # all of its rounds are from here; the file may not be whole
        write_provenance_aside(folder, simulation, held)
    return Run(simulation, folder, checkpoints, found, options=options, clock=clock)
