"""Starting Ray so that its workers are forked from a process that has imported torch already.

Importing torch and simfl takes each of a run's actors over a second of the CPU, and 140 MB of its
own memory. A fork takes some milliseconds, and shares them.
"""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
{omitted}
exec {python} "$@"
"""

# A run on one machine has no use for them. Each takes half a second of the CPU, and Ray waits for
# the first one, the dashboard's server, even without a dashboard.
_OMITTED: Final = """
case "$1:$2" in
*/dashboard/dashboard.py:* | *:*/_private/monitor.py | *:*/_private/log_monitor.py) exit ;;
esac
"""


class ForkServer:
    """A process that imports what actors need, and then forks Ray's workers.

    It ends when this process does.

    Args:
        is_bare: whether Ray is to do without its dashboard's server, autoscaler and log monitor.
    """

    def __init__(self, *, is_bare: bool = False) -> None:
        self._omitted = _OMITTED if is_bare else ""
        self._control, its_end = socket.socketpair()
        with its_end:
            self._process = subprocess.Popen(
                [sys.executable, "-P", _SCRIPT],
                stdin=its_end.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={"OMP_NUM_THREADS": "1", **HUGE_PAGES, **os.environ},
                start_new_session=True,  # Ctrl-C is for the driver
            )

    @contextmanager
    def python(self, folder: Path) -> Iterator[None]:
        """Have Ray, started in this context, request its workers here.

        Ray starts all of its processes with ``sys.executable``, which is a script meanwhile. Where
        that changes, or files in the folder cannot be executed, workers are started as usual.

        Args:
            folder: a private one, for the script and a socket.
        """
        path, script = folder / "fork", folder / "python"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen(64)
            try:
                socket.send_fds(self._control, [b"."], [listener.fileno()])
            except OSError:  # it has died
                yield
                return
        words = {"python": sys.executable, "script": _SCRIPT, "socket": str(path)}
        quoted = {key: shlex.quote(word) for key, word in words.items()}
        script.write_text(_PYTHON.format(**quoted, omitted=self._omitted))
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
        self._control.close()
        self._process.kill()
        self._process.wait()


_ahead: ForkServer | None = None


def start_ahead() -> None:
    """Start a server for the next cluster that this process starts, which has no dashboard."""
    global _ahead
    if sys.platform == "linux" and "RAY_TMPDIR" not in os.environ:
        _ahead = ForkServer(is_bare=True)


def take() -> ForkServer:
    """Return the server that was started ahead, or else a new one."""
    global _ahead
    server, _ahead = _ahead, None
    return server or ForkServer()
