"""What a person sees of a sweep while it runs."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from simfl.scenario.sweeps import Trial
from simfl.sweep.progress import SweepLines, SweepTable, make_progress
from simfl.sweep.results import Goal

GOAL = Goal("accuracy", "max")
FIRST = Trial(0, {"seed": 0}, "0-seed=0")
SECOND = Trial(1, {"seed": 1}, "1-seed=1")


def console(width: int = 80, *, terminal: bool = False) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, width=width, height=10, force_terminal=terminal), text


def test_a_log_has_a_line_for_each_trial_that_ends():
    where, text = console()
    progress = make_progress(where, GOAL, total=2)
    assert type(progress) is SweepLines
    progress.begin("small: 2 trials")
    progress.started(FIRST, rounds=5)
    progress.reported(FIRST, {"round": 3, "value": 0.5})
    progress.ended(FIRST, "done", value=0.75, error=None)
    progress.started(SECOND, rounds=5)
    progress.ended(SECOND, "failed", value=None, error="client 3 failed\n\nTraceback")
    headline, first, second = text.getvalue().splitlines()
    assert headline == "small: 2 trials"
    assert first.startswith("1/2  0: seed=0  done  accuracy 0.7500  ")
    assert second.startswith("2/2  1: seed=1  failed  ")
    assert second.endswith("  client 3 failed")


def test_trials_that_ended_in_a_former_run_are_counted_and_not_told_again():
    where, text = console()
    progress = SweepLines(where, GOAL, total=2)
    progress.begin("small")
    progress.ended(FIRST, "done", value=0.75, error=None)
    progress.started(SECOND, rounds=5)
    progress.ended(SECOND, "done", value=0.5, error=None)
    assert text.getvalue().splitlines()[1].startswith("2/2  1: seed=1  done  accuracy 0.5000")


@pytest.mark.parametrize("width", [30, 60, 120])
def test_the_table_fits_the_terminal(width):
    where, _ = console(width, terminal=True)
    progress = SweepTable(where, GOAL, total=40)
    progress.begin("small")
    for number in range(20):
        long = Trial(number, {}, f"{number}-client.optimizer.lrate=0.1,seed={number}")
        progress.started(long, rounds=100)
        progress.reported(long, {"round": number, "value": 0.5})
    progress.ended(FIRST, "done", value=0.75, error=None)
    shown, text = console(width)
    shown.print(progress._draw())
    progress.close()
    lines = text.getvalue().splitlines()
    assert len(lines) < 10
    assert max(map(len, lines)) <= width
    assert lines[-1].startswith("1/40 trials")
    assert lines[-2].startswith("and 13 more")
