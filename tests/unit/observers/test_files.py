"""What a run leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

from client_tables import table
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from simfl.observers import JsonLines, RunInfo, TensorBoard


def info(out: Path) -> RunInfo:
    return RunInfo(name="x", rounds=2, population=1, cohort_size=1, out=out, workers="here")


def test_each_round_is_on_disk_when_it_has_ended(tmp_path: Path) -> None:
    observer = JsonLines(tmp_path)
    observer.on_run_start(info(tmp_path))
    for number in (1, 2):
        observer.on_round({"round": number, "train_loss": 0.5 / number}, table(number, [0]))
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["round"] for line in lines] == list(range(1, number + 1))
    observer.on_run_end({"status": "done"})
    assert json.loads((tmp_path / "summary.json").read_text()) == {"status": "done"}


def test_tensorboard_reads_every_number_at_its_round(tmp_path: Path) -> None:
    observer = TensorBoard(tmp_path)
    observer.on_run_start(info(tmp_path))
    observer.on_round({"round": 1, "train_loss": 0.5}, table(1, [0]))
    observer.on_round({"round": 2, "train_loss": 0.25, "accuracy": 0.75}, table(2, [0]))
    observer.on_run_end({})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    read = {
        tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }
    assert read == {"train_loss": [(1, 0.5), (2, 0.25)], "accuracy": [(2, 0.75)]}
