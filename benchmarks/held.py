"""Who holds what of a workload's memory while rounds go on: PSS by process and by kind of memory.

A page that several processes map counts by its share in each, so that the sum is what all of them
hold (Linux).

    python benchmarks/held.py W1
    python benchmarks/held.py W1-bytes --set cluster.actors=1
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Final

import typer
from processes import Process, descendants
from turns import Contestant
from workloads import WORKLOADS, find_workload

_HERE = Path(__file__).resolve().parent
_MAPPING: Final = re.compile(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \S+\s*(.*)")
_COLUMNS: Final = ("store", "private", "files", "huge pages")


def main(
    workload: Annotated[str, typer.Argument(help=", ".join(WORKLOADS))],
    rounds: Annotated[int, typer.Option(min=1, help="Before it is looked.")] = 5,
    set: Annotated[list[str] | None, typer.Option(help="KEY=VALUE for the scenario.")] = None,
) -> None:
    """Train some rounds, and look in the middle of another one."""
    name = find_workload(workload).name
    options = [option for setting in set or [] for option in ("--set", setting)]
    command = [sys.executable, str(_HERE / "run_simfl.py"), name, *options]
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        contestant = Contestant(name, command, log=Path(log.name))
        contestant.start()
        seconds = contestant.take_turn(rounds)[-1].seconds
        with ThreadPoolExecutor(1) as pool:
            turn = pool.submit(contestant.take_turn, 1)
            time.sleep(seconds / 2)
            held = _held_by_kind(contestant.pid)
            turn.result()
        contestant.close()
    _tell(held)


def _held_by_kind(root: int) -> dict[str, Counter[str]]:
    """Return the bytes of all processes, by what they are and by column."""
    held: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for process in (Process(root, ""), *descendants(root)):
        held[process.kind] += _held(process.pid)
    return held


def _held(pid: int) -> Counter[str]:
    """Return the bytes of one process by column, and 1 for ``processes``; 0 if it has ended."""
    held: Counter[str] = Counter(processes=1)
    column = ""
    try:
        lines = Path(f"/proc/{pid}/smaps").read_text().splitlines()
    except OSError:
        return Counter()
    for line in lines:
        if (mapping := _MAPPING.fullmatch(line)) is not None:
            column = _column(mapping[1])
            continue
        name, kilobytes, *_ = line.split()
        if name == "Pss:":
            held[column] += 1024 * int(kilobytes)
        elif name == "Private_Dirty:" and column == "files":
            # Written to: what was once a file's is the process's own.
            held["private"] += 1024 * int(kilobytes)
            held["files"] -= 1024 * int(kilobytes)
        elif name == "AnonHugePages:":
            held["huge pages"] += 1024 * int(kilobytes)
    return held


def _column(path: str) -> str:
    if "plasma" in path:
        return "store"
    return "files" if path.startswith("/") else "private"


def _tell(held: dict[str, Counter[str]]) -> None:
    print(f"{'PSS in MB':<24}{'processes':>10}{'all':>12}" + "".join(f"{c:>12}" for c in _COLUMNS))
    total: Counter[str] = Counter()
    for part in held.values():
        total += part
    rows = sorted(held.items(), key=lambda row: -_sum(row[1]))
    for what, part in [*rows, ("all", total)]:
        numbers = [_sum(part), *(part[column] for column in _COLUMNS)]
        cells = "".join(f"{number / 1e6:>12.0f}" for number in numbers)
        print(f"{what:<24}{part['processes']:>10}{cells}")


def _sum(held: Counter[str]) -> int:
    """Huge pages are private ones, and those are counted."""
    return held["store"] + held["private"] + held["files"]


if __name__ == "__main__":
    typer.run(main)
