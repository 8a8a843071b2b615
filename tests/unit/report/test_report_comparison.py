"""Two runs side by side."""

from __future__ import annotations

import math

from report_cases import NOW, SCENARIO, records, write_run

from simfl.report.comparison import compare
from simfl.report.reading import read_run
from simfl.report.targets import Reached, Target


def run(folder, rounds, **scenario):
    return read_run(write_run(folder, rounds, scenario=SCENARIO | scenario), now=NOW)


def by_metric(comparison):
    return {metric.metric: metric for metric in comparison.metrics}


def test_the_first_round_and_the_largest_difference_are_found(tmp_path):
    """Accuracies 0.5, 0.6, 0.9 and 0.5, 0.75, 0.8: they part in round 2, and most there."""
    a = run(tmp_path / "a", records([0.5, 0.625, 0.875]))
    b = run(tmp_path / "b", records([0.5, 0.75, 0.8125]))
    found = compare(a, b, target=Target("accuracy", 0.7, from_above=False))
    accuracy = by_metric(found)["accuracy"]
    assert (accuracy.first_round, accuracy.largest, accuracy.largest_round) == (2, 0.125, 2)
    assert (accuracy.final_a, accuracy.final_b) == (0.875, 0.8125)
    assert accuracy.final_difference == -0.0625
    assert found.first_round == 2
    assert (found.reached_a, found.reached_b) == (Reached(3, 6.0), Reached(2, 4.0))


def test_runs_with_the_same_numbers_never_differ_however_long_they_took(tmp_path):
    a = run(tmp_path / "a", records([0.5, 0.6]))
    b = run(tmp_path / "b", records([0.5, 0.6], seconds=9.0, seconds_train=3.0, retries=4))
    found = compare(a, b, target=None)
    assert found.first_round is None
    assert found.scenario == ()
    assert "seconds" not in by_metric(found)
    assert "retries" not in by_metric(found)


def test_rounds_that_only_one_has_are_not_compared(tmp_path):
    a, b = run(tmp_path / "a", records([0.5])), run(tmp_path / "b", records([0.5, 0.6, 0.7]))
    found = compare(a, b, target=None)
    assert (found.common_rounds, found.first_round) == (1, None)


def test_an_evaluation_that_only_one_has_is_a_difference(tmp_path):
    a, b = run(tmp_path / "a", records([0.5, None])), run(tmp_path / "b", records([0.5, 0.5]))
    assert by_metric(compare(a, b, target=None))["accuracy"].first_round == 2


def test_two_numbers_that_are_none_are_the_same(tmp_path):
    a = run(tmp_path / "a", records([math.nan]))
    b = run(tmp_path / "b", records([math.nan]))
    accuracy = by_metric(compare(a, b, target=None))["accuracy"]
    assert (accuracy.first_round, accuracy.largest) == (None, None)


def test_scenarios_are_compared_with_their_seeds(tmp_path):
    a, b = run(tmp_path / "a", records([0.5])), run(tmp_path / "b", records([0.5]), seed=4)
    (difference,) = compare(a, b, target=None).scenario
    assert (difference.key, difference.values) == ("seed", ("0", "4"))
