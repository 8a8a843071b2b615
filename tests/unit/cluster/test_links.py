"""Connections between actors: who is let in, what is carried, and how it ends."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from simfl.cluster import links
from simfl.cluster.failures import LostSumError
from simfl.cluster.links import Host, Meeting, attend

KEY = b"k" * links.KEY_BYTES


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    host._socket.close()


@pytest.fixture
def start() -> Iterator[Callable[..., Future[Any]]]:
    """Run in other threads."""
    with ThreadPoolExecutor(4) as pool:
        yield pool.submit


def serve(
    host: Host, *, number: int, rounds: int = 1, key: bytes = KEY, answer: bytes | None = None
) -> list[list[bytes]]:
    """Return what each round's messages were, in order; all are sent how many bytes came."""
    found = []
    with host.meet(Meeting(host.address, key), number) as met:
        for _ in range(rounds):
            found.append(sorted(met.receive()))
            met.send(answer or str(sum(map(len, found[-1]))).encode())
    return found


def come(host: Host, *messages: bytes, key: bytes = KEY) -> list[bytes]:
    """Return what came back after each message."""
    answers = []
    with attend(Meeting(host.address, key)) as link:
        for message in messages:
            link.send_bytes(message)
            answers.append(link.recv_bytes())
    return answers


def test_each_sends_a_message_a_round_and_all_receive_the_same(
    host: Host, start: Callable[..., Future[Any]]
) -> None:
    served = start(serve, host, number=2, rounds=2)
    large = b"l" * (1 << 22)
    first, second = start(come, host, b"a", large), start(come, host, b"", b"b")
    assert served.result() == [[b"", b"a"], [b"b", large]]
    assert first.result() == second.result() == [b"1", str(1 + len(large)).encode()]


def test_nobody_without_the_key_is_let_in(
    host: Host, start: Callable[..., Future[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One has that of another meeting, one sends far more than a key, one a part of it."""
    monkeypatch.setattr(links, "_CONNECT_S", 0.1)
    with closing(socket.create_connection(host.address)) as slow:
        slow.sendall(b"k")
        served = start(serve, host, number=1)
        for key in (b"o" * links.KEY_BYTES, b"o" * 10_000):
            with pytest.raises(LostSumError, match="has left"):
                come(host, b"stranger", key=key)
        assert come(host, b"a") == [b"1"]
    assert served.result() == [[b"a"]]


def test_who_leaves_ends_the_meeting_for_all(host: Host, start: Callable[..., Future[Any]]) -> None:
    served = start(serve, host, number=2)
    staying = start(come, host, b"a")
    with attend(Meeting(host.address, KEY)):
        pass
    with pytest.raises(LostSumError, match="client actor has left"):
        served.result()
    with pytest.raises(LostSumError, match="server's actor has left"):
        staying.result()


@pytest.mark.parametrize("number", [1, 2])
def test_a_meeting_that_is_called_off_is_left(
    number: int, host: Host, start: Callable[..., Future[Any]]
) -> None:
    """One actor is there and trains; with two, the other one comes too late."""
    former = Meeting(host.address, KEY)
    served = start(serve, host, number=number)
    with attend(former) as link:
        host.call_off(KEY)
        with pytest.raises(LostSumError, match="called off"):
            served.result()
        with pytest.raises((EOFError, ConnectionResetError)):
            link.recv_bytes()
    with pytest.raises(LostSumError, match="refused"), attend(former):
        pass
    next_key = b"n" * links.KEY_BYTES
    served = start(serve, host, number=1, key=next_key)
    host.call_off(KEY)  # once more, too late
    assert come(host, b"a", key=next_key) == [b"1"]
    assert served.result() == [[b"a"]]


@pytest.mark.parametrize("is_sending", [True, False])
def test_an_actor_that_stops_in_the_middle_of_a_message_keeps_nobody(
    is_sending: bool, host: Host, start: Callable[..., Future[Any]]
) -> None:
    """It reads nothing of a large message, or sends the length of one and nothing more."""
    served = start(serve, host, number=1, answer=b"l" * (1 << 26))
    with attend(Meeting(host.address, KEY)) as link:
        if is_sending:
            os.write(link.fileno(), struct.pack("!i", 100))
        else:
            link.send_bytes(b"a")
            assert link.poll(10)  # it has begun to answer
        assert not served.done()
        while not host._links:
            time.sleep(0.01)
        host.call_off(KEY)
        with pytest.raises(LostSumError, match="client actor has left"):
            served.result(timeout=60)


def test_where_nobody_listens_nothing_hangs(host: Host) -> None:
    meeting = Meeting(host.address, KEY)
    host._socket.close()
    with pytest.raises(LostSumError, match=r"refused"), attend(meeting):
        pass
