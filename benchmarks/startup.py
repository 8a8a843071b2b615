"""How long it takes from the command to the first finished round, where it goes, and to the help.

Seconds, and what all processes have used of the CPUs until then: on a busy machine the second says
more. One start of each comes first and does not count: then Python's compiled files are there.

python benchmarks/startup.py --runs 5
python benchmarks/startup.py --runs 3 --only python --only w1

The parts of a start are read from ``/proc``, and so without a change of what is measured.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
import yaml
from processes import cpu_by_kind, seconds_of_starts
from workloads import find_workload

_ROOT = Path(__file__).resolve().parent.parent
_SIMFL = [sys.executable, "-m", "simfl"]
_POLL_S = 0.005
_ROUNDS = 20
"""Enough that actors are still there when the first one is seen to be done."""

_IN_PYTHON = """
import sys, simfl
simfl.run(sys.argv[1], sys.argv[3], sys.argv[2])
"""

_PARTS = {
    "fork_server.py": "fork server started",
    "gcs_server": "Ray's control service started",
    "raylet": "Ray's node started",
    "ServerActor": "server's actor started",
    "ClientActor": "first client actor started",
}
"""What to call the start of the first process of each kind."""


@dataclass
class Start:
    """What a start took."""

    seconds: float
    """Until what was waited for."""
    cpu: dict[str, float]
    """Seconds of the CPUs until then, by what the processes are."""
    parts: dict[str, float] = field(default_factory=dict)
    """Seconds until each part."""


def main(
    runs: Annotated[int, typer.Option(min=1, help="Of each, in turns.")] = 5,
    only: Annotated[list[str], typer.Option(help="ray, python, inline, w1, help, up.")] = [],  # noqa: B006
) -> None:
    """Measure starts: of the quickstart on Ray and in one process, of W1, and of the help text."""
    with tempfile.TemporaryDirectory(prefix="simfl-startup-") as name:
        w1 = Path(name, "w1.yaml")
        w1.write_text(yaml.safe_dump(find_workload("W1").scenario(rounds=2)))
        quickstart = _ROOT / "configs" / "quickstart.yaml"
        all_of_them: dict[str, Callable[[], Start]] = {
            "ray": lambda: start_until_first_round(quickstart, "ray"),
            "python": lambda: start_until_first_round(quickstart, "ray", in_python=True),
            "inline": lambda: start_until_first_round(quickstart, "inline"),
            "w1": lambda: start_until_first_round(w1, "ray"),
            "help": lambda: _start([*_SIMFL, "--help"], Path(name)),
        }
        starts = _measure(
            {key: all_of_them[key] for key in all_of_them if key in (only or all_of_them)}, runs
        )
        if not only or "up" in only:
            starts |= _measure_joined(
                {"up": all_of_them["ray"], "up, python": all_of_them["python"]}, runs
            )
    print(f"{'':<10}{'seconds':>26}{'CPU s of all':>26}")
    for key, taken in starts.items():
        seconds = [start.seconds for start in taken]
        cpu = [sum(start.cpu.values()) for start in taken]
        print(f"{key:<10}{_spread(seconds):>26}{_spread(cpu):>26}")
    for key, taken in starts.items():
        if len(taken[0].parts) > 2:
            print(f"\n{key}: seconds from the command until")
            _tell([start.parts for start in taken])
            print(f"{key}: CPU seconds until the first round, by process")
            _tell([start.cpu for start in taken], descending=True)


def _measure(measures: dict[str, Callable[[], Start]], runs: int) -> dict[str, list[Start]]:
    starts: dict[str, list[Start]] = {key: [] for key in measures}
    for number in range(runs + 1):
        for key, measure in measures.items():
            start = measure()
            if number:
                starts[key].append(start)
    return starts


def _measure_joined(measures: dict[str, Callable[[], Start]], runs: int) -> dict[str, list[Start]]:
    """Measure runs that join the cluster of ``simfl up``, whose processes are not counted."""
    subprocess.run([*_SIMFL, "up"], check=True, env=_compiling())
    try:
        return _measure(measures, runs)
    finally:
        subprocess.run([*_SIMFL, "down"], check=True)


def start_until_first_round(scenario: Path, backend: str, *, in_python: bool = False) -> Start:
    """Run a scenario, and look when ``metrics.jsonl`` has the first round."""
    with tempfile.TemporaryDirectory(prefix="simfl-startup-") as name:
        out = str(Path(name, "run"))
        if in_python:
            command = [sys.executable, "-c", _IN_PYTHON, str(scenario), backend, out]
        else:
            options = ["--quiet", "--backend", backend, "--out", out]
            command = [*_SIMFL, "run", str(scenario), *options]
        if scenario.name == "quickstart.yaml" and not in_python:
            command += ["--set", f"rounds={_ROUNDS}"]
        return _start(command, Path(name))


def _start(command: list[str], folder: Path) -> Start:
    """Run a command to its end; what was waited for is there at its end at the latest."""
    scenario, metrics = folder / "run" / "scenario.yaml", folder / "run" / "metrics.jsonl"
    before, began, began_at = os.times(), time.perf_counter(), time.time()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=_compiling())
    while process.poll() is None:
        time.sleep(_POLL_S)
        if metrics.exists() and b"\n" in metrics.read_bytes():
            break
    start = Start(time.perf_counter() - began, cpu_by_kind(process.pid))
    started = seconds_of_starts(process.pid)
    start.parts = {part: started[kind] for kind, part in _PARTS.items() if kind in started}
    if metrics.exists():
        start.parts["scenario checked, data made"] = scenario.stat().st_mtime - began_at
        first = json.loads(metrics.read_text().splitlines()[0])
        start.parts["first round begins"] = start.seconds - first["seconds"]
        start.parts["first round done"] = start.seconds
    if process.wait():
        raise SystemExit(f"{' '.join(command)} has ended with {process.returncode}")
    if not start.cpu:
        after = os.times()
        start.cpu = {"driver": sum(after[2:4]) - sum(before[2:4])}
    return start


def _compiling() -> dict[str, str]:
    """Variables with which compiled files are written; ``up`` needs what its runs have."""
    return {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}


def _tell(rows: Sequence[dict[str, float]], *, descending: bool = False) -> None:
    keys = {key for row in rows for key in row}
    values = {key: [row.get(key, 0.0) for row in rows] for key in keys}
    sign = -1 if descending else 1
    for key in sorted(keys, key=lambda key: sign * statistics.median(values[key])):
        print(f"  {key:<30}{_spread(values[key]):>26}")


def _spread(values: list[float]) -> str:
    """Median (smallest to largest)."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    typer.run(main)
