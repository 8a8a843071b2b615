"""What a benchmark and its Ray cluster hold in memory, and on disk, while it runs (Linux).

A process's share is its PSS without shared memory: pages that several processes map count once. The
object store is shared memory, and counts by the pages that its file really has.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from processes import Process, descendants

__all__ = ["MemoryWatch", "Sample", "memory_by_role", "own_bytes", "pss_bytes"]

_SAMPLE_S = 0.5
_STORE = "object store"
_ACTORS = {"ClientActor": "client actors", "ServerActor": "server actor"}


@dataclass(frozen=True)
class Sample:
    """What is held at one time, in bytes."""

    by_role: Counter[str]
    """Memory: of the driver, the actors, the object store and so on."""
    disk: int
    """Files of the run's folder."""

    @property
    def total(self) -> int:
        """The memory of all roles together."""
        return self.by_role.total()


@dataclass
class MemoryWatch:
    """Takes samples in a thread while the ``with`` block runs.

    Args:
        folder: whose files are counted.
    """

    folder: Path
    samples: list[Sample] = field(default_factory=list)

    def __enter__(self) -> MemoryWatch:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    @property
    def peak(self) -> Sample:
        """The sample with the most memory."""
        return max(self.samples, key=lambda sample: sample.total)

    def _run(self) -> None:
        while not self._over.wait(_SAMPLE_S):
            self.samples.append(Sample(memory_by_role(), _disk_bytes(self.folder)))


def memory_by_role() -> Counter[str]:
    """Return the resident bytes of this process and all that it started, by what they are."""
    held: Counter[str] = Counter()
    held["driver"] = own_bytes(os.getpid())
    for process in descendants():
        role = _role(process)
        held[role] += own_bytes(process.pid)
        if role == "raylet":
            held[_STORE] += _store_bytes(process.pid)
    return held


def pss_bytes(root: int) -> int:
    """Return the PSS of a process and of all that it has started, shared memory included."""
    pids = [root, *(process.pid for process in descendants(root))]
    return sum(rollup(pid).get("Pss:", 0) for pid in pids)


def _role(process: Process) -> str:
    if process.actor is not None:
        return _ACTORS[process.actor]
    if process.title.split(" ")[0].endswith("/raylet"):
        return "raylet"
    return "other workers" if process.title == "ray::IDLE" else "Ray's services"


def own_bytes(pid: int) -> int:
    """Return what one process holds, without shared memory; 0 if it has ended."""
    held = rollup(pid)
    return held.get("Pss_Anon:", 0) + held.get("Pss_File:", 0)


def rollup(pid: int) -> dict[str, int]:
    """Return the bytes of a process by the kernel's names; of one that has ended, nothing."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return {}
    return {name: 1024 * int(kilobytes) for name, kilobytes, *_ in map(str.split, lines)}


def _store_bytes(raylet: int) -> int:
    sizes: dict[int, int] = {}
    for entry in Path(f"/proc/{raylet}/fd").glob("*"):
        try:
            if "plasma" in os.readlink(entry):
                status = entry.stat()
                sizes[status.st_ino] = status.st_blocks * 512
        except OSError:  # closed in the meantime
            continue
    return sum(sizes.values())


def _disk_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except OSError:  # deleted in the meantime
            continue
    return total
