"""Two runs side by side: their scenarios, then their curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simfl.record import is_reproducible
from simfl.report.reading import Record, Run
from simfl.report.targets import Reached, Target, reach
from simfl.report.wording import value_text


@dataclass(frozen=True)
class MetricDifference:
    """How much two runs differ in one number."""

    metric: str
    first_round: int | None
    """The first common round in which it differs; None: in no common round."""
    final_a: float | None
    final_b: float | None
    largest: float | None
    """The largest absolute difference; None if no round has two finite numbers."""
    largest_round: int | None
    """The round with the largest difference."""

    @property
    def final_difference(self) -> float | None:
        """The second run's final number minus the first's."""
        if self.final_a is None or self.final_b is None:
            return None
        return self.final_b - self.final_a


@dataclass(frozen=True)
class Comparison:
    """Two runs side by side."""

    a: Run
    b: Run
    scenario: tuple[Difference, ...]
    common_rounds: int
    """The number of rounds that both have."""
    first_round: int | None
    """The first of these in which any number differs; None: all are equal."""
    metrics: tuple[MetricDifference, ...]
    target: Target | None
    reached_a: Reached | None
    reached_b: Reached | None


def compare(a: Run, b: Run, *, target: Target | None) -> Comparison:
    """Compare two runs; times do not count, since they always differ."""
    rounds_a = {record["round"]: record for record in a.records}
    pairs = [(rounds_a[r["round"]], r) for r in b.records if r["round"] in rounds_a]
    keys = dict.fromkeys(
        key
        for run in (a, b)
        for record in run.records
        for key in record
        if key != "round" and is_reproducible(key)
    )
    metrics = tuple(_difference(key, a, b, pairs) for key in keys)
    firsts = [metric.first_round for metric in metrics if metric.first_round is not None]
    return Comparison(
        a=a,
        b=b,
        scenario=tuple(differences([a.scenario, b.scenario])),
        common_rounds=len(pairs),
        first_round=min(firsts, default=None),
        metrics=metrics,
        target=target,
        reached_a=None if target is None else reach(a, target),
        reached_b=None if target is None else reach(b, target),
    )


def _difference(key: str, a: Run, b: Run, pairs: list[tuple[Record, Record]]) -> MetricDifference:
    differing = [one["round"] for one, other in pairs if not _is_same(one.get(key), other.get(key))]
    gaps = [
        (abs(one[key] - other[key]), int(one["round"]))
        for one, other in pairs
        if _is_finite(one.get(key)) and _is_finite(other.get(key))
    ]
    largest, round = max(gaps, key=lambda gap: gap[0], default=(None, None))
    return MetricDifference(
        metric=key,
        first_round=int(differing[0]) if differing else None,
        final_a=a.latest(key),
        final_b=b.latest(key),
        largest=largest,
        largest_round=round if largest else None,
    )


def _is_same(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return one == other or (math.isnan(one) and math.isnan(other))


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


@dataclass(frozen=True)
class Difference:
    """A key whose values differ."""

    key: str
    """The dotted path: ``client.optimizer.modules[1].beta``."""
    values: tuple[str | None, ...]
    """One for each scenario; None if it lacks the key."""


def differences(scenarios: Sequence[Mapping[str, Any]]) -> list[Difference]:
    """Return the keys whose values differ, in the order of the scenarios."""
    flat = [flatten(scenario) for scenario in scenarios]
    keys = dict.fromkeys(key for one in flat for key in one)
    found = [Difference(key, tuple(one.get(key) for one in flat)) for key in keys]
    return [difference for difference in found if len(set(difference.values)) > 1]


def flatten(value: Any, key: str = "") -> dict[str, str]:
    """Return ``{dotted path: value as text}``; a list of plain values is one value.

    >>> flatten({"model": {"kind": "mlp", "hidden": [64, 32]}, "modules": [{"kind": "adam"}]})
    {'model.kind': 'mlp', 'model.hidden': '[64, 32]', 'modules[0].kind': 'adam'}
    """
    if isinstance(value, Mapping) and value:
        prefix = f"{key}." if key else ""
        parts = [(f"{prefix}{name}", item) for name, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        parts = [(f"{key}[{index}]", item) for index, item in enumerate(value)]
    else:
        return {key: value_text(value)}
    flat: dict[str, str] = {}
    for path, item in parts:
        flat |= flatten(item, path)
    return flat
