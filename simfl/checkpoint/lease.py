"""Leases: one writer per run folder, and per checkpoint location.

The writer keeps a file ``owner/000001.json`` there, which identifies it, and rewrites it every
``BEAT_S`` seconds as a heartbeat. A process that comes later reads it:

- On the same machine, it can see whether the process with that pid and start time is still
  running, and is refused or takes over immediately.
- On another machine it cannot, and clocks may differ. So it watches the file: if it changes, its
  writer is alive; if it does not change for ``LIMIT_S`` seconds, the writer counts as dead, as
  after a crash of its machine.

To take over, a process creates the next file, 000002, which only one process can do, and deletes
the old one. A writer that was frozen in the meantime finds its file gone when it wakes, and stops.

Creating a file is exclusive on local disks and NFS (``O_EXCL``), and with fsspec protocols that
create files atomically, such as S3 and Google Cloud Storage. With other protocols, two processes
that start at the same moment may both acquire the lease; the later one keeps it, and the other one
stops.
"""

from __future__ import annotations

import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from simfl.errors import CheckpointError, InputError, LeaseLostError, one_line
from simfl.states import Storage

OWNER_FOLDER: Final = "owner"
BEAT_S: Final = 10.0
LIMIT_S: Final = 60.0
_LOOK_S: Final = 2.0
_MAX_BYTES: Final = 4096
_MAX_TRIES: Final = 50
_RETRY_S: Final = 0.05


@dataclass(frozen=True)
class _Owner:
    """A writing process, as described in its file."""

    token: str
    """Unique to this lease."""
    host: str
    machine: str
    """The scope of its pid: the machine since it was booted, and the container."""
    pid: int
    began: str
    """When the process was started, in the system's own units; "": unknown."""
    since: str
    """When it acquired the lease, as text for messages."""
    seen: float
    """When it wrote the file, in seconds since the epoch by its own clock."""

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"


class Lease(AbstractContextManager["Lease"]):
    """Holds a location until it is released; a context manager.

    Args:
        storage: the location.
        notify: receives a message if it takes time to find out whether another process is writing.

    Raises:
        InputError: if another process writes there.
        CheckpointError: if the storage fails.
    """

    def __init__(self, storage: Storage, *, notify: Callable[[str], None]) -> None:
        self._storage = storage
        self._owner = _this_process()
        self._name = _take(storage, self._owner, notify=notify)
        self._is_lost = False
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self.release()

    def require_held(self) -> None:
        """Check that no other process has taken over, as happens if this one was frozen.

        Raises:
            LeaseLostError: if one has.
        """
        if self.is_lost:
            others = [owner for owner in map(_parse, _read(self._storage).values()) if owner]
            by = f" by {_named(others[-1])}" if others else ""
            raise LeaseLostError(
                f"{self._storage.location} was taken over{by} while this process was frozen; "
                "it ends now, and has written nothing since"
            )

    @property
    def is_lost(self) -> bool:
        """Whether the file is gone or another process's; a storage error proves neither."""
        try:
            owner = _parse(self._storage.read(self._name, 0, _MAX_BYTES))
            self._is_lost |= owner is not None and owner.token != self._owner.token
        except CheckpointError:
            with suppress(CheckpointError):
                self._is_lost |= self._name not in self._storage.list_files(OWNER_FOLDER)
        return self._is_lost

    def release(self) -> None:
        """Release the lease; the next process need not wait."""
        self._ends.set()
        self._thread.join(LIMIT_S)
        if not (self.is_lost or self._thread.is_alive()):
            with suppress(CheckpointError):
                self._storage.delete(self._name)

    def _beat(self) -> None:
        while not self._ends.wait(BEAT_S):
            if self.is_lost:
                return
            with suppress(CheckpointError):  # retried; other writes report a failing storage
                self._storage.write(self._name, [replace(self._owner, seen=time.time()).encode()])


def _take(storage: Storage, owner: _Owner, *, notify: Callable[[str], None]) -> str:
    """Create the file with the next number; return its name."""
    for _ in range(_MAX_TRIES):
        previous = _read(storage)
        _require_stale(storage, previous, notify=notify)
        number = max((int(Path(name).stem) for name in previous), default=0) + 1
        name = f"{OWNER_FOLDER}/{number:06d}.json"
        if not storage.create(name, owner.encode()):
            time.sleep(_RETRY_S)
            continue
        present = _read(storage)
        mine = _parse(present.pop(name, b""))
        if mine is None or mine.token != owner.token:
            continue
        if not present.keys() <= previous.keys():  # another process came at the same moment
            storage.delete(name)
            continue
        for stale in present:
            storage.delete(stale)
        return name
    raise InputError(
        f"{storage.location}/{name} cannot be created: other processes use this location, too, or "
        "it exists and is not a regular file; delete it, or use another location"
    )


def _require_stale(
    storage: Storage, files: Mapping[str, bytes], *, notify: Callable[[str], None]
) -> None:
    """Raise an error if one of these files belongs to a process that is still writing."""
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
    notify(f"{storage.location} belongs to {who}; waiting {LIMIT_S:.0f} s for a heartbeat")
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
        since = f", since {one_line(owner.since)}; last heartbeat {seen_s:.0f} s ago"
    return InputError(
        f"{storage.location} is being written by {_named(owner)}{since}; "
        "stop it, or use another location"
    )


def _named(owner: _Owner | None) -> str:
    return "another process" if owner is None else f"process {owner.pid} on {one_line(owner.host)}"


def _read(storage: Storage) -> dict[str, bytes]:
    """Return the owner files by name, in order, without those that disappear meanwhile."""
    found = {}
    for name in sorted(storage.list_files(OWNER_FOLDER)):
        if Path(name).stem.isdecimal():
            with suppress(CheckpointError):
                found[name] = storage.read(name, 0, _MAX_BYTES)
    return found


def _parse(text: bytes) -> _Owner | None:
    """Return the owner; None if the file is not yet written, or damaged."""
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
    """Return whether a process is still running; None if this machine cannot determine it."""
    if owner is None or owner.machine != _machine():
        return None
    if began := _start_of(owner.pid):
        return began == owner.began
    with suppress(PermissionError):
        try:
            os.kill(owner.pid, 0)
        except (ProcessLookupError, OverflowError):
            return False
    return None  # this process, or a later one with the same pid


def _machine() -> str:
    """Return an id that no other machine or container shares."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return f"{platform.node()} {uuid.getnode():x}"


def _start_of(pid: int) -> str:
    """Return when a process was started, in the system's units; "" if unknown."""
    with suppress(OSError, ValueError, IndexError):
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        state, *fields = stat.rpartition(")")[2].split()
        return "it has ended" if state in "ZX" else fields[18]
    return ""
