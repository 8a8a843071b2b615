"""Connections between actors: who is let in, what is carried, and how it ends."""

from __future__ import annotations

import socket
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


def serve(host: Host, *, number: int, rounds: int = 1) -> list[list[bytes]]:
    """Return what each round's messages were, in order; all are sent how many bytes came."""
    found = []
    with host.meet(Meeting(host.address, KEY), number) as met:
        for _ in range(rounds):
            found.append(sorted(met.receive()))
            met.send(str(sum(map(len, found[-1]))).encode())
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
    """One has that of another meeting, one sends far more than a key, one nothing."""
    monkeypatch.setattr(links, "_CONNECT_S", 0.1)
    with closing(socket.create_connection(host.address)):
        served = start(serve, host, number=1)
        for key in (b"o" * links.KEY_BYTES, b"k" * 10_000):
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
    """One actor is there and trains; with two, the other one never comes."""
    served = start(serve, host, number=number)
    with attend(Meeting(host.address, KEY)) as link:
        host.call_off(KEY)
        with pytest.raises(LostSumError, match="called off"):
            served.result()
        with pytest.raises(EOFError):
            link.recv_bytes()
    host.call_off(b"another")
    served = start(serve, host, number=1)
    assert come(host, b"a") == [b"1"]
    assert served.result() == [[b"a"]]


def test_where_nobody_listens_nothing_hangs(host: Host) -> None:
    meeting = Meeting(host.address, KEY)
    host._socket.close()
    with pytest.raises(LostSumError, match=r"refused"), attend(meeting):
        pass
