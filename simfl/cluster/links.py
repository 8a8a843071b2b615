"""Connections between the server's actor and client actors, for rounds that wait for no driver.

A call of Ray takes one to three milliseconds from actor to actor, since it goes by way of the
driver; a message on a connection takes a tenth of one.
"""

from __future__ import annotations

import hmac
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import ray

from simfl.cluster.failures import LostSumError

KEY_BYTES = 16
"""The size of the key by which both sides of a connection know each other."""

_CONNECT_S = 2.0
"""How long connecting may take, and the key that comes first."""

_LOOK_S = 0.2
"""The interval at which whoever waits checks whether that was called off."""


@dataclass(frozen=True)
class Meeting:
    """Where client actors meet the server's for some rounds."""

    address: tuple[str, int]
    """On which the server's actor listens."""
    key: bytes
    """What they show; no other meeting has it."""


class Host:
    """The server's side: listens on its node's address, and serves one meeting after another."""

    def __init__(self) -> None:
        address = ray.util.get_node_ip_address()
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = socket.create_server((address, 0), family=family)
        self._called_off = b""

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, port, *_ = self._socket.getsockname()
        return host, port

    def call_off(self, key: bytes) -> None:
        """Have the thread that serves this meeting leave it, if there is one."""
        self._called_off = key

    @contextmanager
    def meet(self, meeting: Meeting, number: int) -> Iterator[Links]:
        """Wait until so many client actors are there; they are left at the end of the block.

        Raises:
            LostSumError: if the meeting is called off.
        """

        def look() -> None:
            if self._called_off == meeting.key:
                raise LostSumError("the series was called off")

        with ExitStack() as stack:
            links: list[Connection] = []
            while len(links) < number:
                _wait([self._socket], look)
                link = _welcome(self._socket.accept()[0], meeting.key)
                if link is not None:
                    links.append(stack.enter_context(link))
            yield Links(links, look)


class Links:
    """Connections to the client actors of a meeting, each of which sends a message a round."""

    def __init__(self, links: Sequence[Connection], look: Callable[[], None]) -> None:
        self._links, self._look = links, look

    def receive(self) -> Iterator[bytes]:
        """Iterate over the messages of a round as they come.

        Raises:
            LostSumError: if an actor has gone, or the meeting was called off.
        """
        pending = list(self._links)
        while pending:
            for link in _wait(pending, self._look):
                pending.remove(link)
                try:
                    yield link.recv_bytes()
                except (EOFError, OSError) as error:
                    raise LostSumError(f"a client actor has left: {error}") from None

    def send(self, message: bytes) -> None:
        """Send all of them a message."""
        for link in self._links:
            try:
                link.send_bytes(message)
            except OSError as error:
                raise LostSumError(f"a client actor has left: {error}") from None


@contextmanager
def attend(meeting: Meeting) -> Iterator[Connection]:
    """Connect to the server's actor, from a client's.

    Raises:
        LostSumError: if it cannot be reached, or leaves.
    """
    try:
        sock = socket.create_connection(meeting.address, timeout=_CONNECT_S)
        with _link(sock) as link:
            link.send_bytes(meeting.key)
            yield link
    except (EOFError, OSError) as error:
        raise LostSumError(f"the server's actor has left: {error}") from None


def _welcome(sock: socket.socket, key: bytes) -> Connection | None:
    """Return the connection to an actor of this meeting; None for anybody else."""
    link = _link(sock)
    try:
        if link.poll(_CONNECT_S) and hmac.compare_digest(link.recv_bytes(KEY_BYTES), key):
            return link
    except (EOFError, OSError):  # it has left, or sends something else
        pass
    link.close()
    return None


def _link(sock: socket.socket) -> Connection:
    sock.setblocking(True)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Connection(sock.detach())


def _wait(those: Sequence[Any], look: Callable[[], None]) -> list[Any]:
    """Wait until there is something to read."""
    while not (ready := wait(those, _LOOK_S)):
        look()
    return ready
