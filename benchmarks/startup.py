"""How long it takes from the command to the first finished round, and to the help text.

Seconds, and what all processes have used of the CPUs until then: on a busy machine the second says
more. One start of each comes first and does not count: then Python's compiled files are there.

python benchmarks/startup.py --runs 5
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from processes import cpu_by_kind

_ROOT = Path(__file__).resolve().parent.parent
_SIMFL = [sys.executable, "-m", "simfl"]
_POLL_S = 0.005
_ROUNDS = 20
"""Enough that actors are still there when the first one is seen to be done."""


class Start(NamedTuple):
    """What a start took."""

    seconds: float
    """Until what was waited for."""
    cpu: dict[str, float]
    """Seconds of the CPUs until then, by what the processes are."""


def main(runs: Annotated[int, typer.Option(min=1, help="Of each, in turns.")] = 5) -> None:
    """Measure starts: of the quickstart on Ray, in one process, and of the help text."""
    measures = {
        "first round on Ray": lambda: start_until_first_round("ray"),
        "first round inline": lambda: start_until_first_round("inline"),
        "simfl --help": start_until_help,
    }
    starts: dict[str, list[Start]] = {name: [] for name in measures}
    for number in range(runs + 1):
        for name, measure in measures.items():
            start = measure()
            if number:
                starts[name].append(start)
    print(f"{'':<20}{'seconds':>26}{'CPU s of all':>26}")
    for name, taken in starts.items():
        seconds = [start.seconds for start in taken]
        cpu = [sum(start.cpu.values()) for start in taken]
        print(f"{name:<20}{_spread(seconds):>26}{_spread(cpu):>26}")
    print("\nCPU seconds until the first round on Ray, by process")
    _tell_processes(starts["first round on Ray"])


def start_until_first_round(backend: str) -> Start:
    """Run the quickstart, and look when ``metrics.jsonl`` has the first round."""
    with tempfile.TemporaryDirectory(prefix="simfl-startup-") as name:
        metrics = Path(name, "run", "metrics.jsonl")
        settings = ["--set", f"rounds={_ROUNDS}", "--out", str(metrics.parent)]
        options = ["--quiet", "--backend", backend, *settings]
        command = [*_SIMFL, "run", str(_ROOT / "configs" / "quickstart.yaml"), *options]
        return _start(command, lambda: metrics.exists() and b"\n" in metrics.read_bytes())


def start_until_help() -> Start:
    """Print the help text."""
    return _start([*_SIMFL, "--help"], lambda: False)


def _start(command: list[str], is_there: Callable[[], bool]) -> Start:
    """Run a command to its end; what was waited for is there at its end at the latest."""
    compiling = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    before, began = os.times(), time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=compiling)
    while not is_there() and process.poll() is None:
        time.sleep(_POLL_S)
    seconds = time.perf_counter() - began
    cpu = cpu_by_kind(process.pid)
    if process.wait():
        raise SystemExit(f"{' '.join(command)} has ended with {process.returncode}")
    if not cpu:
        after = os.times()
        cpu["driver"] = sum(after[2:4]) - sum(before[2:4])
    return Start(seconds, cpu)


def _tell_processes(starts: Sequence[Start]) -> None:
    kinds = {kind for start in starts for kind in start.cpu}
    values = {kind: [start.cpu.get(kind, 0.0) for start in starts] for kind in kinds}
    for kind in sorted(kinds, key=lambda kind: -statistics.median(values[kind])):
        print(f"{kind:<20}{_spread(values[kind]):>26}")


def _spread(values: list[float]) -> str:
    """Median (smallest to largest)."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    typer.run(main)
