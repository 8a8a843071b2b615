import errno
import os
import sys
from pathlib import Path

import pytest

from simfl.errors import CheckpointError
from simfl.states import Storage, open_storage
from tests.unit.states.state_cases import files_below


def test_the_home_of_an_unknown_user_is_an_error_on_one_line() -> None:
    with pytest.raises(CheckpointError, match=r"^~nobody-at-all/a: .*; give the full path$"):
        open_storage("~nobody-at-all/a")


# -- every storage -------------------------------------------------------------------------


def test_what_is_written_is_read(storage: Storage) -> None:
    storage.write("a/b.bin", [b"one ", memoryview(b"two"), b""])
    assert storage.read("a/b.bin") == b"one two"
    assert b"".join(storage.read_chunks("a/b.bin")) == b"one two"


def test_a_file_of_many_chunks_is_read_in_chunks(storage: Storage) -> None:
    data = os.urandom((1 << 22) + 5)
    storage.write("large", [data])
    chunks = list(storage.read_chunks("large"))
    assert [len(chunk) for chunk in chunks] == [1 << 22, 5]
    assert b"".join(chunks) == data


def test_an_empty_file_is_a_file(storage: Storage) -> None:
    storage.write("empty", [])
    assert storage.read("empty") == b""
    assert storage.list_files() == {"empty": 0}


def test_a_file_is_replaced(storage: Storage) -> None:
    storage.write("a", [b"a long first version"])
    storage.write("a", [b"second"])
    assert storage.read("a") == b"second"
    assert storage.list_files() == {"a": 6}


def test_a_range_ends_where_the_file_does(storage: Storage) -> None:
    storage.write("a", [b"0123456789"])
    assert storage.read("a", 2, 5) == b"234"
    assert storage.read("a", 8, 100) == b"89"
    assert storage.read("a", 0, 0) == b""


def test_files_are_listed_with_their_sizes_by_folder(storage: Storage) -> None:
    storage.write("states/a", [b"1"])
    storage.write("states/deep/b", [b"22"])
    storage.write("other", [b"333"])
    assert storage.list_files() == {"states/a": 1, "states/deep/b": 2, "other": 3}
    assert storage.list_files("states") == {"states/a": 1, "states/deep/b": 2}


def test_a_storage_that_nothing_was_written_to_is_empty(storage: Storage) -> None:
    assert storage.list_files() == {}
    assert storage.list_files("states") == {}


def test_files_and_trees_are_deleted(storage: Storage) -> None:
    for name in ("keep", "tree/a", "tree/deep/b", "file"):
        storage.write(name, [b"x"])
    storage.delete("file")
    storage.delete_tree("tree")
    assert storage.list_files() == {"keep": 1}


def test_what_is_not_there_can_be_deleted(storage: Storage) -> None:
    storage.delete("absent")
    storage.delete("no/folder")
    storage.delete_tree("absent")


def test_a_file_that_is_not_there_is_a_checkpoint_error(storage: Storage) -> None:
    for read in (
        storage.read,
        lambda name: storage.read(name, 0, 1),
        lambda name: list(storage.read_chunks(name)),
    ):
        with pytest.raises(
            CheckpointError, match=r"cannot read .*/absent: it does not exist; every node"
        ):
            read("absent")


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/etc/passwd", "", ".", "a//b", "a\\b", "c:x"]
)
def test_a_name_that_leads_elsewhere_is_refused(storage: Storage, name: str) -> None:
    for use in (
        storage.read,
        storage.delete,
        storage.delete_tree,
        lambda name: storage.write(name, [b"x"]),
        lambda name: storage.read(name, 0, 1),
    ):
        with pytest.raises(CheckpointError, match="is not a valid name of a file in a checkpoint"):
            use(name)


def test_a_storage_opens_again_by_its_location(storage: Storage) -> None:
    storage.write("a", [b"1"])
    assert open_storage(storage.location).read("a") == b"1"


# -- local ---------------------------------------------------------------------------------


def test_a_relative_folder_stays_the_same_when_the_process_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    storage = open_storage("here")
    assert storage.location == str(tmp_path / "here")


def test_a_file_url_is_a_local_folder(tmp_path: Path) -> None:
    open_storage(f"file://{tmp_path}/a").write("x", [b"1"])
    assert (tmp_path / "a" / "x").read_bytes() == b"1"


def test_a_file_is_on_the_disk_before_it_has_its_name_and_its_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flush the file, rename it, flush the folder: a power failure leaves the old or the new."""
    storage = open_storage(tmp_path)
    storage.write("a", [b"old"])
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def flushed(descriptor: int) -> None:
        is_folder = os.path.isdir(f"/proc/self/fd/{descriptor}")
        done.append("flush the folder" if is_folder else "flush the file")
        fsync(descriptor)

    def renamed(source: Path, target: Path) -> None:
        assert source.parent == target.parent  # else it could be a copy
        assert source.read_bytes() == b"new"
        assert target.read_bytes() == b"old"
        done.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", renamed)
    storage.write("a", [b"new"])
    assert done == ["flush the file", "rename", "flush the folder"]


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.ENOSPC, "No space left on device; free some space"),
        (errno.EACCES, "Permission denied; check its permissions"),
        (errno.EIO, "Input/output error; check the storage"),
    ],
)
def test_a_failed_write_leaves_what_was_there_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, remedy: str
) -> None:
    storage = open_storage(tmp_path)
    storage.write("a", [b"old"])

    def fail(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(CheckpointError, match=f"^cannot write {tmp_path}/a: {remedy}"):
            storage.write("a", [b"new"])
    assert storage.read("a") == b"old"
    assert files_below(tmp_path) == {"a"}


def test_an_interrupted_write_leaves_what_was_there(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    storage.write("a", [b"old"])

    def pieces() -> object:
        yield b"ne"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        storage.write("a", pieces())
    assert storage.read("a") == b"old"
    assert files_below(tmp_path) == {"a"}


def test_a_place_that_is_a_file_is_a_checkpoint_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    storage = open_storage(tmp_path / "file")
    with pytest.raises(CheckpointError, match=r"cannot write .*choose another place"):
        storage.write("a/b", [b"x"])
    with pytest.raises(CheckpointError, match=r"cannot list .*Not a directory"):
        storage.list_files()


def test_what_a_killed_write_left_is_not_listed_and_can_be_deleted(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    storage.write("states/a", [b"whole"])
    (tmp_path / "states" / ".b.0badcafe.unfinished").write_bytes(b"hal")
    assert storage.list_files() == {"states/a": 5}
    storage.delete_leftovers()
    assert files_below(tmp_path) == {"states/a"}


# -- remote --------------------------------------------------------------------------------


@pytest.mark.parametrize(("url", "package"), [("s3://b/x", "s3fs"), ("gs://b/x", "gcsfs")])
def test_a_protocol_without_its_package_says_what_to_install(
    url: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # importing it fails, installed or not
    with pytest.raises(CheckpointError, match=f"needs the package '{package}'; install it with"):
        open_storage(url)


def test_an_unknown_protocol_is_a_checkpoint_error() -> None:
    with pytest.raises(CheckpointError, match="s4://b/x: Protocol not known: s4; give a folder"):
        open_storage("s4://b/x")


def test_a_listing_that_is_refused_is_not_an_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a run would start over, on top of checkpoints that it may not read."""
    from fsspec.implementations.memory import MemoryFileSystem

    storage = open_storage("memory://refused")

    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, "Forbidden")

    monkeypatch.setattr(MemoryFileSystem, "ls", refuse)
    with pytest.raises(CheckpointError, match="cannot list memory://refused: Forbidden; check"):
        storage.list_files()


def test_an_error_of_the_protocols_own_is_a_checkpoint_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    class HttpError(Exception):
        pass

    def fail(*args: object, **options: object) -> None:
        raise HttpError("401, token expired")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", fail)
    with pytest.raises(CheckpointError, match="HttpError: 401, token expired; check the address"):
        open_storage("memory://refused").write("a", [b"x"])
