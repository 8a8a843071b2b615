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
from simfl.observers.progress import _Progress
from simfl.record import RoundRecord

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
        observer.on_round(RoundRecord.parse(record), table(record["round"], [0]))
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
    evaluated = "loss 1.9000  accuracy 0.5000  updates dropped 3"
    assert lines[1].startswith(f"round 1/2  train_loss 2.0000  {evaluated}  ")
    assert lines[2].startswith(f"round 2/2  train_loss 1.0000  {evaluated}  ")
    assert lines[3:] == [
        "done: 2 rounds in 3.2 s, the first after 1.5 s",
        "accuracy 0.9000",
        "updates dropped: 3, not finite, or of clients that failed or were stragglers",
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
        observer.on_round(
            RoundRecord.parse({"round": number, "dropped": 0, "train_loss": 1.0}), table(1, [0])
        )
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
    observer.on_run_start(replace(INFO, rounds=100, history=(RoundRecord(1),) * 96))
    time_now[0] = 4.0
    observer.on_round(
        RoundRecord.parse({"round": 97, "dropped": 0, "train_loss": 1.0}), table(97, [0])
    )
    assert "4.0 s/round  12 s left" in console.file.getvalue()  # type: ignore[attr-defined]


def paces(ends_s: list[float], *, rounds: int) -> list[str]:
    """Return what is said of the pace after rounds that end at these times."""
    time_now = [0.0]
    progress = _Progress(replace(INFO, rounds=rounds), now=lambda: time_now[0])
    said = []
    for number, end_s in enumerate(ends_s, start=1):
        time_now[0] = end_s
        progress.add(RoundRecord.parse({"round": number, "dropped": 0}))
        said.append(progress.pace())
    return said


def test_a_slow_first_round_counts_only_as_long_as_there_is_no_other() -> None:
    """5 s, and then 0.05 s each: 99 rounds of 5 s are 8 min 15 s, 98 of 0.05 s are 4.9 s."""
    first, second, third = paces([5.0, 5.05, 5.1], rounds=100)
    assert first == "5.0 s/round  8 min 15 s left"
    assert second == "20.0 rounds/s  5 s left"
    assert third == "20.0 rounds/s  5 s left"


def test_the_pace_is_the_mean_of_ten_rounds_and_then_follows_the_latest() -> None:
    """Ten rounds of 2 s behind the first, and one of 12 s: 2 + 0.1 * (12 - 2) = 3 s, 988 times."""
    ends_s = [5.0 + 2 * number for number in range(11)]
    *_, before, after = paces([*ends_s, ends_s[-1] + 12], rounds=1000)
    assert before == "2.0 s/round  32 min 58 s left"  # 989 rounds
    assert after == "3.0 s/round  49 min 24 s left"


def test_the_time_left_goes_down_within_a_round() -> None:
    """A round of 10 s, 4 s of the next of three: 26 s are left of 30."""
    time_now = [0.0]
    progress = _Progress(replace(INFO, rounds=4), now=lambda: time_now[0])
    time_now[0] = 10.0
    progress.add(RoundRecord.parse({"round": 1, "dropped": 0}))
    time_now[0] = 14.0
    assert progress.pace() == "10.0 s/round  26 s left"


def test_a_run_that_never_started_is_not_summed_up() -> None:
    console = Console(file=io.StringIO(), force_terminal=False)
    make_progress(console).on_run_end(SUMMARY)
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]


def test_what_has_no_value_is_a_dash() -> None:
    text = io.StringIO()
    lines = ProgressLines(Console(file=text, width=200))
    lines.on_run_start(INFO)
    lines.on_round(
        RoundRecord.parse({"round": 1, "dropped": 0, "train_loss": None, "accuracy": 0.5}),
        table(1, [0]),
    )
    lines.on_run_end(SUMMARY | {"final": {"accuracy": None, "client_accuracy_count": 7}})
    assert "train_loss —  accuracy 0.5000" in text.getvalue()
    assert "accuracy —  client_accuracy_count 7" in text.getvalue()


def test_of_the_clients_the_mean_and_the_worst_are_summed_up() -> None:
    text = io.StringIO()
    lines = ProgressLines(Console(file=text, width=200))
    lines.on_run_start(INFO)
    parts = ("", "_by_examples", "_std", "_worst", "_count", "_best")
    final = {f"client_accuracy{part}": 0.5 for part in parts} | {"best": 0.25}
    lines.on_run_end(SUMMARY | {"final": final})
    summed_up = "\nclient_accuracy 0.5000  client_accuracy_worst 0.5000  best 0.2500\n"
    assert summed_up in text.getvalue()


def test_the_rounds_and_the_seconds_of_a_resumed_run_are_those_since_then() -> None:
    console = Console(file=io.StringIO(), width=120)
    observer = ProgressLines(console)
    observer.on_run_start(replace(INFO, rounds=2000, history=(RoundRecord(1),) * 1050))
    summary: Summary = {**SUMMARY, "status": "interrupted", "rounds": 1731, "wall_seconds": 24.0}
    observer.on_run_end(summary | {"resumed_after_round": 1050})
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "interrupted after round 1731: 681 rounds since round 1050 in 24.0 s" in said
