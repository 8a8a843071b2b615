"""Bands around means over seeds: what is shown, and its numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from simfl.report.reading import total
from simfl.report.wording import mean_and_deviation, number

CONFIDENCE = 0.95

BandKind: TypeAlias = Literal["ci", "sd", "se", "range", "none"]
BANDS: dict[BandKind, str] = {
    "ci": "Student-t 95 % confidence interval",
    "sd": "sample standard deviation",
    "se": "standard error",
    "range": "lowest and highest seed",
    "none": "",
}
"""What a band is called."""


@dataclass(frozen=True)
class View:
    """How numbers over seeds are shown."""

    band: BandKind | None = None
    """What is shown around a mean; None: the confidence interval in charts, the sample standard
    deviation in tables."""
    smooth: int = 1
    """Each point of a curve is the mean of this many evaluated rounds of a seed, up to its own."""
    log: str = ""
    """The logarithmic axes of curves: ``x``, ``y`` or ``xy``."""

    @property
    def in_charts(self) -> BandKind:
        """The band around curves."""
        return self.band or "ci"

    @property
    def in_tables(self) -> BandKind:
        """What is written beside a mean."""
        return self.band or "sd"

    @property
    def note(self) -> str:
        """What curves over seeds show: ``mean over seeds ± standard error``."""
        smooth = "" if self.smooth == 1 else f", each seed smoothed over {self.smooth} evaluations"
        return f"{_in_words(self.in_charts)}{smooth}"

    @property
    def in_words(self) -> str:
        """What tables over seeds hold: ``mean over seeds ± sample standard deviation``."""
        return _in_words(self.in_tables)


DEFAULT_VIEW: Final = View()


def _in_words(kind: BandKind) -> str:
    if kind == "none":
        return "mean over seeds"
    return f"mean over seeds{', with the' if kind == 'range' else ' ±'} {BANDS[kind]}"


def mean_and_edges(values: Sequence[float], kind: BandKind) -> tuple[float, float, float]:
    """Return the mean of finite values over seeds, and the lower and the upper edge of its band.

    With n values of sample deviation s, ``ci`` is mean ± t(0.975, n - 1) * s / sqrt(n), which
    covers the mean over all seeds with 95 % confidence if values are normal over seeds; ``sd`` is
    mean ± s, ``se`` mean ± s / sqrt(n), and ``range`` the lowest and the highest value. The edges
    are NaN for a single value.
    """
    n, mean = len(values), total(values) / len(values)
    if n == 1 or kind == "none":
        return mean, math.nan, math.nan
    if kind == "range":
        return mean, min(values), max(values)
    deviation = math.sqrt(total((value - mean) * (value - mean) for value in values) / (n - 1))
    half = deviation * _half_width(n, kind)
    return mean, mean - half, mean + half


def _half_width(n: int, kind: BandKind) -> float:
    """Return half of a band's width, in sample deviations."""
    if kind == "sd":
        return 1.0
    return (t_quantile(n - 1) if kind == "ci" else 1.0) / math.sqrt(n)


def t_quantile(freedom: int) -> float:
    """Return the quantile of Student's t of a two-sided 95 % interval."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))


def written(values: Sequence[float], kind: BandKind) -> str:
    """Write the mean over seeds and its band; the value, if there is one.

    >>> written([0.8, 0.9, 1.0], "sd"), written([0.8, 0.9, 1.0], "range"), written([0.9], "ci")
    ('0.9000 ± 0.1000', '0.9000 (0.8000 to 1.0000)', '0.9000')
    """
    if kind == "sd" or len(values) < 2 or not all(map(math.isfinite, values)):
        return mean_and_deviation(values)
    mean, low, high = mean_and_edges(values, kind)
    if kind == "range":
        return f"{number(mean)} ({number(low)} to {number(high)})"
    return number(mean) if math.isnan(low) else f"{number(mean)} ± {number(high - mean)}"
