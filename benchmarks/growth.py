"""What grows with the population, the cohort, and the number of rounds.

python benchmarks/growth.py population      # 1,000 and 1,000,000 clients, the same cohort
python benchmarks/growth.py cohort          # 500 and 5,000 of 10,000 clients
python benchmarks/growth.py rounds          # memory of each process over 1,000 rounds
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from memory import own_bytes
from processes import Process, descendants
from turns import Contestant
from workloads import WORKLOADS, make_single_examples

app = typer.Typer(add_completion=False, no_args_is_help=True)

_HERE = Path(__file__).resolve().parent
_POLL_S = 0.5
_ALLOWED_GROWTH = 0.02


class Course(NamedTuple):
    """One of two runs that take turns."""

    median_s: list[float]
    """Of each turn's rounds."""
    driver_bytes: int


@app.command()
def population(
    few: Annotated[int, typer.Option(help="Clients.")] = 1000,
    many: Annotated[int, typer.Option(help="Clients.")] = 1_000_000,
    turns: Annotated[int, typer.Option(min=1, help="Of each.")] = 15,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds a turn.")] = 30,
) -> None:
    """Compare two populations whose clients hold one example each: the same work a round."""
    plans = {clients: _single_scenario(clients) for clients in (few, many)}
    courses = _compare(plans, turns=turns, rounds=rounds)
    _print_ratio(courses, "seconds a round", dict.fromkeys(plans, 1))
    grown = courses[many].driver_bytes - courses[few].driver_bytes
    held = " and ".join(f"{course.driver_bytes / 1e6:.0f}" for course in courses.values())
    print(f"the drivers hold {held} MB: {grown / 1e6:+.0f} MB")


@app.command()
def cohort(
    few: Annotated[int, typer.Option(help="Clients a round.")] = 500,
    many: Annotated[int, typer.Option(help="Clients a round.")] = 5000,
    turns: Annotated[int, typer.Option(min=1, help="Of each.")] = 5,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds a turn.")] = 3,
) -> None:
    """Compare the seconds per client of two cohorts of W2's population."""
    plans = {
        size: replace(WORKLOADS["W2"], cohort=size).scenario(rounds=100_000) for size in (few, many)
    }
    courses = _compare(plans, turns=turns, rounds=rounds)
    _print_ratio(courses, "milliseconds per client", {size: size / 1000 for size in plans})


@app.command()
def rounds(
    count: Annotated[int, typer.Option("--count", min=40, help="Rounds.")] = 1000,
) -> None:
    """Compare each process's memory in the last tenth of a run with that in the second tenth."""
    plain = replace(WORKLOADS["W2"], cohort=50).scenario(rounds=count)
    with tempfile.TemporaryDirectory(prefix="simfl-growth-") as name:
        scenario = Path(name, "scenario.yaml")  # JSON is YAML
        scenario.write_text(json.dumps(plain))
        titles, samples = _watch(scenario, Path(name, "run"))
    tenth = count // 10
    early = _medians(samples, range(tenth, 2 * tenth))
    middle = _medians(samples, range(count // 2, count // 2 + tenth))
    late = _medians(samples, range(count - tenth, count))
    is_flat = True
    print(f"{'MB':<40}{'2nd tenth':>12}{'6th':>10}{'10th':>10}{'change':>10}")
    for pid in sorted(early.keys() & middle.keys() & late.keys(), key=lambda pid: -late[pid]):
        change = late[pid] / early[pid] - 1
        is_flat = is_flat and change <= _ALLOWED_GROWTH
        sizes = f"{early[pid] / 1e6:>12.1f}{middle[pid] / 1e6:>10.1f}{late[pid] / 1e6:>10.1f}"
        print(f"{titles[pid]:<40}{sizes}{change:>+10.1%}")
    print("PASS" if is_flat else f"FAIL: a process has grown by more than {_ALLOWED_GROWTH:.0%}")
    sys.exit(0 if is_flat else 1)


def _single_scenario(clients: int) -> dict[str, Any]:
    plain = replace(WORKLOADS["W2"], cohort=100, batch_size=1, epochs=None, steps=10).scenario(
        rounds=100_000
    )
    arguments = {"clients": clients, "features": 16}
    function = f"workloads:{make_single_examples.__name__}"
    return plain | {"data": {"source": "python", "path": function, "arguments": arguments}}


def _compare(plans: dict[int, dict[str, Any]], *, turns: int, rounds: int) -> dict[int, Course]:
    """Have a run of each scenario take turns with the other."""
    with tempfile.TemporaryDirectory(prefix="simfl-growth-") as name, ExitStack() as stack:
        runs = {}
        for size, plain in plans.items():
            file = Path(name, f"{size}.json")
            file.write_text(json.dumps(plain))
            command = [sys.executable, str(_HERE / "run_simfl.py"), str(file)]
            runs[size] = Contestant(f"{size}", command, log=file.with_suffix(".log"))
            runs[size].start()
            stack.callback(runs[size].close)
            runs[size].take_turn(2)
        medians: dict[int, list[float]] = {size: [] for size in plans}
        for _ in range(turns):
            for size, run in runs.items():
                medians[size].append(statistics.median(r.seconds for r in run.take_turn(rounds)))
        return {size: Course(medians[size], own_bytes(run.pid)) for size, run in runs.items()}


def _print_ratio(courses: dict[int, Course], what: str, per: dict[int, float]) -> None:
    scaled = {
        size: [seconds / per[size] for seconds in course.median_s]
        for size, course in courses.items()
    }
    for size, values in scaled.items():
        spread = f"{min(values):.4g} to {max(values):.4g}"
        print(f"{size:>9,} clients: {statistics.median(values):.4g} {what} ({spread})")
    few, many = scaled.values()
    ratios = [b / a for a, b in zip(few, many, strict=True)]
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    print(f"ratio {statistics.median(ratios):.2f} ({spread})")


class Sample(NamedTuple):
    """What processes hold at one time."""

    rounds: int
    """Done so far."""
    held: dict[int, int]
    """Bytes by process id."""


def _watch(scenario: Path, out: Path) -> tuple[dict[int, str], list[Sample]]:
    """Run a scenario; return what processes are called, and samples of what they hold."""
    metrics = out / "metrics.jsonl"
    command = [sys.executable, "-m", "simfl", "run", str(scenario), "--out", str(out), "--quiet"]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    titles = {run.pid: "driver"}
    samples = []
    while run.poll() is None:
        done = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
        processes = descendants(run.pid)
        titles |= {process.pid: _short(process) for process in processes if process.title}
        pids = [run.pid, *(process.pid for process in processes)]
        samples.append(Sample(done, {pid: own_bytes(pid) for pid in pids}))
        time.sleep(_POLL_S)
    if run.returncode:
        raise SystemExit(f"simfl run has ended with {run.returncode}")
    return titles, samples


def _short(process: Process) -> str:
    """Return the last two words of paths: raylet, or python .../dashboard.py."""
    words = [word.split("/")[-1] for word in process.title.split() if not word.startswith("-")]
    return " ".join(words[:2])[:38]


def _medians(samples: list[Sample], rounds: range) -> dict[int, float]:
    """Return each process's median bytes in these rounds, of those that are there throughout."""
    within = [sample.held for sample in samples if sample.rounds in rounds]
    if not within:
        raise SystemExit("the run was too fast to be watched; give it more rounds")
    there = [pid for pid in within[0] if all(held.get(pid) for held in within)]
    return {pid: statistics.median(held[pid] for held in within) for pid in there}


if __name__ == "__main__":
    app()
