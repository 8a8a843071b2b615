"""Starting Ray so that its workers are forked from a process that has imported torch already.

Importing torch and simfl takes each of a run's actors over a second of the CPU, and 140 MB of its
own memory. A fork takes some milliseconds, and shares them.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from simfl.cluster import fork_server

# glibc returns the memory of a large tensor to the kernel as soon as it is freed, and the next one
# causes a page fault per 4 KiB: 30 ms for 100 MB, whose addition takes 5 ms. With pages of 2 MiB it
# takes a few ms. Ignored where the kernel or the C library does not support it:
# https://www.gnu.org/software/libc/manual/html_node/Memory-Allocation-Tunables.html
HUGE_PAGES: Final = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}

_SCRIPT: Final = str(Path(fork_server.__file__).resolve())

# Ray starts workers by `PYTHON .../default_worker.py ...`, and its other processes likewise.
_PYTHON: Final = """#!/bin/sh
case "$1" in
*/default_worker.py) exec {python} -I -S {script} {socket} {python} "$@" ;;
esac
{bare}
exec {python} "$@"
"""

# A run on one machine has no use for the dashboard's server, the autoscaler and the log monitor,
# each of which takes half a second of the CPU. The raylet waits for its two agents. They are forked
# if they learn by a pipe that it has ended: it is not their parent then.
_BARE: Final = """
case "$RAY_enable_pipe_based_agent_to_parent_health_check:$1:$2" in
*/dashboard/dashboard.py:* | *:*/_private/monitor.py | *:*/_private/log_monitor.py) exit ;;
1:-u:*/dashboard/agent.py | 1:-u:*/runtime_env/agent/main.py)
    shift
    exec {python} -I -S {script} {socket}-agents {python} "$@" ;;
esac
"""

_LIBRARIES: Final = ("aiohttp.web", "grpc.aio", "opentelemetry.exporter.prometheus", "pydantic")
"""What both Ray's agents and who starts a cluster import."""
_MODULES: Final = "ray.dashboard.modules"
"""A package, of which an agent imports all modules."""
_WATCHES_A_PIPE: Final = {"RAY_enable_pipe_based_agent_to_parent_health_check": "1"}
"""As agents have it, whose modules read it when they are imported."""


class ForkServer:
    """A process that imports what actors need, and then forks Ray's workers.

    It ends when this process does.

    Args:
        is_bare: whether Ray is to do without its dashboard's server, autoscaler and log monitor.
    """

    def __init__(self, *, is_bare: bool = False) -> None:
        self._bare = _BARE if is_bare else ""
        self._control, its_end = socket.socketpair()
        self._of_agents: socket.socket | None = None
        with its_end:
            self._process = subprocess.Popen(
                [sys.executable, "-P", _SCRIPT],
                stdin=its_end.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={"OMP_NUM_THREADS": "1", **HUGE_PAGES, **os.environ},
                start_new_session=True,  # Ctrl-C is for the driver
            )

    def fork_agents(self) -> bool:
        """Fork this process, which has imported Ray, so that Ray's agents are forked from there.

        If it has several threads, agents are started as usual.

        Returns:
            True in the forked processes, which are to end then.
        """
        fork_server.import_all(_LIBRARIES)
        if len(os.listdir("/proc/self/task")) > 1:
            return False
        self._of_agents, its_end = socket.socketpair()
        with its_end:
            if os.fork():
                return False
            self._of_agents.close()
            self._control.close()
            nothing = os.open(os.devnull, os.O_RDWR)
            for stream in range(3):
                os.dup2(nothing, stream)
            os.environ.update(_WATCHES_A_PIPE)
            fork_server.import_all(["ray.dashboard.agent", *_modules_of_agents()], freezes=True)
            fork_server.serve(its_end, holds=True)
            return True

    @contextmanager
    def python(self, folder: Path) -> Iterator[None]:
        """Have Ray, started in this context, request its workers here.

        Ray starts all of its processes with ``sys.executable``, which is a script meanwhile. Where
        that changes, or files in the folder cannot be executed, workers are started as usual.

        Args:
            folder: a private one, for the script and a socket.
        """
        path, script = folder / "fork", folder / "python"
        try:
            _send(self._control, path)
            if self._of_agents is not None:
                _send(self._of_agents, folder / "fork-agents")
        except OSError:  # it has died
            yield
            return
        words = {"python": sys.executable, "script": _SCRIPT, "socket": str(path)}
        quoted = {key: shlex.quote(word) for key, word in words.items()}
        bare = self._bare.format(**quoted)
        script.write_text(_PYTHON.format(**quoted, bare=bare))
        script.chmod(0o700)
        python = sys.executable
        if os.access(script, os.X_OK):
            sys.executable = str(script)
        try:
            yield
        finally:
            sys.executable = python

    def stop(self) -> None:
        """End it; its workers go on."""
        for control in filter(None, (self._control, self._of_agents)):
            control.close()
        self._process.kill()
        self._process.wait()


def _modules_of_agents() -> list[str]:
    with suppress(ImportError):
        path = importlib.import_module(_MODULES).__path__
        return [module.name for module in pkgutil.walk_packages(path, f"{_MODULES}.")]
    return []


def _send(control: socket.socket, path: Path) -> None:
    """Send a process the socket at which it is to wait for requests."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(64)
        socket.send_fds(control, [b"."], [listener.fileno()])


_ahead: ForkServer | None = None


def start_ahead() -> ForkServer:
    """Start a server for the next cluster that this process starts, which has no dashboard."""
    global _ahead
    _ahead = ForkServer(is_bare=True)
    return _ahead


def take() -> ForkServer:
    """Return the server that was started ahead, or else a new one."""
    global _ahead
    server, _ahead = _ahead, None
    return server or ForkServer()
