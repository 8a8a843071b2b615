"""What stacks gain on the device, by shape and size, and the rule of ``stack: auto`` from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from on_gpu.place import Place, best_seconds
from on_gpu.shapes import SHAPES, STEPS, Shape, Trained
from simfl.client import stacking
from simfl.errors import SimflError

__all__ = ["Points", "Rule", "fit_rule", "run"]

_SIZES = tuple(1 << exponent for exponent in range(9))
_NUMBERS = tuple(1 << exponent for exponent in range(16, 33))
_NEAR = 1.1
_MOST_NUMBERS = 1 << 31
"""Weights of a stack that is tried: 8 GB of float32, and about four times that in all."""
_CALLS_S = 1.5
"""For the calls of one size, at most."""
_AT_LEAST = 16
"""Clients that are trained in a call, so that a small stack's time is no single one."""


@dataclass(frozen=True)
class Points:
    """What was measured of a shape."""

    kind: str
    num_weights: int
    seconds: Mapping[int, float]
    """Of a client's step, by the size of the stack."""

    @property
    def largest_near(self) -> int:
        """The largest stack whose steps take at most a tenth more than the fastest ones."""
        least = min(self.seconds.values())
        return max(size for size, seconds in self.seconds.items() if seconds <= _NEAR * least)

    def slowdown(self, rule: Rule) -> float:
        """Return how much longer a step takes with the rule's stack than with the best one."""
        return self.seconds[rule.size(self)] / min(self.seconds.values())


@dataclass(frozen=True)
class Rule:
    """How large stacks are, as ``client/stacking.py`` says it."""

    numbers: int
    """All weights of a stack, at most."""
    clients: int
    """Clients of a stack, at most."""

    def size(self, points: Points) -> int:
        """Return the size for a shape: the largest measured one within the rule, or 1."""
        most = max(1, min(self.clients, self.numbers // points.num_weights))
        return max((size for size in points.seconds if size <= most), default=1)


def fit_rule(found: Sequence[Points]) -> Rule:
    """Return the rule whose worst slowdown is least; of equal ones, the smallest.

    Slowdowns within a hundredth are equal, as timing is no more exact.
    """
    rules = [Rule(numbers, clients) for numbers in _NUMBERS for clients in _SIZES]
    return min(
        rules,
        key=lambda rule: (
            round(max(points.slowdown(rule) for points in found), 2),
            rule.numbers,
            rule.clients,
        ),
    )


def run(place: Place, shapes: Sequence[Shape] = SHAPES, sizes: Sequence[int] = _SIZES) -> None:
    """Measure all shapes, and tell the rule after each."""
    sizes = [size for size in sizes if size <= max(2, place.scale * max(sizes))]
    shown = [size for size in sizes if size > 1]
    place.say(f"{'':<20}{'weights':>11}{'alone':>11}" + "".join(f"{size:>8}" for size in shown))
    found: list[Points] = []
    for number, shape in enumerate(shapes):
        if place.left <= 0:
            place.say(f"{shape.name:<20}left out, no time is left")
            continue
        points = _measure(place, shape, sizes, within=place.left / (len(shapes) - number))
        if points is None:
            continue
        found.append(points)
        alone = points.seconds[sizes[0]]
        gains = "".join(f"{alone / points.seconds[s]:>7.1f}x" for s in shown if s in points.seconds)
        place.say(f"{shape.name:<20}{points.num_weights:>11,}{alone * 1e6:>8.0f} us{gains}")
        place.put("rule", _rule(found))
    if found:
        place.say("rule: " + "; ".join(_tell(kind, rule) for kind, rule in _rule(found).items()))


def _measure(place: Place, shape: Shape, sizes: Sequence[int], *, within: float) -> Points | None:
    """Measure a shape in stacks of each size; None if it cannot be built."""
    clients = max(_AT_LEAST, *sizes) if place.is_cuda else max(sizes)
    end = place.left - within
    try:
        trained = Trained.of(shape, clients=clients)
    except SimflError as error:
        place.say(f"{shape.name:<20}left out: {error}")
        place.put(shape.name, {"left_out": str(error)})
        return None
    points = Points(shape.kind, trained.num_weights, {})
    peaks: dict[int, int] = {}
    for number, size in enumerate(sizes):
        if size * trained.num_weights > _MOST_NUMBERS or place.left <= 0:
            break
        share = (place.left - end) / (len(sizes) - number)
        try:
            seconds, peaks[size] = _step(place, trained, size, within=min(share, _CALLS_S))
        except (torch.cuda.OutOfMemoryError, RuntimeError) as error:
            place.say(f"{shape.name}, stacks of {size}: {str(error).splitlines()[0]}")
            break
        points = replace(points, seconds={**points.seconds, size: seconds})
        place.put(shape.name, {**asdict(points), "peak_bytes": peaks, "best": points.largest_near})
    return points if points.seconds else None


def _step(place: Place, trained: Trained, size: int, *, within: float) -> tuple[float, int]:
    """Return the seconds of a client's step, and the most bytes that the device held."""
    if place.is_cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    host = trained.host(stack=size, device=place.device)
    clients = max(_AT_LEAST, size) if place.is_cuda else size
    seconds = best_seconds(place, lambda: trained.train(host, clients), within=within)
    peak = torch.cuda.max_memory_allocated() if place.is_cuda else 0
    return seconds / clients / STEPS, peak


def _rule(found: Sequence[Points]) -> dict[str, Any]:
    """Return the rule for all shapes, for each kind, and how good today's is."""
    today = Rule(stacking.GPU_NUMBERS, stacking.MAX_GPU_CLIENTS)
    kinds = dict.fromkeys(points.kind for points in found)
    told = {"all": _judge(fit_rule(found), found), "today": _judge(today, found)}
    for kind in kinds:
        some = [points for points in found if points.kind == kind]
        told[kind] = _judge(fit_rule(some), some)
    return told


def _judge(rule: Rule, found: Sequence[Points]) -> dict[str, Any]:
    return asdict(rule) | {"slowdown": max(points.slowdown(rule) for points in found)}


def _tell(kind: str, rule: Mapping[str, Any]) -> str:
    exponent = rule["numbers"].bit_length() - 1
    return f"{kind} 2^{exponent} weights, {rule['clients']} clients (x {rule['slowdown']:.2f})"
