"""What has become of the trials, line by line."""

from __future__ import annotations

from pathlib import Path

import pytest

from simfl.errors import InputError
from simfl.sweep.ledger import LEDGER_FILE, Ledger, read_past


def test_a_trial_that_was_begun_again_has_not_ended(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write("began", folders=["/a"])
    for trial, state in ((0, "done"), (1, "failed"), (2, "stopped")):
        ledger.write("started", trial=trial)
        ledger.write("ended", trial=trial, state=state, value=None, error=None)
    ledger.write("began", folders=["/b"])
    ledger.write("started", trial=1)
    past = read_past(tmp_path)
    assert {number: event["state"] for number, event in past.ended.items()} == {
        0: "done",
        2: "stopped",
    }
    assert past.began["folders"] == ["/a"]


def test_what_a_searcher_was_asked_and_told_comes_back_in_its_order(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write("proposed", trial=0, values={"seed": 3})
    ledger.write("proposed", trial=1, values={"seed": 4})
    ledger.write("ended", trial=1, state="done", value=0.5, error=None)
    ledger.write("ended", trial=0, state="interrupted", value=0.1, error=None)
    past = read_past(tmp_path)
    assert past.proposed == {0: {"seed": 3}, 1: {"seed": 4}}
    assert [(event["event"], event["trial"]) for event in past.searched] == [
        ("proposed", 0),
        ("proposed", 1),
        ("ended", 1),  # the searcher gets 0's result when that trial has been resumed to its end
    ]


def test_a_last_line_that_was_cut_off_is_left_out_and_any_other_is_told(tmp_path: Path) -> None:
    path = tmp_path / LEDGER_FILE
    path.write_text('{"event": "began", "folders": []}\n{"event": "ended", "tri')
    assert read_past(tmp_path).ended == {}
    path.write_text('{"event": "ended", "tri\n{"event": "began"}\n')
    with pytest.raises(InputError, match=r"trials.jsonl:1 is damaged; remove the line"):
        read_past(tmp_path)


def test_a_folder_without_one_holds_no_sweep(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no sweep: there is no trials\.jsonl in it"):
        read_past(tmp_path)
