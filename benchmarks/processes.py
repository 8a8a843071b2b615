"""The processes of the Ray cluster that a benchmark has started, as /proc shows them (Linux)."""

from __future__ import annotations

import os
import re
import signal
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "Process",
    "cpu_by_kind",
    "cpu_seconds",
    "descendants",
    "kill",
    "running_actors",
    "seconds_of_starts",
]

_ACTOR = re.compile(r"ray::(?:\S+:)?(ClientActor|ServerActor)\b")
"""How Ray titles an actor's process; while it is being made, its name comes first."""


@dataclass(frozen=True)
class Process:
    """A process at the time it was looked at."""

    pid: int
    title: str
    """Its command line, as ``ps`` shows it."""

    @property
    def actor(self) -> str | None:
        """``ClientActor``, ``ServerActor``, or None for all else."""
        match = _ACTOR.match(self.title)
        return match[1] if match else None

    @property
    def kind(self) -> str:
        """What it is, in a word: an actor's class, or the program's or script's name."""
        words = self.title.split(" ")
        if words[0].startswith("ray::"):
            return self.actor or words[0].removeprefix("ray::").partition(".")[0]
        paths = [word for word in words[:4] if word.endswith(".py") or "/core/src/" in word]
        return Path(paths[0]).name if paths else "driver"


def descendants(root: int | None = None) -> list[Process]:
    """Return the processes that a process has started, and those that these have, and no others.

    Args:
        root: its id; None: this process's.
    """
    children: dict[int, list[int]] = {}
    for pid, parent in _parents():
        children.setdefault(parent, []).append(pid)
    found: list[int] = []
    waiting = [os.getpid() if root is None else root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return [Process(pid, _title(pid)) for pid in sorted(found)]


def cpu_seconds(root: int) -> float:
    """Return the CPU seconds that a process and its descendants have used so far.

    Processes that have ended are not counted.
    """
    return sum(cpu_by_kind(root).values())


def cpu_by_kind(root: int) -> dict[str, float]:
    """Return the same by what the processes are; several of a kind are added up."""
    used: defaultdict[str, float] = defaultdict(float)
    for process in (Process(root, _title(root)), *descendants(root)):
        try:
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        # In user mode, and in the kernel.
        used[process.kind] += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return used


def seconds_of_starts(root: int) -> dict[str, float]:
    """Return by kind how long after a process the first of its descendants was started."""
    started: dict[str, float] = {}
    began = _started(root)
    for process in descendants(root):
        seconds = _started(process.pid) - began
        started[process.kind] = min(seconds, started.get(process.kind, seconds))
    return started


def _started(pid: int) -> float:
    """Return when a process was started, in seconds since the machine was; NaN if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")


def running_actors() -> dict[str, list[Process]]:
    """Return the actors among them by kind, ``ClientActor`` and ``ServerActor``."""
    actors: dict[str, list[Process]] = {"ClientActor": [], "ServerActor": []}
    for process in descendants():
        if process.actor is not None:
            actors[process.actor].append(process)
    return actors


def kill(process: Process) -> bool:
    """Send SIGKILL to an actor; False if it has ended, or its id is another process's.

    The descriptor refers to the process while it is checked again, so that a process that has got a
    dead actor's id is not killed.
    """
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        now = {p.pid: p.actor for p in descendants()}
        if process.actor is None or now.get(process.pid) != process.actor:
            return False
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)


def _parents() -> Iterator[tuple[int, int]]:
    """Iterate over (process id, its parent's) of the whole machine."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in brackets, may hold spaces; the parent is the second field after it.
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        yield int(path.parent.name), int(fields[1])


def _title(pid: int) -> str:
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ""
    return line.replace(b"\0", b" ").decode(errors="replace").strip()
