"""Trackers have every number of a run, and of a resumed run each once."""

from __future__ import annotations

import json
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from client_tables import info, table

from simfl.errors import MissingExtraError
from simfl.observers import MLflow, Observer, TensorBoard, WandB
from simfl.record import RoundRecord


def observe(observer: Observer, out: Path, *, done: int, until: int, status: str) -> None:
    """Tell of rounds whose train loss is one over their number, and whose recall has no value."""
    observer.prepare()
    observer.on_run_start(info(out, done=done))
    for number in range(done + 1, until + 1):
        record = {"round": number, "train_loss": 1 / number, "recall": None}
        observer.on_round(RoundRecord.parse(record), table(number, [0]))
    observer.on_run_end({"status": status})


def observe_twice(make: Any, out: Path) -> None:
    """Stop after round 4, and resume from a checkpoint of round 2 to the end, round 6."""
    observe(make(), out, done=0, until=4, status="interrupted")
    observe(make(), out, done=2, until=6, status="done")


def test_tensorboard_reads_each_round_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    observe_twice(TensorBoard, tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["train_loss"]
    read = [(event.step, event.value) for event in events.Scalars("train_loss")]
    assert read == [(n, pytest.approx(1 / n)) for n in range(1, 7)]


def test_a_full_disk_is_an_error_of_the_round_and_not_the_traceback_of_a_thread(
    tmp_path: Path,
) -> None:
    """Linux has a device that is always full: https://man7.org/linux/man-pages/man4/full.4.html"""
    observer = TensorBoard()
    observer.prepare()
    observer.on_run_start(info(tmp_path))
    threads = threading.active_count()
    observer._path = Path("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        observer.on_round(RoundRecord.parse({"round": 1, "train_loss": 1.0}), table(1, [0]))
    assert threading.active_count() == threads


def test_mlflow_has_one_run_with_each_round_once(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    out = tmp_path / "out"
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client: Any = MlflowClient(tracking_uri=uri)
    client.create_experiment("digits", artifact_location=(tmp_path / "artifacts").as_uri())
    observe_twice(lambda: MLflow(tracking_uri=uri, experiment="digits"), out)
    experiment = client.get_experiment_by_name("digits")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "out"
    assert run.info.status == "FINISHED"
    assert run.data.params == {"seed": "3", "client.epochs": "2"}
    history = client.get_metric_history(run.info.run_id, "train_loss")
    assert sorted((metric.step, metric.value) for metric in history) == [
        (n, 1 / n) for n in range(1, 7)
    ]
    assert (tmp_path / "artifacts" / run.info.run_id / "artifacts" / "scenario.yaml").exists()


def test_a_run_that_was_stopped_early_is_finished_for_mlflow(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client: Any = MlflowClient(tracking_uri=uri)
    client.create_experiment("digits", artifact_location=(tmp_path / "artifacts").as_uri())
    tracker = MLflow(tracking_uri=uri, experiment="digits")
    observe(tracker, tmp_path / "out", done=0, until=2, status="stopped")
    (run,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    assert run.info.status == "FINISHED"


@pytest.mark.slow
def test_wandb_writes_each_part_of_a_run_offline_under_one_id(tmp_path: Path) -> None:
    import wandb

    def make() -> WandB:
        return WandB(project="digits", mode="offline")

    # Folders of their own: W&B names its folder by the second in which a part has begun.
    observe(make(), tmp_path / "before", done=0, until=4, status="interrupted")
    observe(make(), tmp_path / "after", done=2, until=6, status="done")
    # Another process writes the files; it is waited for here, and at the end of any program.
    wandb.teardown()
    (first,) = (tmp_path / "before" / "wandb").glob("offline-run-*-0123456789ab/*.wandb")
    (second,) = (tmp_path / "after" / "wandb").glob("offline-run-*-0123456789ab/*.wandb")
    assert wandb_rows(first) == [logged(number) for number in (1, 2, 3, 4)]
    assert wandb_rows(second) == [logged(number) for number in (3, 4, 5, 6)]


def logged(number: int) -> dict[str, float]:
    return {"round": number, "train_loss": pytest.approx(1 / number)}  # type: ignore[dict-item]


def wandb_rows(path: Path) -> list[dict[str, float]]:
    """Return what was logged, row by row."""
    from wandb.proto.wandb_internal_pb2 import Record

    rows = []
    for data in leveldb_records(path.read_bytes()[7:]):
        record: Any = Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = {
                item.key or "/".join(item.nested_key): json.loads(item.value_json)
                for item in record.history.item
            }
            rows.append({name: v for name, v in items.items() if not name.startswith("_")})
    return rows


def leveldb_records(log: bytes) -> Iterator[bytes]:
    """Read a log as LevelDB has them, whose first block lacks the 7 bytes of W&B's own header.

    https://github.com/google/leveldb/blob/main/doc/log_format.md
    """
    block_bytes, header = 1 << 15, struct.Struct("<IHB")
    position, record = 0, b""
    while position + header.size <= len(log):
        left = block_bytes - (position + 7) % block_bytes
        if left < header.size:
            position += left
            continue
        _, length, kind = header.unpack_from(log, position)
        position += header.size
        record += log[position : position + length]
        position += length
        if kind in (1, 4):  # the whole record, or the last part of it
            yield record
            record = b""


@pytest.mark.parametrize(
    ("observer", "module", "extra"),
    [
        (TensorBoard(), "tensorboard", "tensorboard"),
        (MLflow(), "mlflow", "mlflow"),
        (WandB(), "wandb", "wandb"),
    ],
)
def test_a_missing_tracker_is_reported_with_the_remedy_before_the_start(
    observer: Observer, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"{extra}.*pip install 'simfl\[{extra}\]'"):
        observer.prepare()
