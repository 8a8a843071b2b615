"""What a round costs besides training, by client, chunk and actor, and how large clusters fare.

``measure`` runs rounds of clients that do not train (``resting.py``) on more and more actors of
this machine, and fits CPU seconds to what a round consists of. ``check`` compares simulated rounds
of clients that sleep (``simulated_cluster.py``) with real ones, ``predict`` simulates clusters that
are not at hand. docs/scaling.md has the figures.

    python benchmarks/scaling.py measure --json costs.json
    python benchmarks/scaling.py check --costs costs.json
    python benchmarks/scaling.py predict --costs costs.json
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer
from memory import pss_bytes
from processes import cpu_by_kind
from scipy.optimize import nnls
from simulated_cluster import CLUSTERS, WORKS, Cluster, Costs, Work, simulate
from workloads import make_single_examples

import simfl
from simfl.engine import Engine, Handle
from simfl.messages import RoundPlan
from simfl.observers import client_table
from simfl.simulation import build
from simfl.simulation.backends import make_engine

app = typer.Typer(add_completion=False, no_args_is_help=True)

_HERE = Path(__file__).resolve().parent
_POPULATION = 8192
_FEATURES = 16
_POOR = 0.25
"""The relative error from which a fit does not describe what was measured."""

Actors = Annotated[str, typer.Option(help="How many client actors, with commas.")]
CostsFile = Annotated[Path, typer.Option("--costs", help="Written by measure.")]


class Measured(NamedTuple):
    """The mean of some rounds of one size."""

    actors: int
    clients: int
    chunks: float
    mb: float
    """Of the weights."""
    seconds: float
    driver_s: float
    """CPU seconds of the driver."""
    server_s: float
    """CPU seconds of the server's actor."""
    actors_s: float
    """CPU seconds of the client actors."""
    pss_mb: float
    """Of all processes."""


@app.command()
def measure(
    actors: Actors = "2,8,32,64",
    cohorts: Annotated[str, typer.Option(help="Clients a round, with commas.")] = "64,512,4096",
    rounds: Annotated[int, typer.Option(min=1, help="Of each size.")] = 10,
    hidden: Annotated[str, typer.Option(help="Units of the model's hidden layer.")] = "8,1000000",
    file: Annotated[Path | None, typer.Option("--json", help="Where the costs go.")] = None,
) -> None:
    """Measure what a round costs besides training, and fit it."""
    sizes = [int(size) for size in cohorts.split(",")]
    small, large = (int(units) for units in hidden.split(","))
    rows = [
        row
        for count in map(int, actors.split(","))
        for row in _measure_sizes(count, sizes, rounds=rounds, hidden=small)
    ]
    rows += _measure_sizes(2, [8, 64], rounds=rounds, hidden=large)
    _tell(rows)
    costs, off = _fit(rows)
    for name, value in asdict(costs).items():
        print(f"{name:<24}{value:.3g}")
    _tell_fit(off)
    if file is not None:
        measured = [row._asdict() for row in rows]
        found = {"costs": asdict(costs), "off": off, "measured": measured}
        file.write_text(json.dumps(found, indent=1))


@app.command()
def check(
    costs: CostsFile,
    actors: Actors = "2,8,32,64",
    seconds: Annotated[float, typer.Option(help="How long a client sleeps.")] = 0.1,
    clients: Annotated[int, typer.Option(help="Of a round, per actor.")] = 8,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
) -> None:
    """Compare the seconds of real rounds with simulated ones."""
    known = _read(costs)
    print(f"{'actors':>7}{'clients':>9}{'ideal s':>9}{'measured':>10}{'simulated':>11}{'ratio':>7}")
    for count in map(int, actors.split(",")):
        cohort = clients * count
        (row,) = _measure_sizes(count, [cohort], rounds=rounds, hidden=8, rests=seconds)
        work = Work("sleeping", cohort, seconds, row.mb)
        # The actors' own work has as many cores as this machine has.
        cluster = Cluster(count, 1, cores=os.cpu_count() or 1)
        expected = simulate(work, cluster, known).seconds
        ratio = row.seconds / expected
        print(
            f"{count:>7}{cohort:>9}{seconds * clients:>9.3f}{row.seconds:>10.3f}"
            f"{expected:>11.3f}{ratio:>7.2f}"
        )


@app.command()
def predict(
    costs: CostsFile,
    combiners: Annotated[bool, typer.Option(help="Whether nodes add up their partials.")] = True,
) -> None:
    """Predict rounds per second and efficiency of clusters."""
    known = _read(costs)
    print(
        f"{'':<10}{'actors':>8}{'clients':>9}{'s a round':>11}{'efficiency':>12}"
        "   busiest besides the actors"
    )
    for work in WORKS:
        for cluster in CLUSTERS:
            grown = work.grown(cluster.actors)
            found = simulate(grown, replace(cluster, combiners=combiners), known)
            print(
                f"{work.name:<10}{cluster.actors:>8,}{grown.clients:>9,}{found.seconds:>11.3f}"
                f"{found.efficiency:>12.0%}   {found.describe()}"
            )


def _read(file: Path) -> Costs:
    """Return the costs, and tell how well they fit what was measured."""
    found = json.loads(file.read_text())
    _tell_fit(found["off"])
    return Costs(**found["costs"])


def _tell_fit(off: Mapping[str, float]) -> None:
    parts = ", ".join(f"{part} {error:.0%}" for part, error in off.items())
    print(f"the fit is off by (root mean square): {parts}")
    if poor := [part for part, error in off.items() if error > _POOR]:
        print(f"a poor fit: predictions that depend on {', '.join(poor)} mean little")


def _tell(rows: Sequence[Measured]) -> None:
    print(
        f"{'actors':>7}{'clients':>9}{'chunks':>8}{'MB':>7}{'s':>9}{'driver CPU':>12}"
        f"{'server CPU':>12}{'client CPU':>12}{'chunks/s':>10}{'PSS MB':>9}"
    )
    for r in rows:
        print(
            f"{r.actors:>7}{r.clients:>9,}{r.chunks:>8.0f}{r.mb:>7.1f}{r.seconds:>9.3f}"
            f"{r.driver_s:>12.4f}{r.server_s:>12.4f}{r.actors_s:>12.4f}"
            f"{r.chunks / r.seconds:>10.0f}{r.pss_mb:>9,.0f}"
        )


def _measure_sizes(
    actors: int, sizes: list[int], *, rounds: int, hidden: int, rests: float = 0.0
) -> list[Measured]:
    """Return the means of rounds of each size, after two that do not count."""
    rows, number = [], 0
    with _running(actors, hidden=hidden, rests=rests) as (engine, handle):
        for size in sizes:
            for count in (2, rounds):
                plans = [RoundPlan(number + i, tuple(range(size))) for i in range(1, count + 1)]
                number += count
                row, handle = _run(engine, handle, plans)
            rows.append(row._replace(actors=actors))
    return rows


@contextmanager
def _running(actors: int, *, hidden: int, rests: float) -> Iterator[tuple[Engine, Handle]]:
    """Start client actors that share this machine's processors."""
    plain = {
        "rounds": 1_000_000,
        "plugins": ["resting"],
        "search": [str(_HERE)],
        "data": {
            "source": "python",
            "path": f"workloads:{make_single_examples.__name__}",
            "arguments": {"clients": _POPULATION, "features": _FEATURES},
        },
        "model": {"kind": "mlp", "hidden": [hidden]},
        "algorithm": ["resting", {"seconds": rests}],
        "client": {"per_round": 1, "batch_size": 1, "optimizer": {"lrate": 0.1}},
        "evaluation": {"every": 0},
        "checkpoint": {"every": 0},
        "cluster": {"actors": actors, "num_cpus": (os.cpu_count() or 1) / actors},
    }
    simulation = build(simfl.load_scenario(plain))
    with tempfile.TemporaryDirectory(prefix="simfl-scaling-") as folder:
        engine = make_engine(simulation, "ray", address=None, location=folder)
        with closing(engine):
            engine.open()
            yield engine, engine.start()


def _run(engine: Engine, handle: Handle, plans: list[RoundPlan]) -> tuple[Measured, Handle]:
    """Run these rounds; return their mean."""
    before, began, chunks = cpu_by_kind(os.getpid()), time.perf_counter(), 0
    for plan in plans:
        report, trace, handle = engine.end_round(engine.train(plan, handle))
        client_table(plan.round, trace)
        chunks += len(trace.chunks)
    seconds, after = time.perf_counter() - began, cpu_by_kind(os.getpid())
    used = {kind: after[kind] - before.get(kind, 0.0) for kind in after}
    count, size = len(plans), len(plans[0].clients)
    return Measured(
        actors=0,
        clients=size,
        chunks=chunks / count,
        mb=report.received_bytes / 1e6 / size,
        seconds=seconds / count,
        driver_s=used[Path(__file__).name] / count,
        server_s=used["ServerActor"] / count,
        actors_s=used["ClientActor"] / count,
        pss_mb=pss_bytes(os.getpid()) / 1e6,
    ), handle


def _fit(rows: Sequence[Measured]) -> tuple[Costs, dict[str, float]]:
    """Fit the costs, none of which is negative, to relative errors; return how large these are.

    Ray's threads take some of each second, too, whatever the round consists of.
    """
    one, seconds = [1.0] * len(rows), [r.seconds for r in rows]
    chunks, clients = [r.chunks for r in rows], [r.clients for r in rows]
    moved, mb = [r.chunks * r.mb for r in rows], [r.mb for r in rows]
    actors, each = [r.actors for r in rows], [r.clients * r.mb for r in rows]
    driver, off_d = _solve([one, chunks, clients, actors, seconds], [r.driver_s for r in rows])
    server, off_s = _solve([one, chunks, moved, mb, seconds], [r.server_s for r in rows])
    client, off_c = _solve([chunks, clients, each], [r.actors_s for r in rows])
    off = {"driver": off_d, "server": off_s, "client actors": off_c}
    return Costs(*driver[:4], *server[:4], *client[:2]), off


def _solve(columns: list[list[float]], values: list[float]) -> tuple[list[float], float]:
    scale = np.array(values).clip(1e-3)
    found, residual = nnls(np.array(columns).T / scale[:, None], np.array(values) / scale)
    return [float(value) for value in found], float(residual) / len(values) ** 0.5


if __name__ == "__main__":
    app()
