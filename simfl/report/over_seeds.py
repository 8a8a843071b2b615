"""Tables over seeds: final numbers, what a target costs, and paired tests between groups.

Shapes: S seeds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from simfl.report.bands import mean_and_edges, written
from simfl.report.charts import Table
from simfl.report.judging import best, main_metric, smaller_is_better
from simfl.report.paired import PairedTest, holm, paired_test
from simfl.report.study import Group, Study
from simfl.report.targets import Reached, Target, reach, spent
from simfl.report.wording import duration, in_bytes, mean_of, number, p_value, sentence

_MAX_COLUMNS = 6
_MAX_PAIRED = 5
"""The number of groups above which only the best one is compared, with the next best."""
_MAX_TESTS = 20
_FEWEST_FOR_WILCOXON = 6
_NONE = "—"


def finals(group: Group, key: str) -> list[float]:
    """Return a number as last measured, of each seed that has it."""
    return [value for run in group.runs if (value := run.latest(key)) is not None]


def final_keys(keys: Sequence[str]) -> list[str]:
    """Return which of the metrics are in tables of final numbers."""
    return [key for key in keys if key != "delta_norm"][:_MAX_COLUMNS]


def final_table(study: Study, keys: Sequence[str]) -> Table:
    """Return each group's final numbers."""
    shown, band = final_keys(keys), study.view.in_tables
    return Table(
        title="Final numbers over seeds",
        header=("group", "seeds", *shown),
        rows=tuple(
            (g.label, str(len(g.runs)), *(written(finals(g, key), band) for key in shown))
            for g in study.groups
        ),
        colours=tuple(study.colour(group) for group in study.groups),
        note=sentence(study.view.in_words),
    )


def target_table(study: Study, target: Target) -> Table:
    """Return the rounds, seconds and bytes until each group's seeds have reached a target.

    A seed that has not reached it counts as later than all that have.
    """
    costs = [_Cost(group, target) for group in study.groups]
    has_bytes = any(one.bytes is not None for group in costs for one in group.all)
    chosen = (
        "The highest whole percent that all finished runs reach which are at least half as good "
        "as the best; --target sets another. "
    )
    columns = ("rounds", "time", *(["bytes sent"] if has_bytes else []))
    return Table(
        title=f"To {target}",
        header=("run", "reached it", *columns, f"final {target.metric}", "best round's"),
        rows=tuple(_target_row(group, study, target, has_bytes=has_bytes) for group in costs),
        colours=tuple(study.colour(group) for group in study.groups),
        note=f"{chosen if study.is_target_chosen else ''}Median over all seeds, with their range; "
        "only evaluated rounds count, and time begins with the first round."
        f"{_note_on_missed(costs)} The last two columns: {study.view.in_words}.",
    )


class _Cost:
    """What each seed of a group spent until it reached a target, or until it ended."""

    def __init__(self, group: Group, target: Target) -> None:
        self.group = group
        met = [(run, reach(run, target)) for run in group.runs]
        self.reached = [found for _, found in met if found is not None]
        not_met = [run for run, found in met if found is None]
        self.missed = [spent(run, len(run.records)) for run in not_met]
        self.unfinished = sum(run.state != "done" for run in not_met)

    @property
    def all(self) -> list[Reached]:
        """All seeds."""
        return [*self.reached, *self.missed]

    def written(self, of: Callable[[Reached], float | None], write: Callable[[float], str]) -> str:
        """Write the median and the range over seeds."""
        reached = sorted(v for one in self.reached if (v := of(one)) is not None)
        missed = sorted(v for one in self.missed if (v := of(one)) is not None)
        values = [*reached, *missed]
        if not values:
            return _NONE

        def bounded(value: float, position: int) -> str:
            return f"{'> ' if position >= len(reached) else ''}{write(value)}"

        upper = len(values) // 2
        middle = values[(len(values) - 1) // 2], values[upper]
        median = bounded(middle[0] / 2 + middle[1] / 2, upper)
        ends = bounded(values[0], 0), bounded(values[-1], len(values) - 1)
        return median if ends[0] == ends[1] else f"{median} ({ends[0]} to {ends[1]})"


def _target_row(cost: _Cost, study: Study, target: Target, *, has_bytes: bool) -> tuple[str, ...]:
    runs, metric, band = cost.group.runs, target.metric, study.view.in_tables
    values = [[r[metric] for r in run.records if metric in r] for run in runs]
    in_best_round = [best(metric, v, study.runs) for v in values]
    sent = cost.written(lambda one: one.bytes, in_bytes)
    return (
        cost.group.label,
        f"{len(cost.reached)} of {len(runs)}",
        cost.written(lambda one: one.round, lambda value: f"{value:g}"),
        cost.written(lambda one: one.seconds, duration),
        *([sent] if has_bytes else []),
        written([v[-1] for v in values if v], band),
        written([value for value in in_best_round if value is not None], band),
    )


def _note_on_missed(costs: Sequence[_Cost]) -> str:
    """Say how seeds that have not reached the target count, if there are any."""
    if not any(group.missed for group in costs):
        return ""
    count = sum(group.unfinished for group in costs)
    unfinished = f" ({count} of them in runs that have not finished)" if count else ""
    return (
        " Where a seed had not reached it in its last round, that is written with >, "
        f"and counts as later than all others{unfinished}."
    )


_Tested: TypeAlias = tuple[Group, Group, PairedTest]


def paired_table(study: Study) -> Table | None:
    """Return paired tests of the main metric between groups; None if there is nothing to test.

    Seeds are pairs since runs with one seed have the same split of the data and, where the sampler
    does not look back, the same cohorts.
    """
    metric = main_metric(study.runs)
    if metric is None:
        return None
    tested: list[_Tested] = []
    for a, b in _pairs(study, metric):
        test = paired_test(_by_seed(a, metric), _by_seed(b, metric))
        if test is not None:
            tested.append((a, b, test))
    if not tested:
        return None
    adjusted = holm([test.t_p for _, _, test in tested])
    header = ("A", "B", "seeds", "mean of A - B", "95 % interval", "p, t test", "p, Wilcoxon")
    return Table(
        title=f"Paired tests of the final {metric} over seeds",
        header=(*header, *(["p, t test, Holm"] if len(tested) > 1 else [])),
        rows=tuple(
            (*_test_row(*one), *([p_value(p)] if len(tested) > 1 else []))
            for one, p in zip(tested, adjusted, strict=True)
        ),
        note=_note_on_tests(study, tested),
    )


def _pairs(study: Study, metric: str) -> Iterator[tuple[Group, Group]]:
    """Yield all pairs of groups; of many groups, the best one with each of the next best."""
    groups = [group for group in study.groups if len(finals(group, metric)) > 1]
    if len(groups) <= _MAX_PAIRED:
        yield from itertools.combinations(groups, 2)
        return
    sign = 1 if smaller_is_better(metric, study.runs) else -1
    means = {group.label: mean_of(finals(group, metric)) for group in groups}
    ranked = sorted(
        (group for group in groups if means[group.label] is not None),
        key=lambda group: sign * (means[group.label] or 0.0),
    )
    yield from ((ranked[0], other) for other in ranked[1 : _MAX_TESTS + 1])


def _by_seed(group: Group, metric: str) -> dict[int, float]:
    found = {run.seed: run.latest(metric) for run in group.runs}
    return {
        seed: value
        for seed, value in found.items()
        if seed is not None and value is not None and math.isfinite(value)
    }


def _test_row(a: Group, b: Group, test: PairedTest) -> tuple[str, ...]:
    mean, low, high = mean_and_edges(test.differences, "ci")
    return (
        a.label,
        b.label,
        str(len(test.differences)),
        number(mean),
        f"{number(low)} to {number(high)}",
        p_value(test.t_p),
        p_value(test.wilcoxon_p),
    )


def _note_on_tests(study: Study, tested: Sequence[_Tested]) -> str:
    note = "Two-sided, over the seeds that both have. "
    if len(study.groups) > _MAX_PAIRED:
        note += f"The best group with the next {len(tested)}. "
    if len(tested) > 1:
        note += f"Holm: corrected for {len(tested)} tests. "
    fewest = min(len(test.differences) for _, _, test in tested)
    if fewest < _FEWEST_FOR_WILCOXON:
        note += (
            f"Too few seeds for more than a hint: with {fewest}, Wilcoxon's p cannot be below "
            f"{2.0 ** (1 - fewest):g}, and the t test takes differences to be normal."
        )
    return note.strip()
