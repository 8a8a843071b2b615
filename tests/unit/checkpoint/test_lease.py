"""One writer for a place, on this machine and on others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from simfl.checkpoint import Lease, lease
from simfl.errors import InputError, LeaseLostError
from simfl.states import Storage, open_storage

FIRST = "owner/000001.json"


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease.time, "sleep", lambda _: pytest.fail("it waits"))


class Clock:
    """Time that goes on by sleeping; ``then`` is called after each sleep."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, then: Any = lambda: None) -> None:
        self.seconds = 0.0
        self._then = then
        monkeypatch.setattr(lease.time, "sleep", self.sleep)
        monkeypatch.setattr(lease.time, "monotonic", lambda: self.seconds)

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        self._then()


def told(line: str) -> None:
    pytest.fail(f"told: {line}")


def leave_behind(storage: Storage, **changes: Any) -> dict[str, Any]:
    """Write the file of an owner that is this process but for the changes."""
    with Lease(storage, notify=told):
        owner = json.loads(storage.read(FIRST)) | {"token": "another"} | changes
    storage.write(FIRST, [json.dumps(owner).encode()])
    return owner


def test_the_second_is_refused_by_name_and_writes_nothing(
    storage: Storage, no_waiting: None
) -> None:
    with Lease(storage, notify=told):
        before = storage.read(FIRST)
        with pytest.raises(InputError, match=rf"written by process {os.getpid()} on .*; stop it"):
            Lease(storage, notify=told)
        assert storage.list_files() == {FIRST: len(before)}
        assert storage.read(FIRST) == before


def test_a_place_that_was_let_go_of_is_as_it_was(storage: Storage, no_waiting: None) -> None:
    storage.write("a", [b"1"])
    for _ in range(2):
        with Lease(storage, notify=told) as held:
            held.require_held()
        assert storage.list_files() == {"a": 1}


def test_nothing_is_left_in_a_local_folder(tmp_path: Path) -> None:
    with Lease(open_storage(tmp_path / "run"), notify=told):
        pass
    assert list((tmp_path / "run").iterdir()) == []


def test_a_process_of_this_machine_that_is_gone_is_followed_at_once(
    storage: Storage, no_waiting: None
) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    leave_behind(storage, pid=ended.pid)
    with Lease(storage, notify=told) as held:
        held.require_held()
        assert len(storage.list_files()) == 1


def test_a_zombie_is_gone(storage: Storage, no_waiting: None) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    leave_behind(storage, pid=child)
    with Lease(storage, notify=told):
        os.waitpid(child, 0)


def test_another_process_with_the_number_of_the_former_is_not_taken_for_it(
    storage: Storage, no_waiting: None
) -> None:
    leave_behind(storage, began="12")
    Lease(storage, notify=told).release()


def test_an_owner_on_another_machine_that_shows_a_sign_is_alive(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its clock is a year ahead."""
    owner = leave_behind(storage, machine="another", host="far", seen=2e9, pid=7)

    def beat() -> None:
        owner["seen"] += 10
        storage.write(FIRST, [json.dumps(owner).encode()])

    Clock(monkeypatch, beat)
    lines: list[str] = []
    with pytest.raises(InputError, match=r"process 7 on far, since .*; last heartbeat 0 s ago"):
        Lease(storage, notify=lines.append)
    assert "belongs to process 7 on far" in lines[0]
    assert list(storage.list_files()) == [FIRST]


@pytest.mark.parametrize("text", [None, b"", b"\xff{", b"[]", b'{"pid": 1}'])
def test_one_that_shows_no_sign_within_the_limit_is_followed(
    text: bytes | None, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one whose machine crashed while it wrote the file."""
    leave_behind(storage, machine="another")
    if text is not None:
        storage.write(FIRST, [text])
    clock = Clock(monkeypatch)
    with Lease(storage, notify=lambda _: None) as held:
        held.require_held()
        assert lease.LIMIT_S <= clock.seconds < lease.LIMIT_S + 10
        assert list(storage.list_files()) == ["owner/000002.json"]
    assert storage.list_files() == {}


def test_an_owner_that_lets_go_while_it_is_watched_is_followed(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_behind(storage, machine="another")
    clock = Clock(monkeypatch, lambda: storage.delete(FIRST))
    with Lease(storage, notify=lambda _: None):
        assert clock.seconds < lease.LIMIT_S / 2


def test_one_that_was_taken_over_while_it_stood_still_notices_and_leaves_the_other_alone(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = Lease(storage, notify=told)
    with monkeypatch.context() as patch:
        patch.setattr(lease, "_machine", lambda: "another machine")
        Clock(patch)
        other = Lease(storage, notify=lambda _: None)
    with pytest.raises(LeaseLostError, match=r"was taken over by process .* while this process"):
        frozen.require_held()
    frozen.release()
    other.require_held()
    assert list(storage.list_files()) == ["owner/000002.json"]
    other.release()


def test_one_that_was_taken_over_and_let_go_of_stays_lost(storage: Storage) -> None:
    """Though the next owner's file is called as its own was."""
    frozen = Lease(storage, notify=told)
    storage.delete(FIRST)
    with Lease(storage, notify=told) as other:
        assert list(storage.list_files()) == [FIRST]
        assert frozen.is_lost
        frozen.release()
        other.require_held()


def test_a_sign_is_shown_again_and_again(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.001)
    with Lease(storage, notify=told) as held:
        first = storage.read(FIRST)
        while storage.read(FIRST) in (first, b""):
            pass  # the test's own limit ends the wait
        held.require_held()


def test_of_many_that_come_at_once_one_is_let_in(tmp_path: Path) -> None:
    barrier = threading.Barrier(8)
    held: list[Lease] = []

    def come() -> None:
        storage = open_storage(tmp_path / str(number))
        barrier.wait()
        with suppress(InputError):
            held.append(Lease(storage, notify=told))

    for number in range(20):  # noqa: B007
        threads = [threading.Thread(target=come) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(held) == 1
        held.pop().release()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_what_is_no_file_in_the_owners_place_is_refused(make: Any, tmp_path: Path) -> None:
    (tmp_path / "owner").mkdir()
    make(tmp_path / "owner" / "000001.json")
    with pytest.raises(InputError, match=r"owner/000001\.json cannot be created: .* delete it"):
        Lease(open_storage(tmp_path), notify=lambda _: None)
