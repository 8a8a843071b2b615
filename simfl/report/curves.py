"""Curves over rounds: of one run, or the mean over seeds with its confidence band.

Shapes: S seeds, R rounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from simfl.report.reading import Record, Run, total

Floats: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"
Indexes: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"

CONFIDENCE = 0.95
BAND = "mean over seeds ± Student-t 95 % confidence interval"


@dataclass(frozen=True)
class Curve:
    """A number over rounds."""

    rounds: Floats
    """[R] numbers of rounds."""
    mean: Floats
    """[R]"""
    low: Floats
    """[R] the band's lower edge; NaN where there is one seed only."""
    high: Floats
    """[R]"""
    seeds: Floats
    """[R] how many seeds each mean is over."""

    @property
    def has_band(self) -> bool:
        """Whether there is more than one seed anywhere."""
        return bool(np.isfinite(self.low).any())


def curve(runs: Sequence[Run], key: str, *, of: Callable[[float], float] = float) -> Curve | None:
    """Return a number's curve over the seeds' runs; None where none of them has it.

    Args:
        runs: one a seed.
        key: of the number in the records.
        of: what is made of it, before means are taken.

    Each round's mean is over the runs that have a finite value there. With n of them and their
    sample deviation s the band is mean ± t(0.975, n - 1) * s / sqrt(n): it holds the mean over all
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
