"""Curves over rounds: of one run, or the mean over seeds with its confidence band.

Shapes: S seeds, R rounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from simfl.report.bands import DEFAULT_VIEW, View, mean_and_edges
from simfl.report.reading import Run, total

Floats: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"
Indexes: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"

_MAX_BARS = 60


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


def curve(
    runs: Sequence[Run],
    key: str,
    *,
    of: Callable[[float], float] = float,
    view: View = DEFAULT_VIEW,
) -> Curve | None:
    """Return a number's curve over the seeds' runs; None if none of them has it.

    Args:
        runs: one per seed.
        key: the number's key in the records.
        of: applied to each value before averaging.
        view: the band, and over how many evaluated rounds each seed's curve is smoothed.

    Each round's mean is over the runs that have a finite value.
    """
    by_round: dict[float, list[float]] = {}
    for run in runs:
        points = [
            (record["round"], of(value))
            for record in run.records
            if (value := record.get(key)) is not None and math.isfinite(value)
        ]
        smoothed = _smoothed([value for _, value in points], view.smooth)
        for (round, _), value in zip(points, smoothed, strict=True):
            by_round.setdefault(round, []).append(value)
    if not by_round:
        return None
    rounds = sorted(by_round)
    bands = [mean_and_edges(by_round[round], view.in_charts) for round in rounds]
    mean_R, low_R, high_R = np.array(bands).T
    seeds_R = np.array([len(by_round[round]) for round in rounds], dtype=np.float64)
    return Curve(np.array(rounds, dtype=np.float64), mean_R, low_R, high_R, seeds_R)


def _smoothed(values: Sequence[float], width: int) -> list[float]:
    """Return the mean of each value and up to ``width - 1`` before it.

    >>> _smoothed([1.0, 2.0, 6.0], 2)
    [1.0, 1.5, 4.0]
    """
    parts = [values[max(0, end - width) : end] for end in range(1, len(values) + 1)]
    return [total(part) / len(part) for part in parts] if width > 1 else list(values)


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
