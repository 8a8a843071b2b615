"""Forks Ray's workers from a process that has imported torch already; a script in two roles.

``fork_server.py`` is the server: it imports what actors need, and then forks a worker for each
request. ``fork_server.py SOCKET PYTHON WORKER ...`` is what Ray starts instead of ``PYTHON WORKER
...``: it requests a worker, and ends. If it gets none, it becomes the worker itself.

The server does not import Ray, which reads its settings at import, among them each worker's own.
Only the standard library is imported at the top, since Ray starts the script for each worker.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

_MODULES: Final = (
    *("torch", "simfl.checkpoint", "simfl.client", "simfl.data", "simfl.engine", "simfl.plugins"),
    *("simfl.server", "simfl.states"),
    # What Ray imports; each version of it something else.
    *("asyncio", "colorama", "filelock", "google.protobuf.descriptor_pb2", "jsonschema", "msgpack"),
    *("packaging.version", "pdb", "psutil", "pyarrow.json", "requests", "ssl", "yaml"),
)

_READ_AT_START: Final = (
    *("GLIBC_", "GOMP_", "KMP_", "LD_", "MALLOC_", "MKL_", "OMP_", "OPENBLAS_", "PYTHON"),
    *("TORCH_", "TZ"),
)
"""Prefixes of variables that Python and libraries read only when they are loaded."""

_SET_BY_LIBRARIES: Final = {"KMP_DUPLICATE_LIB_OK": "True", "KMP_INIT_AT_FORK": "FALSE"}
"""What scikit-learn sets when it is imported, as a driver may do after this process was started."""

_M_ARENA_MAX: Final = -8
"""See https://man7.org/linux/man-pages/man3/mallopt.3.html."""

_STANDARD: Final = 3
"""How many of a process's descriptors are its standard streams."""


def request(path: str) -> bool:
    """Request a worker with this process's arguments, environment and streams.

    Args:
        path: the server's socket.

    Returns:
        Whether the server has forked it.
    """
    worker = {"arguments": sys.argv[3:], "environment": dict(os.environ), "folder": os.getcwd()}
    with suppress(OSError), socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        socket.send_fds(server, [b"{"], list(range(_STANDARD)))
        server.sendall(json.dumps(worker).encode()[1:])
        server.shutdown(socket.SHUT_WR)
        return server.recv(1) == b"+" and not server.recv(1)
    return False


def serve(control: socket.socket, *, holds: bool = False) -> None:
    """Fork a process for each request, until the other end of ``control`` is closed.

    Args:
        control: over which the socket to listen on is sent.
        holds: whether a process and the one that has requested it are to end together.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # workers are not waited for
    listener = socket.socket(fileno=socket.recv_fds(control, 1, 1)[1][0])
    while control not in select.select([listener, control], [], [])[0]:
        client, _ = listener.accept()
        worker, streams = _receive(client)
        if worker is not None and _starts_alike(worker["environment"]):
            if os.fork() == 0:
                for each in (listener, control) if holds else (client, listener, control):
                    each.close()
                if holds:
                    threading.Thread(target=_end_with, args=(client,), daemon=True).start()
                _become(worker, streams)
                return
            client.sendall(b"+")
        client.close()
        for descriptor in streams:
            os.close(descriptor)


def _share_arenas() -> None:
    """Have malloc share what threads have freed among all of them; here, and in what is forked.

    With one arena for the main thread and another for all others, both are fast.
    """
    with suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


def import_all(names: Sequence[str], *, freezes: bool = False) -> None:
    """Import modules, as far as they are installed.

    Args:
        names: the modules'.
        freezes: whether forks are to share the objects, which are never collected then.
    """
    gc.disable()
    for name in names:
        with suppress(ImportError):
            importlib.import_module(name)
    if freezes:
        gc.collect()
        gc.freeze()  # so that a fork's collections do not write to what all share
    else:
        gc.enable()


def _receive(client: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """Return a requested worker, None if the request is incomplete, and its streams."""
    data, streams, _, _ = socket.recv_fds(client, 1, _STANDARD)
    while block := client.recv(1 << 16):
        data += block
    try:
        return (json.loads(data) if len(streams) == _STANDARD else None), streams
    except ValueError:
        return None, streams


def _starts_alike(environment: dict[str, str]) -> bool:
    """Return whether a process with this environment would have been loaded as this one was."""

    def read_at_start(variables: Any) -> dict[str, str]:
        # Ray would set this before torch is imported: to an actor's CPUs, or to 1 if it has less.
        variables = {"OMP_NUM_THREADS": "1", **_SET_BY_LIBRARIES, **variables}
        return {name: variables[name] for name in variables if name.startswith(_READ_AT_START)}

    return read_at_start(environment) == read_at_start(os.environ)


def _end_with(client: socket.socket) -> None:
    """End this process once the one at the other end has: Ray kills that one, and not this.

    An agent that only sees that the raylet has ended looks for the raylet's log, which may be
    removed already, and then tries for a minute to report that.
    """
    hung_up = select.poll()
    hung_up.register(client, 0)
    hung_up.poll()
    os._exit(0)


def _become(worker: dict[str, Any], streams: list[int]) -> None:
    """Make this process the worker."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setpgid(0, 0)
    for target, descriptor in enumerate(streams):
        os.dup2(descriptor, target)
        os.close(descriptor)
    os.chdir(worker["folder"])
    os.environ.clear()
    os.environ.update(worker["environment"])
    sys.argv = worker["arguments"]
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    gc.enable()
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        _share_arenas()
        import_all(_MODULES, freezes=True)
        serve(socket.socket(fileno=os.dup(0)))
    elif not request(sys.argv[1]):
        os.execv(sys.argv[2], sys.argv[2:])
