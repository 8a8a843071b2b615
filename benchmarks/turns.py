"""How contestants take turns, each in its own process, which stays alive in between.

A contestant says that it is ready, reads how many rounds its next turn has, and writes what each
round took and how large its loss was: lines of JSON on its standard output. It needs nothing but
Python, so that other frameworks' environments can use it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

__all__ = ["Contestant", "RoundTime", "Turns"]

_END_TIMEOUT_S = 60.0


class RoundTime(NamedTuple):
    """What a round took."""

    seconds: float
    loss: float
    """The mean over the examples of the loss before each step."""


class Turns:
    """The contestant's end.

    >>> turns = Turns()                                     # doctest: +SKIP
    >>> while turns.wait():                                 # doctest: +SKIP
    ...     turns.add(*train_one_round())
    """

    def __init__(self) -> None:
        # What a framework prints goes elsewhere.
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self.left = 0
        """How many rounds are wanted."""
        self._done: list[RoundTime] = []
        self._say([])

    def wait(self) -> bool:
        """Wait until a round is wanted; False if there is none any more."""
        if not self.left:
            self.left = int(sys.stdin.readline() or 0)
        return self.left > 0

    def add(self, seconds: float, loss: float) -> None:
        """Note a round that is done."""
        self._done.append(RoundTime(seconds, loss))
        self.left -= 1
        if not self.left:
            self._say(self._done)
            self._done = []

    def _say(self, done: Sequence[RoundTime]) -> None:
        print(json.dumps(done), file=self._out, flush=True)


class Contestant:
    """The runner's end: a process that waits for its turns.

    Args:
        name: in the table.
        command: which speaks by ``Turns``.
        log: the file that takes whatever it prints.
        environment: variables on top of this process's.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._command = command
        self._log = log
        self._environment = environment or {}

    def start(self) -> None:
        """Start it, and wait until it can train.

        Raises:
            SystemExit: if it has ended instead.
        """
        with self._log.open("wb") as file:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                env={**os.environ, **self._environment},
            )
        self._read()

    @property
    def pid(self) -> int:
        """Of its first process, which has started the others."""
        return self._process.pid

    def take_turn(self, rounds: int) -> list[RoundTime]:
        """Have it train some rounds."""
        _stream(self._process.stdin).write(f"{rounds}\n")
        _stream(self._process.stdin).flush()
        return [RoundTime(*entry) for entry in self._read()]

    def close(self) -> None:
        """End it."""
        _stream(self._process.stdin).close()
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _read(self) -> list[Any]:
        line = _stream(self._process.stdout).readline()
        if not line:
            last = "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])
            raise SystemExit(f"{self.name} has ended with {self._process.wait()}:\n{last}")
        entries: list[Any] = json.loads(line)
        return entries


def _stream(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream
