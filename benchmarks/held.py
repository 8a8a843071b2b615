"""Who holds what of a workload's memory: PSS by process and by kind of memory.

A page that several processes map counts by its share in each, so that the sum is what all of them
hold (Linux). Memory is read ten times a second. The tables show the moment at which most was held,
until the first round was done and during the rounds after it, and the median of the latter.

    python benchmarks/held.py W1
    python benchmarks/held.py W1-bytes --set cluster.actors=1
"""

from __future__ import annotations

import sys
import tempfile
import threading
from collections import Counter, defaultdict
from pathlib import Path
from typing import Annotated, Final

import typer
from memory import rollup
from processes import descendants
from turns import Contestant
from workloads import WORKLOADS, find_workload

_HERE = Path(__file__).resolve().parent
_INTERVAL_S: Final = 0.1
_COLUMNS: Final = {
    "store": "Pss_Shmem:",
    "private": "Pss_Anon:",
    "files": "Pss_File:",
    "huge pages": "AnonHugePages:",
}
"""What the kernel calls them; huge pages are private ones, too."""

_Held = dict[str, Counter[str]]
"""The bytes of all processes, by what they are and by column."""


def main(
    workload: Annotated[str, typer.Argument(help=", ".join(WORKLOADS))],
    rounds: Annotated[int, typer.Option(min=1, help="After the first.")] = 5,
    set: Annotated[list[str] | None, typer.Option(help="KEY=VALUE for the scenario.")] = None,
) -> None:
    """Train some rounds, and look at the processes meanwhile."""
    name = find_workload(workload).name
    options = [option for setting in set or [] for option in ("--set", setting)]
    command = [sys.executable, str(_HERE / "run_simfl.py"), name, *options]
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        contestant = Contestant(name, command, log=Path(log.name))
        with _Watch() as start:
            contestant.start()
            contestant.take_turn(1)
        with _Watch() as later:
            contestant.take_turn(rounds)
        contestant.close()
    _tell("Most until the first round was done", max(start.seen, key=_total))
    _tell("Most later", max(later.seen, key=_total))
    _tell("Median later", sorted(later.seen, key=_total)[len(later.seen) // 2])


class _Watch:
    """Looks at all that this process has started while the ``with`` block runs, in a thread."""

    def __init__(self) -> None:
        self.seen: list[_Held] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        is_over = False
        while not is_over:  # and once more at the end, since all rounds may take less than this
            is_over = self._over.wait(_INTERVAL_S)
            self.seen.append(_held_by_kind())


def _held_by_kind() -> _Held:
    held: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for process in descendants():
        found = rollup(process.pid)
        columns = {column: found.get(name, 0) for column, name in _COLUMNS.items()}
        held[process.kind] += Counter(columns, processes=1)
    return held


def _tell(title: str, held: _Held) -> None:
    print(f"{title}\n{'PSS in MB':<24}{'processes':>10}{'all':>12}", end="")
    print("".join(f"{column:>12}" for column in _COLUMNS))
    rows = sorted(held.items(), key=lambda row: -_sum(row[1]))
    for what, part in [*rows, ("all", sum(held.values(), Counter()))]:
        numbers = [_sum(part), *(part[column] for column in _COLUMNS)]
        cells = "".join(f"{number / 1e6:>12.0f}" for number in numbers)
        print(f"{what:<24}{part['processes']:>10}{cells}")
    print()


def _total(held: _Held) -> int:
    return sum(map(_sum, held.values()))


def _sum(held: Counter[str]) -> int:
    return held["store"] + held["private"] + held["files"]


if __name__ == "__main__":
    typer.run(main)
