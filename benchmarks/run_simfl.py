"""simfl as a contestant: a run that trains some rounds in each of its turns."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from turns import RoundTime, Turns
from workloads import find_workload

import simfl
from simfl.cluster.ahead import starting_ahead
from simfl.engine import give_back_freed_memory
from simfl.scenario import Scenario
from simfl.simulation import Simulation, build
from simfl.simulation.backends import Backend, make_engine
from simfl.simulation.checkpoints import Checkpoints
from simfl.simulation.rounds import run_rounds

__all__ = ["SimflRun"]


class SimflRun:
    """A run that trains rounds on request.

    Args:
        plain: the scenario.
        folder: where checkpoints would be.
        backend: ``ray`` or ``inline``.
        overrides: of the scenario's keys, as ``simfl run --set`` takes them.
        build: makes of the scenario what runs.
    """

    def __init__(
        self,
        plain: dict[str, Any],
        folder: Path,
        *,
        backend: Backend = "ray",
        overrides: tuple[str, ...] = (),
        build: Callable[[Scenario], Simulation] = build,
    ) -> None:
        with starting_ahead(backend, None):  # as in a run
            scenario = simfl.load_scenario(plain, overrides=overrides)
            simulation = build(scenario)
            checkpoints = Checkpoints(scenario, folder, notify=print)
            location = checkpoints.location
            self._engine = make_engine(simulation, backend, address=None, location=location)
        # As in a run: the engine has the examples.
        self._simulation, self._checkpoints = simulation.without_examples(), checkpoints
        give_back_freed_memory()
        self._engine.open()
        self._handle, self._done = self._engine.start(), 0

    def run_round(self) -> RoundTime:
        """Run the next round."""
        return self.run_turn(1)[0]

    def run_turn(self, rounds: int) -> list[RoundTime]:
        """Run the next rounds, as a run that ends after them; return what each took.

        The seconds of a round are those of its record, which add up to those of the turn.
        """
        begun, self._done = self._done, self._done + rounds
        scenario = replace(self._simulation.scenario, rounds=self._done)
        simulation = replace(self._simulation, scenario=scenario)
        times = []
        for one in run_rounds(
            simulation,
            self._engine,
            self._checkpoints,
            handle=self._handle,
            round=begun,
            in_series=True,
        ):
            self._handle = one.handle  # the one before is freed
            times.append(RoundTime(one.record.seconds, float(one.record["train_loss"])))
        return times

    def get_weights(self) -> dict[str, Any]:
        """Return the weights after the last round, as numpy arrays by name."""
        return self._engine.get_weights(self._handle).to_numpy()

    def close(self) -> None:
        """End its actors."""
        self._engine.close()


def main(
    workload: Annotated[str, typer.Argument(help="Its name, or the .json file of a scenario.")],
    rounds: Annotated[int, typer.Option(help="How many at most.")] = 100_000,
    scale: Annotated[float, typer.Option(help="Shrinks every count.")] = 1.0,
    set: Annotated[list[str] | None, typer.Option(help="KEY=VALUE of the scenario.")] = None,
    backend: Annotated[str, typer.Option(help="ray or inline")] = "ray",
) -> None:
    """Take turns."""
    if workload.endswith(".json"):
        plain = json.loads(Path(workload).read_text())
    else:
        plain = find_workload(workload, scale=scale).scenario(rounds=rounds)
    chosen: Backend = "inline" if backend == "inline" else "ray"
    with tempfile.TemporaryDirectory(prefix="simfl-bench-") as name:
        run = SimflRun(plain, Path(name), backend=chosen, overrides=tuple(set or ()))
        with closing(run):
            turns = Turns()
            while turns.wait():
                for one in run.run_turn(turns.left):
                    turns.add(*one)


if __name__ == "__main__":
    typer.run(main)
