"""The process that owns a cluster: ``python -m simfl.cluster.keeper [FOLDER]``.

Without a folder, the cluster stays up until SIGTERM; the process prints a line if it cannot be
started, and closes its stdout. With a folder, it is a run's, and its files are in there; the
process prints its address, and ends with the cluster when its stdin ends, as it does with the run.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

from simfl.cluster import forking, standing
from simfl.cluster.environment import (
    import_ray,
    own_environment,
    settings_of_own,
    started_with,
)
from simfl.cluster.processes import LOOK_S, ProcessTree, children, cpus_of_this_machine
from simfl.cluster.session import connect
from simfl.cluster.session_folder import SessionFolder
from simfl.errors import SimflError, one_line

# Ray would start workers for its first driver, which is this process, and wait for a dashboard.
_WITHOUT = {"RAY_prestart_worker_first_driver": "0", "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "0"}


def keep(folder: Path | None) -> None:
    """Start a cluster, and keep it until SIGTERM or, with a folder, until stdin ends."""
    environment = own_environment()
    if sys.platform == "linux" and "RAY_TMPDIR" not in os.environ:
        with settings_of_own(), started_with(_WITHOUT):
            server = forking.start_ahead()
            import_ray("local")
            if server.fork_agents():
                return
    own = None if folder is None else SessionFolder(folder)
    is_up = threading.Event()
    if own is not None:
        threading.Thread(target=_end_early, args=(is_up,), daemon=True).start()
    with ExitStack() as cleanup:
        try:
            with started_with(_WITHOUT):
                connection = connect(
                    address="local",
                    num_cpus=cpus_of_this_machine(),
                    dashboard=False,
                    forks=True,
                    folder=own,
                )
            cleanup.callback(connection.close)
            signal.signal(signal.SIGTERM, lambda *_: sys.exit())
            address = connection.ray.get_runtime_context().gcs_address
            if own is None:
                standing.write(address, environment)
                cleanup.callback(standing.forget)
            else:
                connection.watch.stop()  # the run watches Ray, and says what has died
                is_up.set()
                print(address, flush=True)
        except SimflError as error:
            if own is None:
                print(one_line(error), flush=True)
            sys.exit(1)
        cleanup.callback(signal.signal, signal.SIGTERM, signal.SIG_IGN)  # first of all
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        awaited = [] if own is None else [sys.stdin]
        while not select.select(awaited, [], [], LOOK_S)[0]:
            connection.watch.require_all()


def _end_early(is_up: threading.Event) -> None:
    """End at once if stdin ends before the cluster is up, since Ray would try for half a minute."""
    sys.stdin.buffer.read()
    if not is_up.is_set():
        ProcessTree(children()).kill()
        os._exit(1)


if __name__ == "__main__":
    keep(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
