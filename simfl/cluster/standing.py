"""A cluster of one user on this machine that stays up between runs, and which runs join.

``start`` starts a process that owns the cluster, and writes its address into a file that only this
user can read. A run joins only if its actors would be the same as in a cluster of its own: the
same code, Python and environment. It starts its own otherwise.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Final

from simfl.cluster.processes import started_at
from simfl.errors import ClusterError, InputError

KEEPER: Final = "simfl.cluster.keeper"
"""The module of a process that owns a cluster."""
_END_S: Final = 20.0
_TURN_S: Final = 10.0
_OF_THE_TERMINAL: Final = (
    *("COLORTERM", "COLUMNS", "DBUS_", "DISPLAY", "GPG_", "HIST", "LINES", "LS_COLORS", "OLDPWD"),
    *("PS1", "PWD", "SHLVL", "SSH_", "STY", "TERM", "TMUX", "VTE_", "WINDOWID", "XDG_", "_"),
)
"""Prefixes of variables that differ between terminals, and that a run does not depend on."""

_SET_BY_LIBRARIES: Final = frozenset(
    {"KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK", "PYTHONBREAKPOINT", "RAY_CLIENT_MODE"}
)
"""Variables that scikit-learn and Ray set when they are imported or started."""


@dataclass(frozen=True)
class Standing:
    """A cluster that stays up."""

    address: str
    """``host:port``."""
    pid: int
    """Of the process that owns it."""
    started: str
    """When that process was started, by Linux's clock: another one may get its id."""
    code: str
    """Identifies Python, simfl, and what is installed beside it."""
    environment: dict[str, str] = field(repr=False)
    """The digest of each variable, by its name."""

    @property
    def is_up(self) -> bool:
        """Whether its process runs."""
        return self.started != "" and started_at(self.pid) == self.started

    def difference(self, environment: Mapping[str, str]) -> str | None:
        """Return what is not as it was when the cluster was started, or None.

        Args:
            environment: the digests of the variables of a run.
        """
        if self.code != code_of_this_process():
            return "another version of simfl, of Python or of the installed packages"
        names = self.environment.keys() | environment.keys()
        others = sorted(n for n in names if self.environment.get(n) != environment.get(n))
        return f"another value of {', '.join(others[:3])}" if others else None


def find() -> Standing | None:
    """Return this user's cluster, if it is up."""
    try:
        standing = Standing(**json.loads(_file().read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return standing if standing.is_up else None


def start() -> Standing:
    """Start a cluster, and return it once it is up.

    Raises:
        InputError: if there is one already, or the system is not Linux.
        ClusterError: if it cannot be started.
    """
    if sys.platform != "linux":
        raise InputError("'simfl up' is for Linux; elsewhere each run starts a cluster of its own")
    _require_none()
    keeper = subprocess.Popen(
        [sys.executable, "-P", "-m", KEEPER],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    )
    assert keeper.stdout is not None
    with keeper.stdout as said:
        fault = said.read().strip()  # until it closes its end
    standing = find()
    if fault or standing is None:
        keeper.wait()
        raise ClusterError(fault or "the cluster's process has ended while it was started")
    return standing


def stop() -> Standing:
    """End this user's cluster, and return it.

    Raises:
        InputError: if there is none.
    """
    standing = find()
    if standing is None:
        raise InputError("no cluster is up; 'simfl up' starts one")
    os.kill(standing.pid, signal.SIGTERM)
    until = time.monotonic() + _END_S
    while standing.is_up:
        if time.monotonic() > until:
            os.kill(standing.pid, signal.SIGKILL)
        time.sleep(0.05)
    return standing


def write(address: str, environment: dict[str, str]) -> None:
    """Write down that this process owns a cluster.

    Args:
        address: the cluster's.
        environment: the digests of the variables with which it was started.

    Raises:
        InputError: if another one has been written down meanwhile.
        ClusterError: if the file cannot be written.
    """
    _require_none()
    pid = os.getpid()
    standing = Standing(address, pid, started_at(pid), code_of_this_process(), environment)
    file = _file()
    unfinished = file.with_suffix(".unfinished")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished.touch(mode=0o600)
        unfinished.write_text(json.dumps(asdict(standing)), encoding="utf-8")
        unfinished.replace(file)
    except OSError as error:
        raise ClusterError(
            f"cannot write {file}, by which runs find the cluster: {error.strerror}; set "
            "XDG_CACHE_HOME to a folder that can be written to"
        ) from None


def take_turn() -> IO[bytes] | None:
    """Return an open file that no other run has until it is closed; None if one keeps it for long.

    A run has it from when it looks for free CPUs until its actors have taken them: two that start
    at once would each get some of them, and wait for the rest.
    """
    import fcntl  # not on Windows

    try:
        turn = _file().open("r+b")
    except OSError:  # the cluster has ended
        return None
    until = time.monotonic() + _TURN_S
    while True:
        with suppress(OSError):
            fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return turn
        if time.monotonic() > until:
            turn.close()
            return None
        time.sleep(0.05)


def _require_none() -> None:
    if (there := find()) is not None:
        raise InputError(f"a cluster is up already, at {there.address}; 'simfl down' ends it")


def forget() -> None:
    """Remove what ``write`` has written."""
    _file().unlink(missing_ok=True)


def code_of_this_process() -> str:
    """Return what identifies Python, simfl's files, and the installed packages."""
    package = Path(__file__).parents[1]
    times = [path.stat().st_mtime_ns for path in sorted(package.rglob("*.py"))]
    installed = [os.stat(sysconfig.get_path(kind)).st_mtime_ns for kind in ("purelib", "platlib")]
    return _digest([sys.executable, sys.version, str(package), times, installed])


def digests_of(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the digest of each variable that a run may depend on, by its name."""
    return {
        name: _digest(value)
        for name, value in environment.items()
        if not name.startswith(_OF_THE_TERMINAL) and name not in _SET_BY_LIBRARIES
    }


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _file() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    # Machines may share a home folder.
    return Path(cache, "simfl", f"cluster-{platform.node()}.json")
