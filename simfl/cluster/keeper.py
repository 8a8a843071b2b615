"""The process that owns a cluster which stays up: ``python -m simfl.cluster.keeper``.

It prints a line if the cluster cannot be started, closes its stdout, and ends with the cluster at
SIGTERM.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import ExitStack

from simfl.cluster import standing
from simfl.cluster.processes import LOOK_S, cpus_of_this_machine
from simfl.cluster.session import connect, own_environment
from simfl.errors import SimflError, one_line


def keep() -> None:
    """Start a cluster, and keep it until SIGTERM."""
    environment = own_environment()
    ended: list[int] = []
    with ExitStack() as cleanup:
        try:
            connection = connect(
                address="local", num_cpus=cpus_of_this_machine(), dashboard=False, forks=True
            )
            cleanup.callback(connection.close)
            signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
            standing.write(connection.ray.get_runtime_context().gcs_address, environment)
        except SimflError as error:
            print(one_line(error), flush=True)
            sys.exit(1)
        cleanup.callback(standing.forget)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        while not ended:
            time.sleep(LOOK_S)  # a signal ends it early
            connection.watch.require_all()


if __name__ == "__main__":
    keep()
