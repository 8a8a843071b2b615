"""Connections between the server's actor and client actors, for rounds without the driver.

What Ray passes from one actor to another goes through the driver, which takes one to three
milliseconds; a message on a connection takes 0.3.
"""

from __future__ import annotations

import hmac
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import ray

from simfl.cluster.failures import LostSumError

KEY_BYTES = 16
"""The size of the key by which the server's actor recognizes client actors."""

_CONNECT_S = 2.0
"""How long connecting may take, and the key that comes first."""

_LOOK_S = 0.2
"""The interval at which a host that waits for actors checks whether it was called off."""


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
        self._socket = _listen()
        self._key = self._called_off = b""
        self._links: list[Connection] = []
        """Of the meeting with this key."""

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, port, *_ = self._socket.getsockname()
        return host, port

    def call_off(self, key: bytes) -> None:
        """Have the thread that serves this meeting leave it, if there is one.

        It may wait for an actor that has stopped in the middle of a message, to read or to write.
        """
        self._called_off = key
        for link in self._links if self._key == key else ():
            with suppress(OSError), socket.socket(fileno=os.dup(link.fileno())) as sock:
                sock.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def meet(self, meeting: Meeting, number: int) -> Iterator[Links]:
        """Wait until so many client actors are there; they are left at the end of the block.

        After a failure the address is another one, so that who comes too late does not stay.

        Raises:
            LostSumError: if the meeting is called off.
        """

        def look() -> None:
            if self._called_off == meeting.key:
                raise LostSumError("the series was called off")

        with ExitStack() as stack:
            stack.push(self._leave)
            links: list[Connection] = []
            self._key, self._links = meeting.key, links
            while len(links) < number:
                while not wait([self._socket], _LOOK_S):
                    look()
                link = _welcome(self._socket.accept()[0], meeting.key)
                if link is not None:
                    links.append(stack.enter_context(link))
            look()
            yield Links(links)

    def _leave(self, error: type[BaseException] | None, *_: object) -> None:
        self._links = []
        if error is not None:
            self._socket.close()
            self._socket = _listen()


class Links:
    """Connections to the client actors of a meeting, each of which sends a message a round."""

    def __init__(self, links: Sequence[Connection]) -> None:
        self._links = links

    def receive(self) -> Iterator[bytes]:
        """Iterate over the messages of a round as they come.

        Raises:
            LostSumError: if an actor has gone, or the meeting was called off.
        """
        pending = list(self._links)
        while pending:
            ready: list[Any] = wait(pending)
            for link in ready:
                pending.remove(link)
                with _saying_who_has_left("a client actor"):
                    message = link.recv_bytes()
                yield message

    def send(self, message: bytes) -> None:
        """Send all of them a message."""
        with _saying_who_has_left("a client actor"):
            for link in self._links:
                link.send_bytes(message)


@contextmanager
def attend(meeting: Meeting) -> Iterator[Connection]:
    """Connect to the server's actor, from a client's.

    Raises:
        LostSumError: if it cannot be reached, or leaves.
    """
    with (
        _saying_who_has_left("the server's actor"),
        socket.create_connection(meeting.address, timeout=_CONNECT_S) as sock,
    ):
        sock.sendall(meeting.key)
        with _link(sock) as link:
            yield link


@contextmanager
def _saying_who_has_left(who: str) -> Iterator[None]:
    try:
        yield
    except (EOFError, OSError) as error:
        reason = str(error) or "or the series was called off"
        raise LostSumError(f"{who} has left: {reason}") from None


def _welcome(sock: socket.socket, key: bytes) -> Connection | None:
    """Return the connection to an actor of this meeting; None for anybody else."""
    sock.settimeout(_CONNECT_S)
    with suppress(OSError):
        if hmac.compare_digest(sock.recv(KEY_BYTES, socket.MSG_WAITALL), key):
            return _link(sock)
    sock.close()
    return None


def _link(sock: socket.socket) -> Connection:
    sock.setblocking(True)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Connection(sock.detach())


def _listen() -> socket.socket:
    address = ray.util.get_node_ip_address()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, 0), family=family)
