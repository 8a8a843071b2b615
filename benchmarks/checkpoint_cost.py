"""The time that checkpoints and killed actors cost.

The compared runs take turns, some rounds each, in one process and on one Ray cluster, so that
other load on the machine affects all alike. Medians over the turns are printed.

    python benchmarks/checkpoint_cost.py checkpoints
    python benchmarks/checkpoint_cost.py kills
"""

from __future__ import annotations

import random
import statistics
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from processes import kill, running_actors

import simfl
from simfl.simulation import build
from simfl.simulation.backends import make_engine
from simfl.simulation.checkpoints import Checkpoints
from simfl.simulation.rounds import run_rounds

app = typer.Typer(add_completion=False, no_args_is_help=True)

_QUICKSTART: dict[str, Any] = {
    "rounds": 100_000,  # more than are ever run
    "data": {
        "source": "digits",
        "test_fraction": 0.2,
        "partition": {"kind": "dirichlet", "clients": 100, "alpha": 0.3},
    },
    "model": {"kind": "mlp", "hidden": [64]},
    "client": {"per_round": 10, "epochs": 5, "batch_size": 10, "optimizer": {"lrate": 0.1}},
    "evaluation": {"every": 5},
    # Three runs share the cluster, and each has its turn while the others are idle.
    "cluster": {"actors": 2, "num_cpus": 0},
}
_SCAFFOLD: dict[str, Any] = {
    "client": _QUICKSTART["client"] | {"optimizer": {"lrate": 0.1, "modules": ["scaffold-client"]}},
    "server": {"optimizer": {"modules": ["scaffold-server"]}},
}
_CASES: dict[str, dict[str, Any]] = {
    "quickstart, 5 k": _QUICKSTART,
    "with SCAFFOLD": _QUICKSTART | _SCAFFOLD,
    "large, 1.6 M": _QUICKSTART | {"model": {"kind": "mlp", "hidden": [1240, 1240]}},
}
"""By a name that says how many parameters the model has."""

_POLL_S = 0.05


class Run:
    """A run on Ray that advances on request."""

    def __init__(self, plain: Mapping[str, Any], folder: Path, *, every: int) -> None:
        scenario = simfl.load_scenario({**plain, "checkpoint": {"every": every}})
        simulation = build(scenario)
        checkpoints = Checkpoints(scenario, folder, notify=print)
        location = checkpoints.location
        self.engine = make_engine(simulation, "ray", address=None, location=location)
        self.engine.open()
        handle = self.engine.start()
        self._rounds = run_rounds(simulation, self.engine, checkpoints, handle=handle)
        self.take_turn(1)

    def take_turn(self, rounds: int) -> float:
        """Run rounds; return the seconds that they took, until their checkpoints are on disk."""
        began = time.perf_counter()
        for _ in range(rounds):
            next(self._rounds)
        self.engine.flush()
        return time.perf_counter() - began


@app.command()
def checkpoints(
    rounds: Annotated[int, typer.Option(help="Rounds a turn.")] = 20,
    turns: Annotated[int, typer.Option(help="Turns of each run.")] = 5,
) -> None:
    """Compare no checkpoints with one after every tenth round, and after every round."""
    print("milliseconds a round, and times that without checkpoints")
    print(f"{'model':<16} {'none':>8} {'every: 10':>16} {'every: 1':>16}")
    for name, plain in _CASES.items():
        none, tenth, each = _compare(plain, (0, 10, 1), rounds=rounds, turns=turns)
        ratios = "".join(f" {ms:>8.1f} {ms / none:5.2f} x" for ms in (tenth, each))
        print(f"{name:<16} {none:>8.1f}{ratios}", flush=True)


@app.command()
def kills(
    rounds: Annotated[int, typer.Option(help="Rounds a turn; one kill in it.")] = 60,
    turns: Annotated[int, typer.Option(help="Turns of each kind.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the kills.")] = 0,
) -> None:
    """Measure what a killed actor costs: a turn with one kill, less one without."""
    rng = random.Random(seed)
    kinds: tuple[str | None, ...] = (None, "ClientActor", "ServerActor")
    times: dict[str | None, list[float]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory(prefix="simfl-cost-") as name, ExitStack() as stack:
        run = Run(_QUICKSTART, Path(name), every=10)
        stack.callback(run.engine.close)
        for kind in kinds * turns:
            # In the turn's first half: its effects are to end within it.
            delay_s = rng.uniform(0, 0.5) * statistics.median(times[None] or [0.0])
            times[kind].append(_take_turn_under_fire(run, kind, delay_s, rounds=rounds))
    calm_s = statistics.median(times[None])
    print(f"a turn of {rounds} rounds without a kill: {calm_s:.1f} s")
    for kind in ("ClientActor", "ServerActor"):
        lost_s = [seconds - calm_s for seconds in times[kind]]
        print(
            f"a killed {kind} costs {statistics.median(lost_s):.1f} s "
            f"({min(lost_s):.1f} to {max(lost_s):.1f} in {turns} turns)"
        )


def _compare(
    plain: Mapping[str, Any], settings: Sequence[int], *, rounds: int, turns: int
) -> list[float]:
    """Return the milliseconds a round for each setting of ``checkpoint.every``."""
    with tempfile.TemporaryDirectory(prefix="simfl-cost-") as name, ExitStack() as stack:
        runs: list[Run] = []
        for every in settings:
            runs.append(Run(plain, Path(name, str(every)), every=every))
            stack.callback(runs[-1].engine.close)
        times = [[run.take_turn(rounds) for run in runs] for _ in range(turns)]
    return [1000 * statistics.median(column) / rounds for column in zip(*times, strict=True)]


def _take_turn_under_fire(run: Run, kind: str | None, delay_s: float, *, rounds: int) -> float:
    if kind is None:
        return run.take_turn(rounds)
    before = {kind: len(found) for kind, found in running_actors().items()}
    timer = threading.Timer(delay_s, _shoot, [kind])
    timer.start()
    seconds = run.take_turn(rounds)
    timer.join()
    while {kind: _count_idle(kind) for kind in before} != before:
        time.sleep(_POLL_S)
    return seconds


def _shoot(kind: str) -> None:
    assert kill(running_actors()[kind][-1]), f"there was no {kind} to be killed"


def _count_idle(kind: str) -> int:
    """Return how many actors are there and wait for work; others are being made."""
    return sum(process.title == f"ray::{kind}" for process in running_actors()[kind])


if __name__ == "__main__":
    app()
