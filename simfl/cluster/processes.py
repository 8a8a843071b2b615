"""Watching the processes of a run: Ray's from the driver, and the driver from a shell.

If a raylet or the control service is stopped, Ray's calls in the driver do not return; if one dies,
Ray ends the driver silently after some seconds. Processes are read from Linux's ``/proc``; other
systems report none.
"""

from __future__ import annotations

import atexit
import itertools
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from simfl.errors import ClusterError

LOOK_S = 1.0
"""The interval between two checks, in seconds."""

REFRESH = 10
"""The number of checks after which the cluster's processes are listed again."""

STOPPED_S = 30.0
"""How long a process may be stopped, since this may be intended."""

_PARENT, _STARTED = 1, 19
"""Positions of fields in ``/proc/PID/stat``, counted from the state."""

_GRACE_S = 30.0
"""How long the driver's main thread may take to end the run."""

_RESUME = "'simfl resume' continues from the last checkpoint"

_UNKNOWN = (
    "the run's process was killed, or Ray ended it because one of Ray's processes on this machine "
    f"died; {_RESUME}"
)
_NOTHING = "nothing"
# When the pipe ends, print the last line that the driver wrote. Ray's processes end after the
# driver, and may write to their folders until then, so the removal is repeated.
_SCRIPT = f"""
last=$1; shift
while IFS= read -r line; do last=$line; done
[ "$last" = {_NOTHING} ] && exit
rm -rf -- "$@"
printf '%s\\n' "$last" >&2
exec 2>&-
for n in 1 2 3 4 5; do sleep 1; rm -rf -- "$@"; done
"""


class LastWords:
    """Prints why this process ended if it is killed, and then removes folders.

    SIGKILL ends a process silently, and so does Ray if one of its own processes on this machine
    dies. So a shell of a few hundred kilobytes waits for the end of a pipe from this process.

    Args:
        folders: removed if this process is killed before ``take_back``, which a normal exit calls.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._shell: subprocess.Popen[Any] | None = None
        with suppress(OSError):  # a machine without a shell
            self._shell = subprocess.Popen(
                ["sh", "-c", _SCRIPT, "simfl", _UNKNOWN, *map(str, folders)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # signals to the driver's process group must not end it
            )
        atexit.register(self.take_back)

    def replace(self, line: str) -> None:
        """Replace the line to print."""
        if self._shell is not None:
            pipe: IO[bytes] = self._shell.stdin  # type: ignore[assignment]
            with suppress(OSError, ValueError):
                pipe.write(" ".join(line.split()).encode() + b"\n")
                pipe.flush()

    def take_back(self) -> None:
        """Cancel the message and the removal; may be called twice."""
        atexit.unregister(self.take_back)
        self.replace(_NOTHING)
        if self._shell is not None:
            with suppress(OSError, subprocess.TimeoutExpired):
                self._shell.communicate(timeout=5)
            self._shell = None


class ProcessWatch:
    """Watches processes that a run depends on, in a separate thread.

    Args:
        vital: a description of each process, by its id.
        tree: all processes of the cluster, if it was started for this run; they are killed on a
            fault, so that Ray's calls return.
        notify: called with the message of a fault immediately.
        watches: whether to start the thread; if not, call ``look``.
    """

    def __init__(
        self,
        vital: Mapping[int, str],
        tree: ProcessTree | None = None,
        *,
        notify: Callable[[str], None] = lambda _: None,
        watches: bool = True,
    ) -> None:
        self._vital = vital
        self._notify = notify
        self.tree = tree or ProcessTree(())
        self._stopped_since: dict[int, float] = {}
        self._fault: str | None = None
        self._is_raised = threading.Event()
        self._is_over = threading.Event()
        if vital and watches:
            threading.Thread(target=self._watch, name="simfl-watch", daemon=True).start()

    def require_all(self) -> None:
        """Raise ClusterError if one has died or has been stopped for too long."""
        if self._fault is not None:
            self._is_raised.set()
            raise ClusterError(self._fault)

    def is_well(self) -> bool:
        """Return whether all of them are running now, and no fault has been seen."""
        return self._fault is None and all(_state(pid) == "runs" for pid in self._vital)

    def stop(self) -> None:
        """Stop watching."""
        self._is_over.set()
        self._is_raised.set()

    def _watch(self) -> None:
        for number in itertools.count():
            if self._is_over.wait(LOOK_S):
                return
            if number % REFRESH == 0:
                self.tree.refresh()
            if fault := self.look(time.monotonic()):
                self._fault = fault
                self._notify(fault)
                break
        self.tree.kill()
        # The main thread never sees the fault if it is blocked in a call to Ray.
        if not self._is_raised.wait(_GRACE_S):
            os._exit(1)

    def look(self, now: float) -> str | None:
        """Return the fault that is seen at a time in seconds, or None."""
        for pid, what in self._vital.items():
            state = _state(pid)
            if state == "gone":
                return f"{what} (process {pid}) has died, so the run ends; {_RESUME}"
            if state == "runs":
                self._stopped_since.pop(pid, None)
            elif now - self._stopped_since.setdefault(pid, now) > STOPPED_S:
                return (
                    f"{what} (process {pid}) has been stopped for {STOPPED_S:.0f} s, but the run "
                    f"needs it; {_RESUME}"
                )
        return None


def vital_processes(addresses: Mapping[str, object]) -> dict[int, str]:
    """Return the raylet of this node, and the control service if it is here.

    Args:
        addresses: the session's, as returned by Ray.
    """
    raylet = f"--raylet_socket_name={addresses['raylet_socket_name']}"
    control_service = f"--session-dir={addresses['session_dir']}"
    found = {}
    for pid, arguments in _command_lines():
        if raylet in arguments and arguments[0].endswith("raylet"):
            found[pid] = "Ray's raylet"
        elif control_service in arguments and arguments[0].endswith("gcs_server"):
            found[pid] = "Ray's control service"
    return found


def gcs_addresses() -> set[str]:
    """Return the addresses of the clusters that raylets on this machine belong to."""
    key = "--gcs-address="
    return {
        argument.removeprefix(key)
        for _, arguments in _command_lines()
        if arguments[0].endswith("raylet")
        for argument in arguments
        if argument.startswith(key)
    }


class ProcessTree:
    """Processes with all their descendants, including those whose parent has died.

    Args:
        roots: their ids.
    """

    def __init__(self, roots: Collection[int]) -> None:
        self._roots = roots
        self._known: dict[int, str] = {}
        self.refresh()

    def refresh(self) -> None:
        """Add the processes that were started since the last call."""
        if not self._roots:
            return
        below, seen = _by_parent(), set[int]()
        left = [*self._roots, *self._known]
        while left:
            pid = left.pop()
            fields = None if pid in seen else _fields(pid)
            seen.add(pid)
            if fields is None:
                continue
            started = self._known.setdefault(pid, fields[_STARTED])
            if started == fields[_STARTED]:  # a pid may be reused
                left += below.get(pid, [])

    def kill(self) -> None:
        """Kill all of them that are left, including stopped ones."""
        self.refresh()
        for pid, started in self._known.items():
            fields = _fields(pid)
            if fields is not None and fields[_STARTED] == started:
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)


def cpus_of_this_machine() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def started_at(pid: int) -> str:
    """Return when a process was started, by the kernel's clock; "" if it does not run."""
    fields = _fields(pid)
    return "" if fields is None or fields[0] in "ZX" else fields[_STARTED]


def children() -> set[int]:
    """Return the processes that this one has started."""
    return set(_by_parent().get(os.getpid(), []))


def _by_parent() -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for pid in _process_ids():
        if (fields := _fields(pid)) is not None:
            found.setdefault(int(fields[_PARENT]), []).append(pid)
    return found


def _state(pid: int) -> str:
    fields = _fields(pid)
    if fields is None or fields[0] in "ZX":
        return "gone"
    return "stopped" if fields[0] in "Tt" else "runs"


def _fields(pid: int) -> list[str] | None:
    """Return the fields of a process from its state on; None if it does not exist.

    See https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html; the name before these fields may
    contain any character.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None


def _command_lines() -> Iterator[tuple[int, list[str]]]:
    for pid in _process_ids():
        try:
            yield pid, Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
        except OSError:  # the process has ended
            continue


def _process_ids() -> list[int]:
    with suppress(OSError):
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return []
