"""What a person sees while a run goes."""

from __future__ import annotations

import io
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from client_tables import table
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from rich.console import Console

from simfl.observers import (
    Observer,
    ProgressBar,
    ProgressLines,
    RunInfo,
    Summary,
    make_progress,
)

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


ROUNDS: list[dict[str, Any]] = [
    {"round": 1, "dropped": 3, "train_loss": 2.0, "loss": 1.9, "accuracy": 0.5},
    {"round": 2, "dropped": 0, "train_loss": 1.0},
]


def follow(observer: Observer, info: RunInfo = INFO) -> None:
    observer.on_run_start(info)
    for record in ROUNDS:
        observer.on_round(record, table(record["round"], [0]))
    observer.on_run_end(SUMMARY)


def shown(*, terminal: bool, width: int = 120, info: RunInfo = INFO) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=width, color_system=None)
    observer = make_progress(console)
    assert isinstance(observer, ProgressBar if terminal else ProgressLines)
    follow(observer, info)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_without_a_terminal_there_are_plain_lines_that_keep_the_last_accuracy() -> None:
    text = shown(terminal=False)
    assert not set(text) & {"\x1b", "\r", "\b"}
    lines = text.splitlines()
    assert lines[0] == "demo: 2 rounds, 10 of 100 clients a round, here"
    evaluated = "loss 1.9000  accuracy 0.5000  updates left out 3"
    assert lines[1].startswith(f"round 1/2  train_loss 2.0000  {evaluated}  ")
    assert lines[2].startswith(f"round 2/2  train_loss 1.0000  {evaluated}  ")
    assert lines[3:] == [
        "done: 2 rounds in 3.2 s, the first after 1.5 s",
        "accuracy 0.9000",
        "updates left out: 3, not finite or of clients that failed",
        "results in runs/demo",
    ]


def test_lines_come_every_two_seconds_and_later_every_hundredth_of_the_time() -> None:
    """Rounds of 1 s. Past 1,000 s the pause is over 10 s, and so 11 rounds."""
    console = Console(file=io.StringIO(), width=120)
    observer = ProgressLines(console, now=lambda: time_now[0])
    time_now = [0.0]
    observer.on_run_start(replace(INFO, rounds=5000))
    told = []
    for number in range(1, 1201):
        time_now[0] = float(number)
        before = console.file.tell()
        observer.on_round({"round": number, "dropped": 0, "train_loss": 1.0}, table(1, [0]))
        told += [number] * (console.file.tell() > before)
    assert told[:4] == [1, 3, 5, 7]
    late = [number for number in told if 1000 < number <= 1090]
    assert {after - before for before, after in itertools.pairwise(late)} == {11}


@pytest.mark.parametrize("width", [60, 80, 200])
def test_in_a_terminal_the_last_state_of_the_bar_stays_whole_at_any_width(width: int) -> None:
    last = shown(terminal=True, width=width).rpartition("round 2/2")[2]
    assert "rounds/s" in last
    assert "0 s left" in last
    assert "train_loss 1.0000  loss 1.9000  accuracy 0.5000" in last


def test_in_a_notebook_one_text_is_updated_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = InteractiveShell.instance()
    try:
        with capture_output() as captured:
            console = Console(force_jupyter=True)
            follow(make_progress(console))
    finally:
        InteractiveShell.clear_instance()
        shell.history_manager.end_session()
    first, *updates = captured.outputs
    assert first.data == {"text/plain": "demo: 2 rounds, 10 of 100 clients a round, here"}
    assert {update.update for update in updates} == {True}
    assert {output.transient["display_id"] for output in captured.outputs} == {
        first.transient["display_id"]
    }
    last = updates[-1].data["text/plain"].splitlines()
    assert last[1].startswith("round 2/2 ━━━")
    assert last[2].startswith("train_loss 1.0000  loss 1.9000  accuracy 0.5000")
    assert last[-1] == "results in runs/demo"


def test_the_address_of_rays_dashboard_is_shown_where_there_is_one() -> None:
    lines = shown(terminal=False, info=replace(INFO, dashboard="127.0.0.1:8265")).splitlines()
    assert lines[1] == "Ray's dashboard: http://127.0.0.1:8265"


def test_a_resumed_run_counts_its_pace_from_where_it_goes_on() -> None:
    """One round in 4 s, three to go: 12 s, and not 4 s / 97 * 3."""
    time_now = [0.0]
    console = Console(file=io.StringIO(), width=120)
    observer = ProgressLines(console, now=lambda: time_now[0])
    observer.on_run_start(replace(INFO, rounds=100, history=({"round": 1},) * 96))
    time_now[0] = 4.0
    observer.on_round({"round": 97, "dropped": 0, "train_loss": 1.0}, table(97, [0]))
    assert "4.0 s/round  12 s left" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_run_that_never_started_is_not_summed_up() -> None:
    console = Console(file=io.StringIO(), force_terminal=False)
    make_progress(console).on_run_end(SUMMARY)
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]
