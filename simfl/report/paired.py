"""Paired tests between two methods over seeds.

Shapes: S seeds.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from simfl.errors import import_extra


@dataclass(frozen=True)
class PairedTest:
    """Two-sided tests of whether one method differs from another, seed by seed."""

    differences: tuple[float, ...]
    """[S] the first method's number minus the second's, by seed."""
    t_p: float
    """The p-value of Student's paired t test; NaN if all differences are equal."""
    wilcoxon_p: float
    """The p-value of Wilcoxon's signed-rank test; NaN if all differences are 0."""


def paired_test(a: Mapping[int, float], b: Mapping[int, float]) -> PairedTest | None:
    """Compare two methods over the seeds that both have; None for fewer than two.

    Args:
        a: the first method's finite numbers, by seed.
        b: the second's.

    Raises:
        MissingExtraError: if scipy is not installed.

    Sources: Student, 1908, https://doi.org/10.2307/2331554; Wilcoxon, 1945,
    https://doi.org/10.2307/3001968, whose exact distribution scipy uses without ties.
    """
    seeds = sorted(a.keys() & b.keys())
    if len(seeds) < 2:
        return None
    stats = import_extra("scipy.stats", what="a paired test over seeds", extra="report")
    differences = tuple(a[seed] - b[seed] for seed in seeds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about equal differences and ties
        varies = len(set(differences)) > 1
        t_p = float(stats.ttest_1samp(differences, 0.0).pvalue) if varies else math.nan
        wilcoxon_p = float(stats.wilcoxon(differences).pvalue) if any(differences) else math.nan
    return PairedTest(differences, t_p, wilcoxon_p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values that are corrected for their number; NaN ones stay, and do not count.

    Source: Holm, 1979, https://www.jstor.org/stable/4615733

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(
        (index for index, p in enumerate(p_values) if not math.isnan(p)),
        key=lambda index: p_values[index],
    )
    adjusted, highest = list(p_values), 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - place) * p_values[index]))
        adjusted[index] = highest
    return adjusted
