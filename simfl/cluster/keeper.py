"""The process that owns a cluster which stays up: ``python -m simfl.cluster.keeper``.

It prints a line if the cluster cannot be started, closes its stdout, and ends with the cluster at
SIGTERM.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from simfl.cluster import standing
from simfl.cluster.processes import LOOK_S, cpus_of_this_machine
from simfl.cluster.session import connect, own_environment
from simfl.errors import SimflError, one_line


def keep() -> None:
    """Start a cluster, and keep it until SIGTERM."""
    cpus = cpus_of_this_machine()
    environment = own_environment()
    try:
        connection = connect(address="local", num_cpus=cpus, dashboard=False, forks=True)
    except SimflError as error:
        print(one_line(error), flush=True)
        sys.exit(1)
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    standing.write(connection.ray.get_runtime_context().gcs_address, environment)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    try:
        while not ended:
            time.sleep(LOOK_S)  # a signal ends it early
            connection.watch.require_all()
    finally:
        standing.forget()
        connection.close()


if __name__ == "__main__":
    keep()
