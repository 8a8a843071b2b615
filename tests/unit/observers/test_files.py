"""What a run leaves behind as text."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
from client_tables import info, table

from simfl.observers import JsonLines, SummaryFile, write_whole
from simfl.record import RoundRecord


def rounds_in(out: Path) -> list[int]:
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["round"] for line in lines]


def test_each_round_is_on_disk_when_it_has_ended(tmp_path: Path) -> None:
    observer = JsonLines(tmp_path, notify=print)
    observer.on_run_start(info(tmp_path))
    for number in (1, 2):
        observer.on_round(
            RoundRecord.parse({"round": number, "train_loss": 0.5 / number}), table(number, [0])
        )
        assert rounds_in(tmp_path) == list(range(1, number + 1))
    observer.on_run_end({})
    assert observer.lost() is None


def test_an_incomplete_line_is_removed_when_the_run_resumes(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"round": 1}\n{"round": 2}\n{"round": 3}\n{"rou')
    observer = JsonLines(tmp_path, notify=print)
    observer.on_run_start(info(tmp_path, done=2))
    observer.on_round(RoundRecord.parse({"round": 3}), table(3, [0]))
    assert rounds_in(tmp_path) == [1, 2, 3]


def test_rounds_that_cannot_be_written_are_reported_once_and_written_later(tmp_path: Path) -> None:
    """A folder in the file's place stands for a full disk."""
    told: list[str] = []
    observer = JsonLines(tmp_path, notify=told.append)
    observer.on_run_start(info(tmp_path))
    observer.on_round(RoundRecord.parse({"round": 1}), table(1, [0]))
    file = tmp_path / "metrics.jsonl"
    file.rename(tmp_path / "away")
    file.mkdir()
    for number in (2, 3):
        observer.on_round(RoundRecord.parse({"round": number}), table(number, [0]))
    assert told == [f"{file} cannot be written: Is a directory; the run continues"]
    assert observer.lost() == "rounds 2 to 3: Is a directory"
    file.rmdir()
    # Half of a line has got through before the disk was full.
    file.write_text((tmp_path / "away").read_text() + '{"rou')
    observer.on_round(RoundRecord.parse({"round": 4}), table(4, [0]))
    assert rounds_in(tmp_path) == [1, 2, 3, 4]
    assert told[1:] == [f"{file} can be written again; no round is missing"]
    assert observer.lost() is None


@pytest.mark.parametrize("what_is_left", [None, b"", b'{"round": 1, "loss": 0.5}\n{"ro'])
def test_a_truncated_file_is_restored_and_reported(
    what_is_left: bytes | None, tmp_path: Path
) -> None:
    told: list[str] = []
    observer = JsonLines(tmp_path, notify=told.append)
    observer.on_run_start(info(tmp_path, done=2))
    observer.on_round(RoundRecord.parse({"round": 3}), table(3, [0]))
    file = tmp_path / "metrics.jsonl"
    file.unlink()
    if what_is_left is not None:
        file.write_bytes(what_is_left)
    observer.on_round(RoundRecord.parse({"round": 4}), table(4, [0]))
    assert rounds_in(tmp_path) == [1, 2, 3, 4]
    assert told == [f"another process truncated {file}; it has been restored"]


def test_a_link_in_a_shared_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / ".summary.json.unfinished").symlink_to(tmp_path / "victim")
    write_whole(tmp_path / "summary.json", "{}")
    assert (tmp_path / "summary.json").read_text() == "{}"
    assert not (tmp_path / "victim").exists()


def test_the_last_retry_is_at_the_end(tmp_path: Path) -> None:
    observer = JsonLines(tmp_path, notify=print)
    observer.on_run_start(info(tmp_path))
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").mkdir()
    observer.on_round(RoundRecord.parse({"round": 1}), table(1, [0]))
    (tmp_path / "metrics.jsonl").rmdir()
    observer.on_run_end({})
    assert rounds_in(tmp_path) == [1]
    assert observer.lost() is None


def test_the_summary_is_written_at_the_end(tmp_path: Path) -> None:
    SummaryFile(tmp_path).on_run_end({"status": "done"})
    assert json.loads((tmp_path / "summary.json").read_text()) == {"status": "done"}


def test_a_file_that_cannot_be_written_completely_is_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_whole(path, "before")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, "after")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "before"
