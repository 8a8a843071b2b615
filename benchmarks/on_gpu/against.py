"""W1's 1,500 rounds: simfl, bare loops and pfl-research on one device, in turns."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from bare.rounds import make_loop, share_for, train_alone
from recipe import Recipe, make_recipe
from run_simfl import SimflRun
from turns import RoundTime
from workloads import find_workload

import simfl
from on_gpu.peer import pfl_contestant
from on_gpu.place import Place
from simfl.data import FederatedDataset
from simfl.simulation import build

__all__ = ["ROUNDS", "Course", "run", "take_turns", "tell"]

ROUNDS = 1500
"""Of the benchmark of pfl-research, after which seconds are scaled."""
_TURNS = 4
_WARM_UP = 3
_CHECKED = 2
"""Rounds: the first tests the clients' steps, the second the server's."""
_TOLERANCE = 3e-4
"""Relative, of their losses. A missing step changes them by 1e-3; convolutions in TF32, torch's
default, round products to 5e-4, of which a mean over 2,500 losses keeps little."""

SIMFL: dict[str, tuple[str, ...]] = {
    "simfl": (),
    "simfl, stack 64": ("client.stack=64",),
    "simfl, stack 1": ("client.stack=1",),
}
LOOPS = ("fused", "graphed", "vmap", "tuned")


class Contestant(Protocol):
    """Who trains some rounds when it is its turn."""

    def take_turn(self, rounds: int) -> list[RoundTime]:
        """Train them; return what each took."""


class _Here:
    """A contestant in this process."""

    def __init__(self, rounds: Iterator[RoundTime]) -> None:
        self._rounds = rounds

    def take_turn(self, rounds: int) -> list[RoundTime]:
        return list(islice(self._rounds, rounds))


@dataclass
class Course:
    """A contestant's rounds so far."""

    contestant: Contestant
    warm_up: list[RoundTime] = field(default_factory=list)
    turns: list[list[RoundTime]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Of a round, the mean over all turns."""
        return statistics.fmean(round.seconds for turn in self.turns for round in turn)

    @property
    def medians(self) -> list[float]:
        """Seconds a round, of each turn."""
        return [statistics.median(round.seconds for round in turn) for turn in self.turns]

    @property
    def losses(self) -> list[float]:
        """Of the rounds so far."""
        return [r.loss for turn in (self.warm_up, *self.turns) for r in turn]


def run(
    place: Place, loops: Sequence[str] = LOOPS, runs: Mapping[str, tuple[str, ...]] = SIMFL
) -> None:
    """Make the contestants, let them take turns, and tell after each turn."""
    work = find_workload("W1", scale=place.scale)
    most = ROUNDS if place.is_cuda else _TURNS
    recipe = make_recipe(work, rounds=_WARM_UP + most)
    plain = work.scenario(rounds=recipe.num_rounds)
    plain["cluster"] = {"actors": 1, "num_gpus": 1.0 if place.is_cuda else 0.0}
    dataset = simfl.load_scenario(plain).build_dataset()
    with tempfile.TemporaryDirectory(prefix="simfl-gpu-") as name, ExitStack() as stack:
        folder = Path(name)
        makers: dict[str, Callable[[], Contestant]] = {}
        for label, overrides in runs.items():
            makers[label] = partial(_simfl, plain, dataset, folder, stack, overrides)
        makers["pfl"] = partial(pfl_contestant, place, recipe, folder, stack)
        for kind in loops:
            makers[f"bare {kind}"] = partial(_bare, kind, recipe, place)
        courses = _start(place, makers)
        take_turns(place, courses, most=most)
        apart = [name for name, told in tell(courses).items() if not told["losses_agree"]]
        if apart:
            raise SystemExit(f"FAIL: the losses of {', '.join(apart)} are not simfl's")


def _start(place: Place, makers: Mapping[str, Callable[[], Contestant]]) -> dict[str, Course]:
    """Make each contestant, and train its first rounds; leave out who cannot."""
    courses: dict[str, Course] = {}
    for name, make in makers.items():
        try:
            course = Course(make())
            course.warm_up = course.contestant.take_turn(_WARM_UP)
        except (Exception, SystemExit) as error:  # also of other frameworks
            _leave_out(place, name, error)
        else:
            courses[name] = course
    return courses


def _leave_out(place: Place, name: str, error: BaseException) -> None:
    lines = str(error).splitlines() or [type(error).__name__]
    place.say(f"{name}: left out: {' ... '.join(dict.fromkeys([lines[0], lines[-1]]))}")
    place.put(name, {"left_out": str(error)})


def take_turns(place: Place, courses: dict[str, Course], *, most: int) -> None:
    """Take turns of equal seconds until the place's time is over; tell after each turn.

    Args:
        place: where they are.
        courses: after their warm-up; those that fail are removed.
        most: rounds of each at most, for which there is a recipe.
    """
    for turn in range(_TURNS):
        share = place.left / (_TURNS - turn) / len(courses)
        for name, course in [*courses.items()]:
            done = sum(map(len, course.turns))
            rounds = min(most - done, max(1, int(share / _pace(course))), -(-most // _TURNS))
            try:
                course.turns.append(course.contestant.take_turn(rounds))
            except (Exception, SystemExit) as error:
                _leave_out(place, name, error)
                del courses[name]
            else:
                place.put(name, _figures(next(iter(courses.values())), course))
        if not courses:
            return
        if place.left <= 0:
            break
    _print(place, courses)


def _pace(course: Course) -> float:
    """Return the seconds of a round, by the last one."""
    return max((course.turns[-1] if course.turns else course.warm_up)[-1].seconds, 1e-6)


def tell(courses: Mapping[str, Course]) -> dict[str, dict[str, Any]]:
    """Return the figures of each contestant; ratios are the first one's time over the other's."""
    first = next(iter(courses.values()))
    return {name: _figures(first, course) for name, course in courses.items()}


def _figures(first: Course, course: Course) -> dict[str, Any]:
    apart = _apart(first, course)
    pairs = zip(first.medians, course.medians, strict=True)
    return {
        "rounds": sum(map(len, course.turns)),
        "seconds_a_round": course.medians,
        f"seconds_of_{ROUNDS}": ROUNDS * course.seconds,
        "simfl_over_this": [ours / theirs for ours, theirs in pairs],
        "losses": [course.losses[0], course.losses[-1]],
        "losses_apart": apart,
        "losses_agree": apart <= _TOLERANCE,
    }


def _apart(first: Course, other: Course) -> float:
    pairs = zip(first.losses[:_CHECKED], other.losses[:_CHECKED], strict=True)
    return max(abs(b / a - 1) for a, b in pairs)


def _print(place: Place, courses: Mapping[str, Course]) -> None:
    titles = f"{'ms a round':>12}{f's of {ROUNDS}':>12}{'simfl / this':>26}"
    place.say(f"{'':<18}{'rounds':>7}{titles}  losses")
    for name, told in tell(courses).items():
        ratios = told["simfl_over_this"]
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) x"
        seconds = f"{told[f'seconds_of_{ROUNDS}']:.1f}" + ("" if told["rounds"] >= ROUNDS else "*")
        ms = 1e3 * statistics.median(told["seconds_a_round"])
        verdict = "PASS" if told["losses_agree"] else "FAIL"
        place.say(
            f"{name:<18}{told['rounds']:>7}{ms:>12.2f}{seconds:>12}{ratio:>26}  {verdict}: "
            f"{told['losses_apart']:.1e} apart at first, {told['losses'][1]:.4f} at last"
        )
    place.say(f"* scaled up from the rounds measured; PASS is {_TOLERANCE:g} in {_CHECKED} rounds")
    first = next(iter(courses))
    place.say(f"simfl / this: a round's seconds of {first!r} over those of this row")


def _simfl(
    plain: dict[str, Any],
    dataset: FederatedDataset,
    folder: Path,
    stack: ExitStack,
    overrides: tuple[str, ...],
) -> Contestant:
    run = SimflRun(
        plain,
        folder,
        backend="inline",
        overrides=overrides,
        build=lambda scenario: build(scenario, dataset),
    )
    stack.callback(run.close)
    return _Here(iter(run.run_round, None))


def _bare(kind: str, recipe: Recipe, place: Place) -> Contestant:
    shared = share_for(kind, recipe, ranks=1).moved(lambda tensor: tensor.to(place.device))
    loop = make_loop(kind, recipe.workload, shared, 0)
    return _Here(train_alone(loop, recipe, synchronize=place.synchronize))
