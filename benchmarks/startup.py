"""How long it takes from the command to the first finished round, and to the help text.

python benchmarks/startup.py --runs 5
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

_ROOT = Path(__file__).resolve().parent.parent
_SIMFL = [sys.executable, "-m", "simfl"]
_POLL_S = 0.005


class Start(NamedTuple):
    """What a start took."""

    seconds: float
    """Until what was waited for."""
    cpu_s: float
    """Of the CPUs, until the end."""


def main(runs: Annotated[int, typer.Option(min=1, help="Of each, in turns.")] = 5) -> None:
    """Measure starts: of the quickstart on Ray, in one process, and of the help text."""
    measures = {
        "first round on Ray": lambda: start_until_first_round("ray"),
        "first round inline": lambda: start_until_first_round("inline"),
        "simfl --help": start_until_help,
    }
    starts: dict[str, list[Start]] = {name: [] for name in measures}
    for _ in range(runs):
        for name, measure in measures.items():
            starts[name].append(measure())
    print(f"{'':<20}{'seconds':>26}{'CPU s in all':>26}")
    for name, taken in starts.items():
        columns = [_spread([start[field] for start in taken]) for field in range(2)]
        print(f"{name:<20}{columns[0]:>26}{columns[1]:>26}")


def start_until_first_round(backend: str) -> Start:
    """Run two rounds of the quickstart, and look when ``metrics.jsonl`` has the first."""
    with tempfile.TemporaryDirectory(prefix="simfl-startup-") as name:
        metrics = Path(name, "run", "metrics.jsonl")
        options = ["--backend", backend, "--set", "rounds=2", "--out", str(metrics.parent)]
        command = [*_SIMFL, "run", str(_ROOT / "configs" / "quickstart.yaml"), "--quiet", *options]
        return _start(command, lambda: metrics.exists() and b"\n" in metrics.read_bytes())


def start_until_help() -> Start:
    """Print the help text."""
    return _start([*_SIMFL, "--help"], lambda: False)


def _start(command: list[str], is_there: Callable[[], bool]) -> Start:
    """Run a command to its end; what was waited for is there at its end at the latest."""
    before, began = _cpu_of_children(), time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not is_there() and process.poll() is None:
        time.sleep(_POLL_S)
    seconds = time.perf_counter() - began
    if process.wait():
        raise SystemExit(f"{' '.join(command)} has ended with {process.returncode}")
    return Start(seconds, _cpu_of_children() - before)


def _cpu_of_children() -> float:
    """Return what children that have ended have used of the CPUs, theirs included."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _spread(values: list[float]) -> str:
    """Median (smallest to largest)."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    typer.run(main)
