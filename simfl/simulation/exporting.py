"""export: a checkpoint's weights as files, for other programs and as the start of other runs."""

from __future__ import annotations

from pathlib import Path

from simfl.checkpoint import Checkpoint
from simfl.errors import InputError
from simfl.record import SCENARIO_FILE
from simfl.scenario import Trust, load_scenario
from simfl.simulation.building import Simulation, build
from simfl.simulation.checkpoints import Checkpoints
from simfl.simulation.folder import (
    checked_folder,
    holds_run,
    require_writable,
    write_files,
    write_weights,
)
from simfl.simulation.runner import notify
from simfl.states import StateFile, load_state
from simfl.vector import Vector


def export(
    folder: str | Path,
    out: str | Path | None = None,
    *,
    round: int | None = None,
    client: int | None = None,
    trust: Trust = "all",
) -> Path:
    """Write the weights that a run had after a round, as ``weights.safetensors`` and ``adapter``.

    Nothing in the run's folder is changed, and the run may still be running.

    Args:
        folder: of a run with checkpoints.
        out: where to write; None: ``export/round-000010`` in the run's folder, with ``-client-3``.
        round: after which round, of those with a checkpoint; None: the last one.
        client: with the personal weights that this client had then; None: their initial values.
        trust: ``none`` refuses a scenario that would run code of its author's.

    Returns:
        The folder with the files.

    Raises:
        InputError: if there is no such checkpoint, or it is not that of the run's data and base.
    """
    folder = checked_folder(folder)
    if not holds_run(folder):
        raise InputError(f"{folder} holds no run: there is no {SCENARIO_FILE} in it")
    scenario = load_scenario(folder / SCENARIO_FILE, trust=trust)
    checkpoints = Checkpoints(scenario, folder, notify=notify)
    found = checkpoints.read(round)
    simulation = build(scenario)
    checkpoint = checkpoints.checked(found, simulation).checkpoint
    assert checkpoint is not None
    weights = simulation.complete(checkpoint.weights)
    name = f"round-{checkpoint.round:06d}"
    if client is not None:
        weights = weights | _personal(simulation, checkpoint, client, checkpoints.location)
        name += f"-client-{client}"
    place = folder / "export" / name if out is None else checked_folder(out)
    require_writable(place)
    write_weights(place, weights)
    write_files(place, simulation.files(weights))
    return place


def _personal(simulation: Simulation, checkpoint: Checkpoint, client: int, location: str) -> Vector:
    """Return a client's own values of personal weights; without names if it has not trained."""
    if not simulation.client.personal:
        raise InputError(
            "clients of this run have no weights of their own, since model.personal is empty; "
            "leave out the client"
        )
    if not 0 <= client < simulation.population:
        raise InputError(
            f"there is no client {client}; clients count from 0 to {simulation.population - 1}"
        )
    if client not in checkpoint.states:
        notify(f"client {client} has not trained yet; its personal weights are the initial ones")
        return Vector({})
    state = load_state(StateFile(location, checkpoint.states[client], client))
    return Vector({}) if state.personal is None else state.personal
