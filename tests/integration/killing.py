"""A plug-in that kills or stops the process it runs in, at a configured place and number of times.

Named under ``plugins:`` by the tests of recovery. It keeps count in files, since its own memory
dies with it.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from simfl.optimizer import Context, OptiModule, State
from simfl.vector import Vector


@dataclass(frozen=True)
class KillAt(OptiModule):
    """Send a signal to this process at a step of a client's round (the server's client is -1)."""

    name: ClassVar[str] = "kill-at"

    folder: str
    """Where the shots are counted."""
    client: int
    """Whose step it is."""
    round: int
    """In which round."""
    step: int = 1
    """At which step of the round."""
    times: int = 1
    """How often."""
    signal: int = int(signal.SIGKILL)
    """What is sent."""

    def update(self, gradients: Vector, state: State, context: Context) -> tuple[Vector, State]:
        """Shoot if it is time to, and leave the gradients as they are."""
        is_now = (context.round, context.step) == (self.round, self.step)
        if is_now and self.client in context.clients and self._shots_left():
            os.kill(os.getpid(), self.signal)
        return gradients, state

    def _shots_left(self) -> bool:
        return is_shot_left(Path(self.folder), f"{self.client}-{self.round}", self.times)


@dataclass(frozen=True)
class HoldAt(OptiModule):
    """Wait, at the first step of a client's round and only once, for the file ``go``.

    So that what a test does meanwhile happens in mid-round, on the slowest machine too.
    """

    name: ClassVar[str] = "hold-at"

    folder: str
    """Where the file is waited for."""
    client: int
    """Whose step it is."""
    round: int
    """In which round."""

    def update(self, gradients: Vector, state: State, context: Context) -> tuple[Vector, State]:
        """Wait if it is time to, and leave the gradients as they are."""
        folder = Path(self.folder)
        is_now = context.round == self.round and self.client in context.clients
        if is_now and is_shot_left(folder, f"hold-{self.round}", 1):
            while not (folder / "go").exists():
                time.sleep(0.02)
        return gradients, state


@dataclass(frozen=True)
class KillOnArrival(OptiModule):
    """Kill the actor of a name when it unpickles this module: while it is being built."""

    name: ClassVar[str] = "kill-on-arrival"

    folder: str
    """Where the shots are counted."""
    actor: str
    """``server``, or ``client-0``."""
    times: int = 1
    """How often."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        import ray

        in_actor = ray.is_initialized() and ray.get_runtime_context().get_actor_name() == self.actor
        if in_actor and is_shot_left(Path(self.folder), f"{self.actor}-start", self.times):
            os.kill(os.getpid(), signal.SIGKILL)

    def update(self, gradients: Vector, state: State, context: Context) -> tuple[Vector, State]:
        """Leave the gradients as they are."""
        return gradients, state


@dataclass(frozen=True)
class FailAt(OptiModule):
    """Raise an error in a client's round."""

    name: ClassVar[str] = "fail-at"

    client: int
    """Whose."""
    round: int
    """In which round."""

    def update(self, gradients: Vector, state: State, context: Context) -> tuple[Vector, State]:
        """Raise it if it is time to, and leave the gradients as they are."""
        if context.round == self.round and self.client in context.clients:
            raise ValueError("failed as it was told")
        return gradients, state


def is_shot_left(folder: Path, what: str, times: int) -> bool:
    """Take one of the shots that are left, if there is one."""
    for shot in range(times):
        try:
            (folder / f"{what}-{shot}").touch(exist_ok=False)
        except FileExistsError:
            continue
        return True
    return False
