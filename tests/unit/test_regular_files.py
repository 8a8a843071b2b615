"""Files of others: what is no regular file, or has no end, is refused before it is read."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from simfl.regular_files import open_regular, read_regular, replacing


def refusal(path: Path) -> str:
    with pytest.raises(OSError, match="it is") as raised:
        read_regular(path)
    with pytest.raises(OSError, match="it is"):
        open_regular(path)
    return str(raised.value.strerror)


def test_a_regular_file_is_read_through_a_link_too(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "b").symlink_to("a")
    assert read_regular(tmp_path / "b", limit=5) == b"12345"
    with open_regular(tmp_path / "b") as file:
        assert file.read() == b"12345"


def test_what_is_no_regular_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    Path("endless").symlink_to("/dev/zero")
    Path("folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        assert refusal(Path("socket")) == "it is a socket, not a regular file"
    assert refusal(Path("pipe")) == "it is a named pipe, not a regular file"
    assert refusal(Path("endless")) == "it is a device, not a regular file"
    assert refusal(Path("folder")) == "it is a folder"
    with pytest.raises(FileNotFoundError):
        read_regular("nothing")


def test_one_with_more_bytes_than_expected_is_not_read(tmp_path: Path) -> None:
    """A file with holes takes no room on the disk; 60 GB of it would in memory."""
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(60_000_000_000)
    with pytest.raises(OSError, match="it has more than 268,435,456 bytes"):
        read_regular(tmp_path / "holes")
    (tmp_path / "six").write_bytes(b"123456")
    with pytest.raises(OSError, match="it has more than 5 bytes"):
        read_regular(tmp_path / "six", limit=5)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
def test_a_file_that_does_not_say_its_size_is_counted_as_it_is_read() -> None:
    assert os.stat("/proc/self/maps").st_size == 0
    with pytest.raises(OSError, match="it has more than 10 bytes"):
        read_regular("/proc/self/maps", limit=10)


def test_a_file_is_replaced_at_the_end_of_the_block(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with replacing(path) as aside:
        aside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_exception_leaves_the_previous_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(OSError, match="No such file"), replacing(path):
        (tmp_path / "gone").read_text()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
