"""run(scenario): the whole of it, from a scenario to a Result and a folder."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from simfl.cluster.pool import ClusterOptions
from simfl.engine import Engine, InlineEngine, device_for
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
from simfl.scenario.sections import ClusterSection
from simfl.simulation.build import Simulation, build
from simfl.simulation.folder import make_folder, write_weights
from simfl.simulation.rounds import run_rounds

__all__ = ["Backend", "Result", "run"]

Backend = Literal["inline", "ray"]


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
) -> Result:
    """Run a scenario to its end.

    Args:
        scenario: as ``load_scenario`` returns it, or what it takes.
        out: the run's folder; None: a new one under ``output.dir``.
        backend: ``ray`` for actors, ``inline`` for this process; the numbers are the same.
        address: of a Ray cluster, instead of ``cluster.address``.
        progress: whether to show how it goes on the terminal.

    Raises:
        InputError: for a scenario that cannot run; nothing has been started then.
        RunError: if the run fails; its folder holds what came before.
    """
    if not isinstance(scenario, Scenario):
        scenario = load_scenario(scenario)
    began = time.perf_counter()
    simulation = build(scenario)
    folder = make_folder(scenario, out)
    observers = _observers(scenario, folder, progress=progress)
    journal = _Journal(observers, began)
    try:
        with closing(_make_engine(simulation, backend, address)) as engine:
            journal.start(_run_info(simulation, engine, folder))
            for record in run_rounds(simulation, engine):
                journal.add(record)
            weights = engine.get_weights()
            write_weights(folder, weights)
    except BaseException as error:
        journal.end(status="interrupted" if _is_interrupt(error) else "failed", error=str(error))
        raise
    summary = journal.end(status="done")
    return Result(journal.history, weights.to_numpy(), summary, folder)


class _Journal:
    """Keeps the history, and tells the observers of it."""

    def __init__(self, observers: Sequence[Observer], began: float) -> None:
        self._observers = observers
        self._began = began
        self._first_round_s: float | None = None
        self.history: list[RoundRecord] = []

    def start(self, info: RunInfo) -> None:
        for observer in self._observers:
            observer.on_run_start(info)

    def add(self, record: RoundRecord) -> None:
        if self._first_round_s is None:
            self._first_round_s = time.perf_counter() - self._began
        self.history.append(record)
        for observer in self._observers:
            observer.on_round(record)

    def end(self, *, status: str, error: str | None = None) -> Summary:
        summary: Summary = {
            "status": status,
            "rounds": len(self.history),
            "wall_seconds": time.perf_counter() - self._began,
            "seconds_to_first_round": self._first_round_s,
            "final": _final(self.history),
            "dropped": sum(record["dropped"] for record in self.history),
        }
        if error is not None:
            summary["error"] = error
        for observer in self._observers:
            observer.on_run_end(summary)
        return summary


def _final(history: Sequence[RoundRecord]) -> dict[str, float]:
    """Return the train loss and each metric as they were last measured."""
    counts = {"round", "seconds", "clients", "dropped", "examples", "steps", "delta_norm"}
    latest: RoundRecord = {}
    for record in history:
        latest |= record
    return {name: value for name, value in latest.items() if name not in counts}


def _make_engine(simulation: Simulation, backend: Backend, address: str | None) -> Engine:
    scenario = simulation.scenario
    options = _cluster_options(scenario.cluster, address)
    if backend == "inline":
        device = device_for("the inline backend", uses_gpu=options.num_gpus > 0)
        return InlineEngine(
            simulation.server.build(),
            simulation.client.build(simulation.dataset, device=device),
            chunk_size=options.chunk_size,
            threads=options.threads,
        )
    from simfl.cluster.start import start_ray_engine

    return start_ray_engine(
        options=options,
        server=simulation.server,
        client=simulation.client,
        dataset=simulation.dataset,
        cohort_size=simulation.cohort_size,
        run_name=f"simfl-{uuid.uuid4().hex[:8]}",
        plugins=scenario.plugins,
        search=scenario.search,
    )


def _cluster_options(cluster: ClusterSection, address: str | None) -> ClusterOptions:
    return ClusterOptions(
        actors=None if cluster.actors == "auto" else cluster.actors,
        placement=cluster.placement,
        address=address or cluster.address,
        num_cpus=cluster.num_cpus,
        num_gpus=cluster.num_gpus,
        threads=cluster.threads,
        chunk_size=None if cluster.chunk_size == "auto" else cluster.chunk_size,
        dashboard=cluster.dashboard,
        max_retries=cluster.max_retries,
        stall_limit_s=cluster.stall_limit_s,
    )


def _run_info(simulation: Simulation, engine: Engine, folder: Path) -> RunInfo:
    return RunInfo(
        name=simulation.scenario.name or "run",
        rounds=simulation.scenario.rounds,
        population=simulation.population,
        cohort_size=simulation.cohort_size,
        out=folder,
        workers=engine.describe(),
    )


def _observers(scenario: Scenario, folder: Path, *, progress: bool) -> list[Observer]:
    observers: list[Observer] = [JsonLines(folder)]
    if scenario.output.tensorboard:
        observers.append(TensorBoard(folder))
    if progress:
        from rich.console import Console

        observers.append(make_progress(Console()))
    return observers


def _is_interrupt(error: BaseException) -> bool:
    return isinstance(error, KeyboardInterrupt)
