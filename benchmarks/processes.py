"""The processes of the Ray cluster that a benchmark has started, as /proc shows them (Linux)."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CLIENT", "SERVER", "Process", "actors", "descendants", "kill"]

CLIENT = "ray::ClientActor"
"""How Ray titles a client actor's process, up to what it is doing."""

SERVER = "ray::ServerActor"
"""The same of the server's."""


@dataclass(frozen=True)
class Process:
    """A process at the time it was looked at."""

    pid: int
    title: str
    """Its command line, as ``ps`` shows it."""


def descendants(root: int | None = None) -> list[Process]:
    """Return all processes below one; None: below this one. Whatever it started, and no others."""
    children: dict[int, list[int]] = {}
    for pid, parent in _parents():
        children.setdefault(parent, []).append(pid)
    found: list[int] = []
    waiting = [root or os.getpid()]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return [Process(pid, _title(pid)) for pid in sorted(found)]


def actors(*kinds: str) -> list[Process]:
    """Return this process's actors of these kinds, by process id."""
    return [process for process in descendants() if process.title.startswith(kinds)]


def kill(process: Process, *, kind: str) -> bool:
    """Send SIGKILL; False if the process has gone, or is no longer what it was.

    The descriptor holds on to the process while its title is looked at, so that a process id which
    has been given to another in the meantime is never shot at.
    """
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        if process.pid not in {p.pid for p in actors(kind)}:
            return False
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)


def _parents() -> Iterator[tuple[int, int]]:
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in brackets, may hold spaces; the parent is the second field after it.
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        yield int(path.parent.name), int(fields[1])


def _title(pid: int) -> str:
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return line.replace(b"\0", b" ").decode(errors="replace").strip()
