"""Leases: one writer for a run's folder, and for a place of checkpoints.

The writer keeps a file ``owner/000001.json`` in the place, which names it, and writes it anew every
``BEAT_S`` seconds. Whoever comes later reads it:

- On the same machine, the process with that number and start time is there or not: it is refused or
  takes over, at once.
- From another machine nobody can see that, and clocks may differ. So it watches the file itself:
  where it changes, somebody is writing; where it stays the same for ``LIMIT_S`` seconds, its writer
  is taken for dead, as after a crash of its machine.

To take over is to make the next file, 000002, which only one can do, and to delete the former. A
writer that was frozen meanwhile does not find its file any more when it wakes, and stops.

A file is made by one alone on local disks and NFS (``O_EXCL``) and where a protocol of fsspec makes
new files atomically, as S3 and Google Cloud Storage do. With other protocols two that start within
the same instant may both take hold; the later of them keeps it, and the other stops.
"""

from __future__ import annotations

import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Final

from simfl.checkpoint.storage import Storage
from simfl.errors import CheckpointError, InputError, LeaseLostError, one_line

__all__ = ["BEAT_S", "LIMIT_S", "OWNER_FOLDER", "Lease"]

OWNER_FOLDER: Final = "owner"
BEAT_S: Final = 10.0
LIMIT_S: Final = 60.0
_LOOK_S: Final = 2.0
_MAX_BYTES: Final = 4096


@dataclass(frozen=True)
class _Owner:
    """A process that writes, as its file says it."""

    token: str
    """Of this lease alone."""
    host: str
    machine: str
    """Where its number means something: the system since it was booted, and the container."""
    pid: int
    began: str
    """When the process was started, in its system's own count; "": not known."""
    since: str
    """When it took hold, for people."""
    seen: float
    """When it wrote this, in seconds since the epoch by its own clock."""

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"


class Lease:
    """Holds a place until it is released; a context manager.

    Args:
        storage: the place.
        tell: is told a line when it takes time to find out whether somebody else is writing.

    Raises:
        InputError: if another process writes there.
        CheckpointError: if the storage fails.
    """

    def __init__(self, storage: Storage, *, tell: Callable[[str], None]) -> None:
        self._storage = storage
        self._owner = _this_process()
        self._name = _take(storage, self._owner, tell=tell)
        self._is_lost = False
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def require_held(self) -> None:
        """See that nobody has taken over, as happens to a process that was frozen.

        Raises:
            LeaseLostError: if somebody has.
        """
        if self.is_lost:
            others = [owner for owner in map(_parse, _read(self._storage).values()) if owner]
            by = f" by {_named(others[-1])}" if others else ""
            raise LeaseLostError(
                f"{self._storage.location} was taken over{by} while this process stood still; "
                "it ends here, and has written nothing since"
            )

    @property
    def is_lost(self) -> bool:
        """Whether the file is gone, or another's; a storage that fails says nothing."""
        try:
            owner = _parse(self._storage.read_range(self._name, 0, _MAX_BYTES))
            self._is_lost |= owner is not None and owner.token != self._owner.token
        except CheckpointError:
            with suppress(CheckpointError):
                self._is_lost |= self._name not in self._storage.list_files(OWNER_FOLDER)
        return self._is_lost

    def release(self) -> None:
        """Let go; the next one need not wait."""
        self._ends.set()
        self._thread.join(LIMIT_S)
        if not (self.is_lost or self._thread.is_alive()):
            with suppress(CheckpointError):
                self._storage.delete(self._name)

    def _beat(self) -> None:
        while not self._ends.wait(BEAT_S):
            if self.is_lost:
                return
            with suppress(CheckpointError):  # tried again; what cannot be written shows elsewhere
                self._storage.write(self._name, [replace(self._owner, seen=time.time()).encode()])


def _take(storage: Storage, owner: _Owner, *, tell: Callable[[str], None]) -> str:
    """Make the file that follows all those that are there; return its name."""
    while True:
        former = _read(storage)
        _require_stale(storage, former, tell=tell)
        number = max((int(Path(name).stem) for name in former), default=0) + 1
        name = f"{OWNER_FOLDER}/{number:06d}.json"
        if not storage.create(name, owner.encode()):
            continue
        present = _read(storage)
        mine = _parse(present.pop(name, b""))
        if mine is None or mine.token != owner.token:
            continue
        if not present.keys() <= former.keys():  # somebody else has come in the same instant
            storage.delete(name)
            continue
        for stale in present:
            storage.delete(stale)
        return name


def _require_stale(
    storage: Storage, files: Mapping[str, bytes], *, tell: Callable[[str], None]
) -> None:
    """Raise an error if one of these files is of somebody who still writes."""
    doubtful = {}
    for name, text in files.items():
        is_alive = _is_alive(_parse(text))
        if is_alive:
            raise _refusal(storage, _parse(text))
        if is_alive is None:
            doubtful[name] = text
    if not doubtful:
        return
    who = _named(_parse(next(iter(doubtful.values()))))
    tell(f"{storage.location} belongs to {who}; waiting {LIMIT_S:.0f} s for a sign that it lives")
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        time.sleep(_LOOK_S)
        present = _read(storage)
        for name, text in present.items():
            if text != doubtful.get(name):
                raise _refusal(storage, _parse(text))
        if not present:
            return


def _refusal(storage: Storage, owner: _Owner | None) -> InputError:
    since = ""
    if owner is not None:
        # Another machine's clock may differ, and its file has just changed.
        is_here = owner.machine == _machine()
        seen_s = max(0.0, time.time() - owner.seen) if is_here else 0.0
        since = f", since {one_line(owner.since)}; last seen {seen_s:.0f} s ago"
    return InputError(
        f"{storage.location} is being written by {_named(owner)}{since}; "
        "stop it, or choose another place"
    )


def _named(owner: _Owner | None) -> str:
    return "another process" if owner is None else f"process {owner.pid} on {one_line(owner.host)}"


def _read(storage: Storage) -> dict[str, bytes]:
    """Return the files of owners by name, in order; what goes while they are read is left out."""
    found = {}
    for name in sorted(storage.list_files(OWNER_FOLDER)):
        if Path(name).stem.isdecimal():
            with suppress(CheckpointError):
                found[name] = storage.read_range(name, 0, _MAX_BYTES)
    return found


def _parse(text: bytes) -> _Owner | None:
    """Return who it is; None if that is not yet written, or damaged."""
    try:
        owner = _Owner(**json.loads(text))
    except (ValueError, TypeError, RecursionError):
        return None
    kinds = {"pid": int, "seen": float}
    fields = asdict(owner).items()
    return owner if all(type(value) is kinds.get(key, str) for key, value in fields) else None


def _this_process() -> _Owner:
    return _Owner(
        token=uuid.uuid4().hex,
        host=platform.node() or "this machine",
        machine=_machine(),
        pid=os.getpid(),
        began=_start_of(os.getpid()),
        since=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        seen=time.time(),
    )


def _is_alive(owner: _Owner | None) -> bool | None:
    """Say whether a process still runs; None if that cannot be seen from here."""
    if owner is None or owner.machine != _machine():
        return None
    if began := _start_of(owner.pid):
        return began == owner.began
    with suppress(PermissionError):
        try:
            os.kill(owner.pid, 0)
        except (ProcessLookupError, OverflowError):
            return False
    return None  # it, or another one that was given its number since


def _machine() -> str:
    """Return what no other machine and no container beside this one has in common with it."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return f"{platform.node()} {uuid.getnode():x}"


def _start_of(pid: int) -> str:
    """Return when a process was started, as the system counts it; "" if that cannot be seen."""
    with suppress(OSError, ValueError, IndexError):
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        state, *fields = stat.rpartition(")")[2].split()
        return "it has ended" if state in "ZX" else fields[18]
    return ""
