"""How long a round takes with simfl, and with bare loops that do the same steps.

All contestants run at once, each in its own processes, and take turns at training some rounds
(A B C A B C ...), so that other load on the machine affects all alike. All train the same
clients on the same batches from the same weights; the script checks that the losses of
the first two rounds agree. The result is the ratio of two contestants' medians within a turn; its
median over the turns is printed.

    python benchmarks/compare.py W2
    python benchmarks/compare.py W1 --turns 3 --rounds 5 --peers pfl,flwr --json w1.json
    python benchmarks/compare.py W2 --variant client.stack=1 --variant client.stack=8
"""

from __future__ import annotations

import json
import os
import re
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from memory import pss_bytes
from processes import cpu_seconds
from recipe import make_recipe
from turns import Contestant, RoundTime
from workloads import WORKLOADS, Workload, find_workload

from simfl.cluster.forking import HUGE_PAGES

__all__ = ["Course", "tell_losses"]

_HERE = Path(__file__).resolve().parent
_PEERS = {"pfl": "pfl_loop.py", "flwr": "flwr_loop.py", "fedjax": "fedjax_loop.py"}
_CHECKED_ROUNDS = 2
"""The first round tests the clients' steps, the second the server's step as well."""
_TOLERANCE = 1e-5
"""Relative, in these rounds. Another order of summation changes the loss by less than 1e-6 there; a
missing step changes it by 1e-3. Later rounds cannot be compared in float32, since training
amplifies rounding differences until losses are unrelated."""


@dataclass
class Course:
    """One contestant's results so far."""

    contestant: Contestant
    turns: list[list[RoundTime]] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """Seconds of all CPUs a round, of each turn."""
    pss: list[int] = field(default_factory=list)
    """Bytes after each turn."""

    def take_turn(self, rounds: int) -> None:
        """Train some rounds, and look at the CPU's time and the memory afterwards."""
        before = cpu_seconds(self.contestant.pid)
        self.turns.append(self.contestant.take_turn(rounds))
        self.cpu.append((cpu_seconds(self.contestant.pid) - before) / rounds)
        self.pss.append(pss_bytes(self.contestant.pid))

    @property
    def name(self) -> str:
        """The contestant's."""
        return self.contestant.name

    @property
    def losses(self) -> np.ndarray[Any, Any]:
        """Of all rounds."""
        return np.array([round.loss for turn in self.turns for round in turn])

    @property
    def medians(self) -> np.ndarray[Any, Any]:
        """Seconds a round of each turn but the first, which warms up."""
        return np.array([statistics.median(r.seconds for r in turn) for turn in self.turns[1:]])


def main(
    workload: Annotated[str, typer.Argument(help=", ".join(WORKLOADS))],
    turns: Annotated[int, typer.Option(min=1, help="Of each contestant.")] = 3,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds a turn.")] = 5,
    warm_up: Annotated[int, typer.Option(min=1, help="Rounds before the first turn.")] = 2,
    loops: Annotated[str | None, typer.Option(help="Bare loops, instead of the usual.")] = None,
    peers: Annotated[str, typer.Option(help=", ".join(_PEERS))] = "",
    variant: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE[,KEY=VALUE]: simfl once more, with these.")
    ] = None,
    inline: Annotated[bool, typer.Option(help="simfl once more, in one process.")] = False,
    against: Annotated[Path | None, typer.Option(help="Another checkout of simfl.")] = None,
    set: Annotated[list[str] | None, typer.Option(help="KEY=VALUE for simfl everywhere.")] = None,
    scale: Annotated[float, typer.Option(help="Shrinks every count, to try it out.")] = 1.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Writes all figures.")] = None,
) -> None:
    """Compare simfl with bare loops, and with other frameworks."""
    work = find_workload(workload, scale=scale)
    with tempfile.TemporaryDirectory(prefix="simfl-compare-") as name:
        folder = Path(name)
        recipe = folder / "recipe.npz"
        make_recipe(work, rounds=warm_up + turns * rounds).write(recipe)
        contestants = [
            *_simfl(work, scale, folder, set or [], variant or [], against, inline=inline),
            *_bare(_split(loops) if loops is not None else work.loops, folder, recipe),
            *_peers(_split(peers), folder, recipe),
        ]
        with _started(contestants) as courses:
            _take_turns(courses, [warm_up] + [rounds] * turns)
    is_agreed = tell_losses(work, courses)
    _tell_times(courses)
    if json_file is not None:
        json_file.write_text(json.dumps(_figures(workload, scale, courses, is_agreed), indent=1))
    sys.exit(0 if is_agreed else 1)


def _simfl(
    work: Workload,
    scale: float,
    folder: Path,
    settings: Sequence[str],
    variants: Sequence[str],
    against: Path | None,
    *,
    inline: bool,
) -> Iterator[Contestant]:
    """First simfl, then what differs from it."""
    yield _run_simfl("simfl", work, scale, folder, settings)
    if inline:  # with huge pages, as on the command line
        yield _run_simfl("simfl inline", work, scale, folder, settings, "inline")
    for variant in variants:
        yield _run_simfl(variant, work, scale, folder, [*settings, *_split(variant)])
    if against is not None:
        yield _run_simfl(str(against), work, scale, folder, settings, tree=against.resolve())
    if work.scaffold:
        plain = ["client.optimizer.modules=[]", "server.optimizer.modules=[]"]
        yield _run_simfl("simfl, FedAvg", work, scale, folder, [*settings, *plain])


def _run_simfl(
    name: str,
    work: Workload,
    scale: float,
    folder: Path,
    settings: Sequence[str],
    backend: str = "ray",
    *,
    tree: Path = _HERE.parent,
) -> Contestant:
    options = [option for setting in settings for option in ("--set", setting)]
    options += [f"--scale={scale}", f"--backend={backend}"]
    command = [sys.executable, str(tree / "benchmarks" / "run_simfl.py"), work.name]
    environment = {"PYTHONPATH": str(tree)} | (HUGE_PAGES if backend == "inline" else {})
    return Contestant(name, command + options, log=_log(folder, name), environment=environment)


def _bare(loops: Sequence[str], folder: Path, recipe: Path) -> Iterator[Contestant]:
    for loop in loops:
        command = [sys.executable, str(_HERE / "bare_loops.py"), loop, str(recipe)]
        yield Contestant(f"bare {loop}", command, log=_log(folder, loop))


def _peers(names: Sequence[str], folder: Path, recipe: Path) -> Iterator[Contestant]:
    for name in names:
        if name not in _PEERS:
            raise SystemExit(f"there is no framework {name!r}; choose from {', '.join(_PEERS)}")
        script = _HERE / "peers" / _PEERS[name]
        python = _HERE / "peers" / ".venv" / name / "bin" / "python"
        if not python.exists():
            raise SystemExit(f"{name} has no environment yet; run benchmarks/peers/setup.py {name}")
        environment = {"PYTHONPATH": str(_HERE)}
        yield Contestant(
            name,
            [str(python), str(script), str(recipe)],
            log=_log(folder, name),
            environment=environment,
        )


@contextmanager
def _started(contestants: Sequence[Contestant]) -> Iterator[list[Course]]:
    with ExitStack() as stack:
        for contestant in contestants:  # one by one: on a busy machine Ray gives up waiting
            contestant.start()
            stack.callback(contestant.close)
        yield [Course(contestant) for contestant in contestants]


def _take_turns(courses: Sequence[Course], rounds: Sequence[int]) -> None:
    for number, count in enumerate(rounds):
        for course in courses:
            course.take_turn(count)
        seconds = (
            f"{course.name} {statistics.median(r.seconds for r in course.turns[-1]):.4g}"
            for course in courses
        )
        what = f"turn {number}" if number else "warm-up"
        print(f"{what}: {'  '.join(seconds)} s a round", file=sys.stderr, flush=True)


def tell_losses(work: Workload, courses: Sequence[Course]) -> bool:
    """Describe how far losses are apart, and whether the first ones are close enough."""
    first = courses[0]
    are_near = []
    ends = f"{first.losses[0]:.6f} to {first.losses[-1]:.6f}"
    print(f"losses are {ends} in {len(first.losses)} rounds; away from simfl's, as parts of them:")
    for course in courses[1:]:
        if course.name == "simfl, FedAvg":
            continue  # other steps, on purpose
        # pfl's variates are not the paper's after the first round.
        checked = 1 if course.name == "pfl" and work.scaffold else _CHECKED_ROUNDS
        apart = np.abs(course.losses / first.losses - 1)
        are_near.append(bool(apart[:checked].max() <= _TOLERANCE))
        verdict = "PASS" if are_near[-1] else "FAIL"
        by_then = f"{apart[:checked].max():.1e} by round {checked}"
        print(f"{course.name:<20}{verdict}: {by_then}, {apart.max():.1e} by round {len(apart)}")
    print(
        f"PASS is {_TOLERANCE:g} at most in the first rounds; of later ones see same_steps.py,\n"
        "since training makes more and more of what float32 has rounded"
    )
    return all(are_near)


def _tell_times(courses: Sequence[Course]) -> None:
    first = courses[0]
    titles = f"{'simfl / this':>28}{'CPU s':>10}{'ratio':>8}{'PSS MB':>9}"
    print(f"{'':<20}{'seconds a round':>32}{titles}")
    for course in courses:
        is_first = course is first
        ratio = "" if is_first else _spread(first.medians / course.medians, "{:.2f}") + " x"
        cpu = statistics.median(course.cpu[1:])
        cpu_ratio = "" if is_first else f"{statistics.median(first.cpu[1:]) / cpu:.2f} x"
        print(
            f"{course.name:<20}{_spread(course.medians, '{:.3g}'):>32}{ratio:>28}"
            f"{cpu:>10.3g}{cpu_ratio:>8}{max(course.pss) / 1e6:>9.0f}"
        )
    print(
        f"simfl / this: seconds a round of {first.name!r} over those of this row, the median\n"
        "(least to most) of the turns; below 1, simfl is faster. The ratio is that of CPU seconds"
    )


def _spread(values: np.ndarray[Any, Any], form: str) -> str:
    """Median (smallest to largest)."""
    middle, least, most = (form.format(f(values)) for f in (np.median, np.min, np.max))
    return f"{middle} ({least} to {most})"


def _figures(
    workload: str, scale: float, courses: Sequence[Course], is_agreed: bool
) -> dict[str, Any]:
    return {
        "workload": workload,
        "scale": scale,
        "losses_agree": is_agreed,
        "load": os.getloadavg(),
        "contestants": {
            course.name: {
                "seconds": [[r.seconds for r in turn] for turn in course.turns],
                "losses": course.losses.tolist(),
                "simfl_over_this": (courses[0].medians / course.medians).tolist(),
                "cpu_seconds": course.cpu,
                "pss_bytes": course.pss,
            }
            for course in courses
        },
    }


def _split(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def _log(folder: Path, name: str) -> Path:
    return folder / (re.sub(r"\W+", "-", name) + ".log")


if __name__ == "__main__":
    typer.run(main)
