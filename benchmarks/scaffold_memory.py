"""10,000 SCAFFOLD clients, 4 GB of kept states, in under 2 GB of memory for all processes.

Every client keeps a control variate of the model's size, 99,410 float32 numbers; what exceeds
``cluster.state_memory`` is on disk. Cohorts go in turn: in 20 rounds of 500 all clients take
part, and in the rounds after them the first ones come again, so that states are read back too.

Memory is that of the driver and of all processes of its Ray cluster, see ``memory``. Ends with
PASS and 0, or FAIL and 1.

    python benchmarks/scaffold_memory.py
    python benchmarks/scaffold_memory.py --uniform --rounds 40 --checkpoint-every 5
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from memory import MemoryWatch

import simfl
from simfl.simulation import build

_HERE = str(Path(__file__).parent)
_MB = 1_000_000


def scenario(
    *, clients: int, rounds: int, per_round: int, uniform: bool, checkpoint_every: int
) -> dict[str, Any]:
    """SCAFFOLD with one step a client a round, on few examples: what matters is what is kept."""
    source = {"source": "synthetic", "clients": clients, "min_examples": 4, "max_examples": 4}
    return {
        "rounds": rounds,
        "plugins": ["in_turn"],
        "search": [_HERE],
        "data": {**source, "partition": "natural"},
        "model": {"kind": "mlp", "hidden": [1400]},
        "client": {
            "per_round": per_round,
            "steps": 1,
            "sampler": "uniform" if uniform else ["in-turn", {"rounds": rounds}],
            "optimizer": {"lrate": 0.1, "modules": ["scaffold-client"]},
        },
        "server": {"optimizer": {"modules": ["scaffold-server"]}},
        "evaluation": {"every": 0},
        "checkpoint": {"every": checkpoint_every},
        "cluster": {
            "actors": 2,
            "chunk_size": 16,
            "state_memory": 100 * _MB,
            "object_store_memory": 600 * _MB,
        },
    }


def main(
    clients: Annotated[int, typer.Option(help="The population.")] = 10_000,
    per_round: Annotated[int, typer.Option(help="Clients a round.")] = 500,
    rounds: Annotated[int, typer.Option(help="All take part within 20 of them.")] = 24,
    uniform: Annotated[bool, typer.Option(help="Draw cohorts instead of going in turn.")] = False,
    checkpoint_every: Annotated[int, typer.Option(help="0: on disk is what memory lacks.")] = 10,
    limit_mb: Annotated[int, typer.Option(help="What all processes may hold together.")] = 2000,
) -> None:
    """Run, and print the peak."""
    plain = scenario(
        clients=clients,
        rounds=rounds,
        per_round=per_round,
        uniform=uniform,
        checkpoint_every=checkpoint_every,
    )
    began = time.perf_counter()
    folder = tempfile.TemporaryDirectory(prefix="simfl-memory-")
    with folder as name, MemoryWatch(Path(name)) as watch:
        result = simfl.run(plain, out=Path(name) / "out")
    wall_s = time.perf_counter() - began
    num_bytes = 4 * sum(array.size for array in result.weights.values())
    _print_run(num_states=_count_seen(plain), num_bytes=num_bytes, wall_s=wall_s)
    _print_peak(watch)
    holds = watch.peak.total < limit_mb * _MB
    print(f"{'PASS' if holds else 'FAIL'}: {watch.peak.total / _MB:.0f} of {limit_mb} MB allowed")
    sys.exit(not holds)


def _count_seen(plain: dict[str, Any]) -> int:
    """Return how many clients have taken part, and so keep a state."""
    simulation = build(simfl.load_scenario(plain))
    plans = (simulation.plan_round(round) for round in range(1, plain["rounds"] + 1))
    return len({client for plan in plans for client in plan.clients})


def _print_run(*, num_states: int, num_bytes: int, wall_s: float) -> None:
    print(
        f"{num_states} clients with {num_bytes / 1000:.0f} kB of state each, "
        f"{num_states * num_bytes / 1e9:.2f} GB; the run took {wall_s:.0f} s"
    )


def _print_peak(watch: MemoryWatch) -> None:
    print(f"{'memory in MB':<16} {'at the peak':>11} {'its own peak':>13}")
    for role, held in watch.peak.by_role.most_common():
        own = max(sample.by_role[role] for sample in watch.samples)
        print(f"{role:<16} {held / _MB:>11.0f} {own / _MB:>13.0f}")
    disk = [sample.disk for sample in watch.samples]
    print(f"on disk: {disk[-1] / 1e9:.2f} GB at the end, {max(disk) / 1e9:.2f} GB at most")


if __name__ == "__main__":
    typer.run(main)
