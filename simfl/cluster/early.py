"""A cluster of one's own that is started while this process still imports torch.

Both take seconds, one of them mostly waiting. What is started here is Ray itself and no actor; if
the scenario turns out to be at fault, or to need another cluster, it ends again.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from typing import Any

from simfl.cluster.connect import Connection, connect
from simfl.cluster.pool import cpus_of_this_machine

__all__ = ["connect_with", "start_early"]

# What a new cluster is started with, and whether it is: other keys may be what they like.
_DECIDE = {"actors", "address", "dashboard", "num_cpus", "object_store_memory", "placement"}


class _Early:
    """Connects in a thread, which goes on to live: the kernel ends Ray's processes with it."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options
        self._connection: Connection | None = None
        self._error: BaseException | None = None
        self._is_there = threading.Event()
        threading.Thread(target=self._run, name="ray", daemon=True).start()

    def _run(self) -> None:
        try:
            self._connection = connect(**self.options)
        except BaseException as error:
            self._error = error
        self._is_there.set()
        threading.Event().wait()

    def join(self) -> Connection:
        """Return the connection, when it is there."""
        self._is_there.wait()
        if self._connection is None:
            assert self._error is not None
            raise self._error
        return self._connection


_early: _Early | None = None


def start_early(cluster: object, *, keeps_events: bool) -> None:
    """Start to connect, if the scenario's ``cluster`` section leaves no doubt with what.

    Args:
        cluster: as it was read, and not yet checked.
        keeps_events: as for ``connect``.
    """
    global _early
    if not isinstance(cluster, Mapping) or _DECIDE & cluster.keys():
        return
    # Elsewhere than on Linux, Ray's processes would outlive this one.
    if _early is None and sys.platform == "linux" and not os.environ.get("RAY_ADDRESS"):
        _early = _Early(usual_options(keeps_events=keeps_events))


def usual_options(*, keeps_events: bool) -> dict[str, Any]:
    """Return what a cluster of one's own is started with if nothing is said of it."""
    return {
        "address": None,
        "num_cpus": cpus_of_this_machine(),
        "dashboard": False,
        "object_store_memory": None,
        "keeps_events": keeps_events,
    }


def connect_with(**options: Any) -> Connection:
    """Connect, or take what was started early; arguments and errors as of ``connect``."""
    global _early
    early, _early = _early, None
    if early is None:
        return connect(**options)
    connection = early.join()
    # There is no dashboard that would show the job's metadata.
    if early.options == {key: value for key, value in options.items() if key != "metadata"}:
        return connection
    connection.close()
    return connect(**options)
