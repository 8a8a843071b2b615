"""What the table of clients costs: 10,000 clients in each of 1,000 rounds.

The run is one in which a client does as little as a client can: one step of logistic regression on
four examples, in one process. Rounds of it take turns with the writing of rows, 10,000 a round and
as different as random numbers are, flushed after every tenth round as for a checkpoint. Printed are
the seconds of both, by the wall and by the process's own clock, and what 1,000 rounds of the one
are to 1,000 rounds of the other; then the table's size, and how long it takes to ask it something.

A thousand rounds of the run would take hours, so there is one a turn; the table has all of them.

    python benchmarks/client_table.py
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import typer

import simfl
from simfl.observers import CLIENTS_FILE, ClientFiles, ClientTable, RunInfo
from simfl.record import RoundRecord
from simfl.simulation import build, run_rounds
from simfl.simulation.backends import make_engine
from simfl.simulation.checkpoints import Checkpoints

CLIENTS = 10_000
SAVED_EVERY = 10
_LIMIT = 0.02

_SCENARIO: dict[str, Any] = {
    "rounds": 1_000,
    "data": {"source": "synthetic", "clients": CLIENTS, "min_examples": 4, "max_examples": 4},
    "model": {"kind": "logistic"},
    "client": {"steps": 1, "batch_size": 4, "optimizer": {"lrate": 0.1}},
    "checkpoint": {"every": 0},
}


def main(
    rounds: Annotated[int, typer.Option(help="Rounds of the table.")] = 1_000,
    turns: Annotated[int, typer.Option(help="Rounds of the run.")] = 5,
) -> None:
    """Measure, print, and fail if the table costs more than 2 % of the run."""
    with tempfile.TemporaryDirectory() as folder:
        share = _compare(Path(folder), rounds=rounds, turns=turns)
        _ask(Path(folder) / CLIENTS_FILE)
    print("PASS" if share < _LIMIT else "FAIL")
    raise typer.Exit(int(share >= _LIMIT))


def _compare(out: Path, *, rounds: int, turns: int) -> float:
    """Run and write in turns; return the larger share of the two clocks."""
    scenario = simfl.load_scenario(_SCENARIO)
    simulation, checkpoints = build(scenario), Checkpoints(scenario, out, notify=print)
    engine = make_engine(simulation, "inline", address=None, location=checkpoints.location)
    engine.open()
    run = run_rounds(simulation, engine, checkpoints, handle=engine.start())
    example = next(run).clients
    files = ClientFiles(out)
    files.on_run_start(_info(out))
    trained, written = [], []
    for turn in range(turns):
        trained.append(_timed(lambda: next(run)))
        first = 1 + turn * rounds // turns
        tables = [_varied(example, first + number) for number in range(rounds // turns)]
        written.append(_timed(lambda tables=tables: _write(files, tables)))
    engine.close()
    shares = []
    for clock, name in enumerate(("wall", "process")):
        run_s = statistics.median(seconds[clock] for seconds in trained)
        table_s = sum(seconds[clock] for seconds in written) / rounds
        shares.append(table_s / run_s)
        print(
            f"{name:<8} a round of the run {run_s:6.2f} s, of the table {1e3 * table_s:5.2f} ms: "
            f"{100 * table_s / run_s:.3f} %"
        )
    return max(shares)


def _info(out: Path) -> RunInfo:
    return RunInfo(
        name="table", rounds=1, population=CLIENTS, cohort_size=CLIENTS, out=out, workers="here"
    )


def _varied(example: ClientTable, round: int) -> ClientTable:
    """Return a round in which every number of the example is another one."""
    rng = np.random.default_rng(round)
    names = ("train_loss", "first_loss", "last_loss", "delta_norm", "seconds")
    columns = {name: getattr(example, name) * rng.uniform(0.5, 2, CLIENTS) for name in names}
    return replace(
        example,
        round=round,
        client=rng.permutation(CLIENTS),
        num_examples=rng.integers(1, 1000, CLIENTS),
        num_steps=rng.integers(1, 100, CLIENTS),
        actor=rng.integers(0, 4, CLIENTS),
        actors=("client-0", "client-1", "client-2", "client-3"),
        **columns,
    )


def _write(files: ClientFiles, tables: list[ClientTable]) -> None:
    for table in tables:
        files.on_round(RoundRecord(table.round), table)
        if table.round % SAVED_EVERY == 0:
            files.flush()
    files.flush()


def _timed(call: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds by the wall and by the process's own clock."""
    wall, process = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - process


def _ask(table: Path) -> None:
    files = list(table.iterdir())
    num_rows = sum(pq.read_metadata(path).num_rows for path in files)
    size = sum(path.stat().st_size for path in files)
    print(f"{num_rows:,} rows in {len(files)} files, {size / 1e6:.0f} MB")
    questions: dict[str, Callable[[], object]] = {
        "one client's losses by round": lambda: pq.read_table(
            table, columns=["round", "train_loss"], filters=pc.field("client") == 17
        ),
        "the mean loss of each round": lambda: (
            pq.read_table(table, columns=["round", "train_loss"])
            .group_by("round")
            .aggregate([("train_loss", "mean")])
        ),
        "the seconds of each actor": lambda: (
            pq.read_table(table, columns=["actor", "seconds"])
            .group_by("actor")
            .aggregate([("seconds", "sum")])
        ),
        "all of one round": lambda: pq.read_table(table, filters=pc.field("round") == 500),
        "everything": lambda: pq.read_table(table),
    }
    for name, ask in questions.items():
        print(f"{name:<30} {_timed(ask)[0]:.2f} s")


if __name__ == "__main__":
    typer.run(main)
