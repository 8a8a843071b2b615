"""The per-client tables, as any reader of Parquet sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from client_tables import info, table

from simfl.observers import ClientEvaluation, ClientFiles, parts
from simfl.record import RoundRecord


def rounds_of(folder: Path) -> list[int]:
    rounds: list[int] = pq.read_table(folder)["round"].to_pylist()
    return rounds


def started(out: Path, *, done: int = 0) -> ClientFiles:
    files = ClientFiles(out)
    files.on_run_start(info(out, done=done))
    return files


def test_a_row_holds_what_a_client_did_and_which_actor_trained_it(tmp_path: Path) -> None:
    files = started(tmp_path)
    clients = table(
        1,
        [4, 2],
        train_loss=np.array([0.25, 0.5]),
        first_loss=np.array([2.0, np.nan]),
        actor=np.array([1, 0]),
        actors=("client-0", "client-1"),
        retries=np.array([0, 2]),
        dropped={2: "not finite"},
    )
    files.on_round(RoundRecord.parse({"round": 1}), clients)
    files.on_round(RoundRecord.parse({"round": 2}), table(2, [9], actors=("client-1",)))
    files.on_run_end({})
    rows = pq.read_table(tmp_path / "clients.parquet").to_pylist()
    assert [row["client"] for row in rows] == [4, 2, 9]
    assert [row["actor"] for row in rows] == ["client-1", "client-0", "client-1"]
    assert [row["retries"] for row in rows] == [0, 2, 0]
    assert [row["dropped"] for row in rows] == [None, "not finite", None]
    assert [row["train_loss"] for row in rows] == [0.25, 0.5, 0.5]
    assert rows[0]["first_loss"] == 2.0
    assert np.isnan(rows[1]["first_loss"])


def test_the_columns_have_the_types_that_are_documented(tmp_path: Path) -> None:
    files = started(tmp_path)
    files.on_round(RoundRecord.parse({"round": 1}), table(1, [4, 2]))
    files.flush()
    schema = pq.read_table(tmp_path / "clients.parquet").schema
    assert dict(zip(schema.names, schema.types, strict=True)) == {
        "round": pa.int32(),
        "client": pa.int32(),
        "num_examples": pa.int32(),
        "num_steps": pa.int32(),
        "train_loss": pa.float32(),
        "first_loss": pa.float32(),
        "last_loss": pa.float32(),
        "delta_norm": pa.float32(),
        "seconds": pa.float32(),
        "retries": pa.int16(),
        "actor": pa.dictionary(pa.int32(), pa.string()),
        "dropped": pa.string(),
    }


def test_evaluations_have_a_column_for_each_metric(tmp_path: Path) -> None:
    files = started(tmp_path)
    metrics = {"loss": np.array([0.5, 1.5]), "accuracy": np.array([0.75, 0.25])}
    weights = dict.fromkeys(metrics, np.array([4.0, 8.0]))
    evaluation = ClientEvaluation(np.array([0, 1]), weights, metrics)
    files.on_round(RoundRecord.parse({"round": 1}), table(1, [1]))
    files.on_round(RoundRecord.parse({"round": 2}), table(2, [0], evaluation=evaluation))
    files.on_run_end({})
    assert pq.read_table(tmp_path / "evaluations.parquet").to_pylist() == [
        {"round": 2, "client": 0, "weight": 4.0, "loss": 0.5, "accuracy": 0.75},
        {"round": 2, "client": 1, "weight": 8.0, "loss": 1.5, "accuracy": 0.25},
    ]


def test_flushed_rows_can_be_read_while_the_run_continues(tmp_path: Path) -> None:
    files = started(tmp_path)
    for number in range(1, 6):
        files.on_round(RoundRecord.parse({"round": number}), table(number, [number]))
        files.flush()
        assert rounds_of(tmp_path / "clients.parquet") == list(range(1, number + 1))
    assert len(list((tmp_path / "clients.parquet").iterdir())) == 1


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave a file alone from 4 rows on."""
    monkeypatch.setattr(parts, "CLOSED_ROWS", 4)


def write_rounds(files: ClientFiles, numbers: range) -> None:
    for number in numbers:
        files.on_round(RoundRecord.parse({"round": number}), table(number, [1, 2, 3]))
        files.flush()


def test_a_file_that_is_large_enough_is_not_rewritten(tmp_path: Path, small_files: None) -> None:
    """3 rows a round: a file is left alone when it has 6, so 7 rounds are three of 6 and one."""
    write_rounds(started(tmp_path), range(1, 8))
    found = sorted((tmp_path / "clients.parquet").iterdir())
    assert [pq.read_metadata(path).num_rows for path in found] == [6, 6, 6, 3]


@pytest.mark.parametrize("done", range(8))
def test_a_resumed_run_removes_the_rows_of_rounds_that_it_repeats(
    done: int, tmp_path: Path, small_files: None
) -> None:
    """Wherever the files end: at the round, within it, or before."""
    write_rounds(started(tmp_path), range(1, 8))
    (tmp_path / "clients.parquet" / ".part-000004.parquet.unfinished").write_bytes(b"PAR1")
    files = started(tmp_path, done=done)
    write_rounds(files, range(done + 1, 10))
    assert rounds_of(tmp_path / "clients.parquet") == [r for r in range(1, 10) for _ in range(3)]
    found = sorted((tmp_path / "clients.parquet").iterdir())
    assert [pq.read_metadata(path).num_rows for path in found] == [6, 6, 6, 6, 3]


def test_many_rows_are_written_without_a_flush(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "WAITING_ROWS", 5)
    files = started(tmp_path)
    files.on_round(RoundRecord.parse({"round": 1}), table(1, [1, 2, 3]))
    assert not (tmp_path / "clients.parquet").exists()
    files.on_round(RoundRecord.parse({"round": 2}), table(2, [1, 2, 3]))
    assert len(rounds_of(tmp_path / "clients.parquet")) == 6


def test_rows_wait_for_a_few_seconds_at_most(tmp_path: Path) -> None:
    seconds = iter([0.0, 9.9, 10.0, 10.0])
    files: Any = parts.PartFiles(
        tmp_path / "x.parquet",
        to_table=lambda rounds: pa.table({"round": rounds}),
        count_rows=lambda _: 1,
        now=lambda: next(seconds),
    )
    files.add(1)
    assert not (tmp_path / "x.parquet").exists()
    files.add(2)
    assert rounds_of(tmp_path / "x.parquet") == [1, 2]


def test_a_missing_value_is_null_and_an_infinite_one_is_kept(tmp_path: Path) -> None:
    files = started(tmp_path)
    metrics = {"loss": np.array([0.5, np.inf]), "recall": np.array([np.nan, 0.25])}
    weights = {"loss": np.array([4.0, 8.0]), "recall": np.array([0.0, 3.0])}
    evaluation = ClientEvaluation(np.array([0, 1]), weights, metrics)
    files.on_round(RoundRecord.parse({"round": 2}), table(2, [0], evaluation=evaluation))
    files.on_run_end({})
    rows = pq.read_table(tmp_path / "evaluations.parquet")
    assert rows["loss"].to_pylist() == [0.5, np.inf]
    assert rows["recall"].to_pylist() == [None, 0.25]
