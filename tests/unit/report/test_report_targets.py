"""Rounds and seconds to a target."""

from __future__ import annotations

import pytest
from report_cases import NOW, records, write_run

from simfl.errors import InputError
from simfl.report.reading import read_run
from simfl.report.targets import Reached, Target, default_target, parse_target, reach


def run(folder, accuracies, *, status=None, **more):
    summary = None if status is None else {"status": status}
    return read_run(write_run(folder, records(accuracies, **more), summary=summary), now=NOW)


def test_the_first_evaluation_at_the_target_counts(tmp_path):
    """Rounds of 2 seconds: the third ends after 6."""
    found = reach(run(tmp_path, [0.5, None, 0.8, 0.7]), Target("accuracy", 0.8, from_above=False))
    assert found == Reached(round=3, seconds=6.0)


def test_a_loss_reaches_its_target_from_above(tmp_path):
    found = reach(run(tmp_path, [0.5, 0.75]), Target("loss", 0.25, from_above=True))
    assert found == Reached(round=2, seconds=4.0)


def test_a_target_may_not_be_reached(tmp_path):
    assert reach(run(tmp_path, [0.5]), Target("accuracy", 0.8, from_above=False)) is None


def test_where_rounds_say_no_seconds_there_are_none(tmp_path):
    found = reach(run(tmp_path, [0.9], seconds="?"), Target("accuracy", 0.8, from_above=False))
    assert found == Reached(round=1, seconds=None)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("accuracy=0.9", Target("accuracy", 0.9, from_above=False)),
        (" train_loss = 1e-2", Target("train_loss", 0.01, from_above=True)),
        ("score<=3", Target("score", 3, from_above=True)),
        ("loss>=3", Target("loss", 3, from_above=False)),
    ],
)
def test_a_target_is_read_with_its_side(text, target):
    assert parse_target(text, []) == target


@pytest.mark.parametrize("text", ["", "accuracy", "accuracy=", "accuracy=high", "=0.9", "a=inf"])
def test_a_target_of_another_form_is_refused(text):
    with pytest.raises(InputError, match=r"is not of the form accuracy=0\.9"):
        parse_target(text, [])


def test_the_default_target_is_the_highest_percent_that_all_reach(tmp_path):
    """The best are 0.87 and 0.849: both reach 0.84, and not both 0.85."""
    runs = [run(tmp_path / "a", [0.87, 0.8]), run(tmp_path / "b", [0.2, 0.849])]
    assert default_target(runs) == Target("accuracy", 0.84, from_above=False)


def test_runs_that_were_stopped_or_learn_nothing_set_no_target(tmp_path):
    """Of a sweep: two that are done, one that diverged, and one that was stopped at 0.3."""
    found = [(0.9, "done"), (0.8, "done"), (0.1, "done"), (0.6, "stopped")]
    runs = [run(tmp_path / str(a), [a], status=status) for a, status in found]
    assert default_target(runs) == Target("accuracy", 0.8, from_above=False)


def test_without_accuracy_there_is_no_target(tmp_path):
    assert default_target([run(tmp_path, [None])]) is None


def test_a_metric_says_from_which_side_its_target_is_reached(tmp_path):
    folder = write_run(tmp_path / "a", records([0.5]))
    (folder / "run.json").write_text('{"better": {"nll": "min", "lossless": "max"}}')
    runs = [read_run(folder, now=NOW)]
    assert parse_target("nll=0.5", runs) == Target("nll", 0.5, from_above=True)
    assert parse_target("lossless=0.5", runs) == Target("lossless", 0.5, from_above=False)


def test_without_a_test_split_the_target_is_of_clients(tmp_path):
    rounds = [{"round": n, "train_loss": 1.0, "client_accuracy": 0.4 * n} for n in (1, 2)]
    runs = [read_run(write_run(tmp_path, rounds), now=NOW)]
    assert default_target(runs) == Target("client_accuracy", 0.8, from_above=False)
