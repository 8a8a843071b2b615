"""Curves over rounds: of one run, or the mean over seeds with its confidence band.

Shapes: S seeds, R rounds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from simfl.errors import InputError
from simfl.report.judging import main_metric, smaller_is_better
from simfl.report.reading import Record, Run, total

Floats: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"
Indexes: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"

CONFIDENCE = 0.95
_MAX_BARS = 60
BAND = "mean over seeds ± Student-t 95 % confidence interval"


@dataclass(frozen=True)
class Curve:
    """A number over rounds."""

    rounds: Floats
    """[R] numbers of rounds."""
    mean: Floats
    """[R]"""
    low: Floats
    """[R] the band's lower edge; NaN for a single seed."""
    high: Floats
    """[R]"""
    seeds: Floats
    """[R] the number of seeds in each mean."""

    @property
    def has_band(self) -> bool:
        """Whether any round has more than one seed."""
        return bool(np.isfinite(self.low).any())


def curve(runs: Sequence[Run], key: str, *, of: Callable[[float], float] = float) -> Curve | None:
    """Return a number's curve over the seeds' runs; None if none of them has it.

    Args:
        runs: one per seed.
        key: the number's key in the records.
        of: applied to each value before averaging.

    Each round's mean is over the runs that have a finite value. With n of them and their
    sample deviation s the band is mean ± t(0.975, n - 1) * s / sqrt(n): it covers the mean over all
    seeds with 95 % confidence, if values are normal over seeds.
    """
    by_round: dict[float, list[float]] = {}
    for run in runs:
        for record in run.records:
            value = record.get(key)
            if value is not None and math.isfinite(value):
                by_round.setdefault(record["round"], []).append(of(value))
    if not by_round:
        return None
    rounds = sorted(by_round)
    mean_R, low_R, high_R = np.array([_band(by_round[round]) for round in rounds]).T
    seeds_R = np.array([len(by_round[round]) for round in rounds], dtype=np.float64)
    return Curve(np.array(rounds, dtype=np.float64), mean_R, low_R, high_R, seeds_R)


def elapsed(record_seconds: Iterable[Record]) -> list[float]:
    """Return the seconds from the first round's start to each round's end.

    >>> elapsed([{"round": 1, "seconds": 2.0}, {"round": 2, "seconds": 0.5}])
    [2.0, 2.5]
    """
    total, ends = 0.0, []
    for record in record_seconds:
        total += record.get("seconds", math.nan)
        ends.append(total)
    return ends


def _band(values: Sequence[float]) -> tuple[float, float, float]:
    from scipy.special import stdtrit

    n, mean = len(values), total(values) / len(values)
    if n == 1:
        return mean, math.nan, math.nan
    deviation = math.sqrt(total((value - mean) * (value - mean) for value in values) / (n - 1))
    half = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * deviation / math.sqrt(n)
    return mean, mean - half, mean + half


_FORM = re.compile(r"([A-Za-z_][\w.-]*?)\s*(>=|<=|=)\s*(\S+)")


@dataclass(frozen=True)
class Target:
    """A value that a metric should reach."""

    metric: str
    value: float
    from_above: bool
    """Whether lower is better, as for a loss."""

    def __str__(self) -> str:
        return f"{self.metric} {'≤' if self.from_above else '≥'} {self.value:g}"

    def is_met_by(self, value: float) -> bool:
        """Return whether a value reaches the target."""
        return value <= self.value if self.from_above else value >= self.value


@dataclass(frozen=True)
class Reached:
    """The first evaluation at which a run reached a target."""

    round: int
    seconds: float | None
    """From the first round's start to that round's end; without set-up."""


def parse_target(text: str, runs: Sequence[Run]) -> Target:
    """Parse ``accuracy=0.9``; ``>=`` or ``<=`` set the direction, ``=`` uses the metric's.

    Args:
        text: the target.
        runs: define which values of the metric are better.

    Raises:
        InputError: for any other form.
    """
    found = _FORM.fullmatch(text.strip())
    value = _float(found[3]) if found else None
    if found is None or value is None:
        raise InputError(f"target {text!r} is not of the form accuracy=0.9 or 'loss<=0.2'")
    metric, sign = found[1], found[2]
    return Target(metric, value, sign == "<=" or (sign == "=" and smaller_is_better(metric, runs)))


def default_target(runs: Sequence[Run]) -> Target | None:
    """Return the highest whole percent of the main metric that the runs have reached.

    None if the metric is not a fraction, or smaller is better.

    Unfinished runs and those less than half as good as the best do not count: they would
    set a target that every other run reaches at once.
    """
    metric = main_metric(runs)
    if metric is None or smaller_is_better(metric, runs):
        return None
    done = [_highest(run, metric) for run in runs if run.state == "done"]
    best = [value for value in done or [_highest(run, metric) for run in runs] if value > 0]
    asked = [value for value in best if value >= max(best) / 2]
    level = math.floor(min(asked, default=0) * 100 + 1e-9) / 100
    return Target(metric, level, from_above=False) if level > 0 else None


def reach(run: Run, target: Target) -> Reached | None:
    """Return when the target was first met; None if it was not."""
    for record, seconds in zip(run.records, elapsed(run.records), strict=True):
        value = record.get(target.metric)
        if value is not None and target.is_met_by(value):
            return Reached(int(record["round"]), None if math.isnan(seconds) else seconds)
    return None


def _highest(run: Run, metric: str) -> float:
    """Return the highest value between 0 and 1; 0 without any."""
    found = (record.get(metric, math.nan) for record in run.records)
    return max((value for value in found if 0 <= value <= 1), default=0.0)


def _float(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def bins_of(size: int) -> list[Indexes]:
    """Return the indexes of at most 60 bins of neighbours, for a bar each."""
    return [part for part in np.array_split(np.arange(size), min(size, _MAX_BARS)) if len(part)]


def bin_means(values: Floats, bins: Sequence[Indexes]) -> Floats:
    """Return the mean of each bin."""
    return np.array([values[part].mean() for part in bins], dtype=np.float64)


def bin_names(run: Run, bins: Sequence[Indexes]) -> tuple[str, ...]:
    """Return the rounds in each bin: ``7``, or ``7–9``."""
    rounds = [int(record["round"]) for record in run.records]
    ends = [(rounds[part[0]], rounds[part[-1]]) for part in bins]
    return tuple(str(first) if first == last else f"{first}–{last}" for first, last in ends)
