"""How many rounds, and how many seconds, a run takes to a target."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from simfl.errors import InputError
from simfl.report.curves import elapsed
from simfl.report.judging import main_metric, smaller_is_better
from simfl.report.reading import Run

_FORM = re.compile(r"([A-Za-z_][\w.-]*?)\s*(>=|<=|=)\s*(\S+)")


@dataclass(frozen=True)
class Target:
    """A value that a metric is to reach."""

    metric: str
    value: float
    from_above: bool
    """Whether it is reached from above, as a loss is."""

    def __str__(self) -> str:
        return f"{self.metric} {'≤' if self.from_above else '≥'} {self.value:g}"

    def is_met_by(self, value: float) -> bool:
        """Say whether a value is as good as the target."""
        return value <= self.value if self.from_above else value >= self.value


@dataclass(frozen=True)
class Reached:
    """When a run was first evaluated at a target."""

    round: int
    seconds: float | None
    """From the first round's start to that round's end; set-up is not in it."""


def parse_target(text: str, runs: Sequence[Run]) -> Target:
    """Parse ``accuracy=0.9``; ``>=`` or ``<=`` set the direction, ``=`` uses the metric's.

    Args:
        text: the target.
        runs: define which values of the metric are better.

    Raises:
        InputError: if it is of another form.
    """
    found = _FORM.fullmatch(text.strip())
    value = _float(found[3]) if found else None
    if found is None or value is None:
        raise InputError(f"target {text!r} is not of the form accuracy=0.9 or 'loss<=0.2'")
    metric, sign = found[1], found[2]
    return Target(metric, value, sign == "<=" or (sign == "=" and smaller_is_better(metric, runs)))


def default_target(runs: Sequence[Run]) -> Target | None:
    """Return the highest whole percent of the main metric that the runs have reached.

    None if the metric is not a share, or small values are better.

    Runs that are not done, and those that are less than half as good as the best, are not asked:
    they would set a target that says nothing of the others.
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
    """Return the highest share; 0 without any."""
    found = (record.get(metric, math.nan) for record in run.records)
    return max((value for value in found if 0 <= value <= 1), default=0.0)


def _float(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
