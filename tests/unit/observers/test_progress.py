"""What a person sees while a run goes."""

from __future__ import annotations

import io
from pathlib import Path

from client_tables import table
from rich.console import Console

from simfl.observers import ProgressBar, ProgressLines, RunInfo, Summary, make_progress

INFO = RunInfo(
    name="demo", rounds=2, population=100, cohort_size=10, out=Path("runs/demo"), workers="here"
)
SUMMARY: Summary = {
    "status": "done",
    "rounds": 2,
    "wall_seconds": 3.21,
    "seconds_to_first_round": 1.5,
    "final": {"accuracy": 0.9},
    "dropped": 3,
}


def shown(*, terminal: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120, color_system=None)
    observer = make_progress(console)
    assert isinstance(observer, ProgressBar if terminal else ProgressLines)
    observer.on_run_start(INFO)
    observer.on_round({"round": 1, "train_loss": 2.0, "loss": 1.9, "accuracy": 0.5}, table(1, [0]))
    observer.on_round({"round": 2, "train_loss": 1.0}, table(2, [0]))
    observer.on_run_end(SUMMARY)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_without_a_terminal_there_are_plain_lines() -> None:
    text = shown(terminal=False)
    assert "\x1b" not in text
    lines = text.splitlines()
    assert lines[0] == "demo: 2 rounds, 10 of 100 clients a round, here"
    assert lines[1].startswith("round 1/2  train_loss 2.0000  loss 1.9000  accuracy 0.5000")
    assert lines[2].startswith("round 2/2  train_loss 1.0000")
    assert lines[3:] == [
        "done: 2 rounds in 3.2 s, the first after 1.5 s",
        "accuracy 0.9000",
        "3 updates were dropped: not finite",
        "results in runs/demo",
    ]


def test_in_a_terminal_the_bar_keeps_the_last_accuracy() -> None:
    text = shown(terminal=True)
    last = text[text.rindex("round") :] if "2/2" not in text else text[text.index("2/2") :]
    assert "train_loss 1.0000" in last
    assert "accuracy 0.5000" in last
    assert "rounds/s" in last


def test_a_run_that_never_started_is_not_summed_up() -> None:
    console = Console(file=io.StringIO(), force_terminal=False)
    make_progress(console).on_run_end(SUMMARY)
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]
