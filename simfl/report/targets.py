"""Targets: the rounds, seconds and bytes that a run takes until a metric reaches a value."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from simfl.errors import InputError
from simfl.report.judging import main_metric, smaller_is_better
from simfl.report.reading import Record, Run, total


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
    bytes: float | None = None
    """What server and clients had sent by the end of that round."""


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
    for index, record in enumerate(run.records):
        value = record.get(target.metric)
        if value is not None and target.is_met_by(value):
            return spent(run, index + 1)
    return None


def spent(run: Run, records: int) -> Reached:
    """Return what a run's first records took."""
    if records == 0:
        return Reached(0, None)
    done = run.records[:records]
    seconds = elapsed(done)[-1]
    sent = total(r.get("sent_bytes", math.nan) + r.get("received_bytes", math.nan) for r in done)
    return Reached(
        round=int(done[-1]["round"]),
        seconds=None if math.isnan(seconds) else seconds,
        bytes=None if math.isnan(sent) else sent,
    )


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
